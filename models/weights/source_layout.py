"""Say how a checkpoint of other code is named, and how its keys become ours.

A layout is a readable key map, written by hand for each family beside its model
(``source_keys.py``). `gopstream.models.weights.loading` applies it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

Adapt = Callable[[str, Tensor, torch.Size], tuple[Tensor, str] | None]
"""(our key, source tensor, wanted shape) -> (tensor of that shape, what was done) or None.

Called only where the shapes differ. What was done is a phrase that begins with "inflated" or
"resized", such as "inflated 2D -> 2 frames". None says that it cannot be done. It also meets
tensors of the meta device, which have a shape and no values.
"""


IMAGE_HEAD: Final = (r"head\..*", "its classes are those of images")
"""For `ignored`: a classifier of images, even of as many classes, is never one of videos."""
NO_IMAGE_HEAD: Final = (
    r"head\.(weight|bias)",
    "the classifier of an image model does not fit clips",
)
"""For `left_random`: our head, which is drawn anew with the weights of an image model."""


class Merge(NamedTuple):
    """Several source tensors that are one of ours, put below each other along dimension 0."""

    parts: tuple[str, ...]
    """Regexes of whole source keys, in the order of the rows; each captures the same groups."""
    target: str
    """Our key, with ``\\1`` for the groups."""


class Split(NamedTuple):
    """One source tensor that is several of ours: whole, or each an equal share of its rows."""

    source: str
    """Regex of a whole source key."""
    shares: tuple[tuple[str, ...], ...]
    """For each share, in the order of the rows, our keys with ``\\1`` for groups. Those that
    the model does not have are passed over."""
    otherwise: str
    """Why a share is not needed if the model has none of its keys."""


class SourceLayout(NamedTuple):
    """The names in one kind of checkpoint. All regexes must match a whole key."""

    name: str
    """Whose layout it is, as a report says it: "authors of PST", "torchvision swin_t"."""
    marks: tuple[str, ...]
    """Regexes of source keys; the layout is recognised if each matches some key."""
    renames: tuple[tuple[str, str], ...]
    """(regex of a source key, our key with ``\\1`` for groups); the first match wins."""
    ignored: tuple[tuple[str, str], ...] = ()
    """(regex of a source key, why it is not needed); they win over `renames`."""
    where_wanted: tuple[tuple[str, str], ...] = ()
    """(regex of a source key, our key): one more place of the key, in models that have it. The
    other rules say what becomes of the key beside that; those of `ignored` then do not count."""
    left_random: tuple[tuple[str, str], ...] = ()
    """(regex of one of our keys, why this source does not have it)."""
    adapt: Adapt | None = None
    """Makes a tensor of another shape fit; None where nothing may."""
    merges: tuple[Merge, ...] = ()
    """Tried before `renames`."""
    splits: tuple[Split, ...] = ()
    """Tried before `renames`."""
    head: str = r"head\.(weight|bias)"
    """Regex of our keys with a row for each class: a source of other classes leaves them random."""
    caution: Callable[[nn.Module], str | None] | None = None
    """(model that was given the weights) -> what it does with them that their own model does
    not; None where it does the same."""


def recognise_layout(layouts: Sequence[SourceLayout], keys: Iterable[str]) -> SourceLayout:
    """Return the first layout of which every mark matches one of the source keys.

    Args:
        layouts: The most particular first: where one's marks are among another's, it is later.
        keys: Of the checkpoint.

    Raises:
        ValueError: If there is none; the message has the layouts and some of the keys.
    """
    keys = list(keys)
    for layout in layouts:
        if all(any(re.fullmatch(mark, key) for key in keys) for mark in layout.marks):
            return layout
    known = ", ".join(layout.name for layout in layouts) or "none"
    raise ValueError(
        f"the weights have names of no known layout; known for this model: {known}; "
        f"the first keys are {sorted(keys)[:5]}"
    )
