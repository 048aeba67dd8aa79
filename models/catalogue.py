"""Every model that can be made by name, and what it needs to be fed."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from torch import nn

from gopstream.models.dvt import dvt_tiny


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """What a model made with its default options wants to be given."""

    planes: tuple[Literal["frames", "motion"], ...]
    """Inputs of `forward`; "motion" may be left out and then counts as no motion."""
    num_frames: int
    """Sampled frames of a clip."""
    frame_stride: int
    """Raw frames from one sampled frame to the next."""
    size: int
    """Height and width of the frames in pixels."""
    mean: tuple[float, float, float]
    """RGB, on the scale where white is 1; ``(pixel - mean) / std`` enters `forward`."""
    std: tuple[float, float, float]
    """RGB, on the same scale."""
    query_stride: int | None
    """Token frame q is centred on sampled frame ``q * query_stride``; None without motion."""
    subclip_frames: int | None
    """J, sampled frames whose motion a token frame is given; None without motion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """Where a model comes from."""

    title: str
    year: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model of the catalogue."""

    name: str
    constructor: Callable[..., nn.Module] = field(repr=False)
    """Takes the number of classes, then keyword options."""
    contract: InputContract
    paper: Paper
    notes: str


_DVT_PAPER: Final = Paper(title="Deformable Video Transformer", year=2022)

MODELS: Final[Mapping[str, CatalogueEntry]] = {
    "dvt_tiny": CatalogueEntry(
        name="dvt_tiny",
        constructor=dvt_tiny,
        contract=InputContract(
            planes=("frames", "motion"),
            num_frames=8,
            frame_stride=2,
            size=32,
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
            query_stride=2,
            subclip_frames=4,
        ),
        paper=_DVT_PAPER,
        notes="D-ST-A in two blocks of width 48 and 96, for tests and the demo; not in the paper",
    ),
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows, sorted."""
    return sorted(MODELS)


def find_model(name: str) -> CatalogueEntry:
    """Look a model up.

    Raises:
        ValueError: If there is none of that name; the message has the nearest one.
    """
    if name not in MODELS:
        raise ValueError(
            f"no model is called {name!r}{_nearest(name, list_models())}; "
            f"known models: {', '.join(list_models())}"
        )
    return MODELS[name]


def create_model(
    name: str, *, num_classes: int, num_frames: int | None = None, **options: object
) -> nn.Module:
    """Make a model with fresh weights, drawn from torch's global generator.

    With options that change the input (`num_frames`, `size`, `subclip_tokens`), the
    catalogue's contract no longer tells what the model takes; its own attributes do.

    Args:
        name: One of `list_models`.
        num_classes: Outputs.
        num_frames: Sampled frames of a clip; None for the catalogue's.
        **options: Arguments of the model's constructor, such as the paper's ablations.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: If the name, an option or an option's value is wrong.
    """
    entry = find_model(name)
    if num_frames is not None:
        options["num_frames"] = num_frames
    parameters = inspect.signature(entry.constructor).parameters
    accepted = [key for key in parameters if key != "num_classes"]
    for option in options:
        if option not in accepted:
            raise ValueError(
                f"{name} has no option {option!r}{_nearest(option, accepted)}; "
                f"its options: {', '.join(accepted)}"
            )
    return entry.constructor(num_classes, **options)


def _nearest(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
