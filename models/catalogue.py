"""Every model that can be made by name: looking it up, and making it."""

import difflib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from torch import nn

from gopstream.models.catalogue_entry import CatalogueEntry, InputContract, Paper
from gopstream.models.catalogue_models import MODELS
from gopstream.models.weights.loading import load_weights

__all__ = [
    "MODELS",
    "CatalogueEntry",
    "InputContract",
    "Paper",
    "create_model",
    "find_model",
    "list_models",
]

_LOGGER: Final = logging.getLogger("gopstream.models")


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
    name: str,
    *,
    num_classes: int,
    num_frames: int | None = None,
    weights: Path | str | None = None,
    **options: object,
) -> nn.Module:
    """Make a model with fresh weights, drawn from torch's global generator, or with given ones.

    With options that change the input (`num_frames`, `size`, `subclip_tokens`), the
    catalogue's contract no longer tells what the model takes; its own attributes do.

    Args:
        name: One of `list_models`.
        num_classes: Outputs.
        num_frames: Sampled frames of a clip; None for the catalogue's.
        weights: A file of weights of the same model, or of others under names that the
            catalogue's layouts know; each key must be accounted for. None for fresh weights.
            `load_weights` does the same and returns a report of where each weight went; here
            its cautions are warnings, and the logger ``gopstream.models`` has it as information.
        **options: Arguments of the model's constructor, such as the paper's ablations.

    Returns:
        The model, in training mode.

    Raises:
        TypeError: If a number or a yes or no is given as something else.
        ValueError: If the name, an option or an option's value is wrong, or the weights do
            not fit.
    """
    entry = find_model(name)
    if num_frames is not None:
        options["num_frames"] = num_frames
    for option in options:
        if option not in entry.options:
            raise ValueError(
                f"{name} has no option {option!r}{_nearest(option, entry.options)}; "
                f"its options: {', '.join(entry.options)}"
            )
    _check_kinds(entry, {"num_classes": num_classes, **options})
    model = entry.constructor(num_classes, **options)
    if weights is not None:
        report = load_weights(model, weights, layouts=entry.layouts)
        _LOGGER.info("%s: %s", weights, report.summary())
        for caution in report.cautions:
            warnings.warn(f"{weights} in {name}: {caution}", stacklevel=2)
    return model


def _check_kinds(entry: CatalogueEntry, options: Mapping[str, object]) -> None:
    """Refuse what is no number where there is one by default, and likewise for yes and no."""
    defaults = {name: one.default for name, one in entry.parameters.items()}
    for option, value in options.items():
        default = 1 if option == "num_classes" else defaults[option]
        if isinstance(default, bool) and not isinstance(value, bool):
            raise TypeError(f"{option} must be True or False, got {value!r}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if type(default) is float and not is_number:
            raise TypeError(f"{option} must be a number, got {value!r}")
        if type(default) is int and (isinstance(value, (str, bool, float)) or value is None):
            raise TypeError(f"{option} must be a whole number, got {value!r}")


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
