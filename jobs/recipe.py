"""Recipes: a training run as a TOML file, turned into checked values once.

Below this module only plain arguments travel.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from gopstream.jobs.errors import UserError


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """Which network."""

    name: str
    """As ``gopstream models`` lists it."""
    use_motion: bool = True
    """Whether a model that takes motion is given it; False is a control."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further constructor arguments."""


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """What a training clip is."""

    num_frames: int
    stride: int = 1
    """Between frames of a dense clip, in stored frames."""
    sampling: str = "dense"
    """``dense``, ``segment`` or ``still``."""
    size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the frame's area."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Range of the crop's width over height."""
    flip: float = 0.0
    """Probability of mirroring."""


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """How it is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    """Not applied to biases, norms and other vectors."""
    warmup_steps: int = 0
    final_rate: float = 0.01
    """Share of the learning rate at the end of the cosine."""
    clip_norm: float = 1.0
    """Upper limit of the gradient's norm; 0 is none."""
    label_smoothing: float = 0.0
    seed: int = 0
    split: str = "train"
    labels: str = ""
    """Name of other labels, made by ``gopstream relabel``; empty takes the dataset's own."""
    workers: int = 0
    """Processes that load; 0 loads in the training process."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is always one at the end."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run."""

    model: ModelRecipe
    clip: ClipRecipe
    train: TrainRecipe


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = files("gopstream.jobs") / "recipes"
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply ``section.key=value`` overrides.

    Raises:
        UserError: If there is none, or it has an unknown key or a value of another type; names
            the nearest that exists.
    """
    if name in list_recipes():
        text = (files("gopstream.jobs") / "recipes" / f"{name}.toml").read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise UserError(f"no recipe {name!r}{_nearest(name, list_recipes())}; or give a file")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not valid TOML: {error}") from error
    for override in overrides:
        _override(content, override)
    return recipe_from(content, where=name)


def recipe_from(content: Mapping[str, Any], *, where: str) -> Recipe:
    """Check a recipe's content.

    Args:
        content: Sections and keys.
        where: What to call the recipe in errors.

    Raises:
        UserError: As :func:`load_recipe`.
    """
    recipe = _build(Recipe, content, where)
    assert isinstance(recipe, Recipe)
    return recipe


def _override(content: dict[str, Any], override: str) -> None:
    """Set one key; the value is TOML, or a word."""
    name, equals, value = override.partition("=")
    parts = name.split(".")
    if not equals or len(parts) < 2:
        raise UserError(f"expected section.key=value, such as train.steps=100, got {override!r}")
    section = content
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"{override!r}: {part} is not a section")
    try:
        section[parts[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        section[parts[-1]] = value


def _build(kind: type, content: Mapping[str, Any], where: str) -> object:
    """Make a dataclass from a section, checking names and types."""
    known = {item.name: item for item in fields(kind)}
    hints = get_type_hints(kind)
    for name in content:
        if name not in known:
            raise UserError(f"{where}: unknown key {name!r}{_nearest(name, list(known))}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name in content:
            values[name] = _check(hints[name], content[name], f"{where}: {name}")
        elif _is_required(item):
            raise UserError(f"{where}: {name} is missing")
    return kind(**values)


def _is_required(item: Any) -> bool:  # noqa: ANN401 - dataclasses.Field is generic in nothing useful
    from dataclasses import MISSING

    return item.default is MISSING and item.default_factory is MISSING


def _check(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - checks what is not typed yet
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section, got {value!r}")
        return _build(kind, value, where)
    if kind == tuple[float, float]:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return tuple(_check(float, part, where) for part in value)
        raise UserError(f"{where}: expected two numbers such as [0.5, 1.0], got {value!r}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if kind == dict[str, Any] else kind
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise UserError(f"{where}: expected {plain.__name__}, got {value!r}")
    return value


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {listed}"
