"""Recipes: a training run as a TOML file, turned into checked values once.

Below this module only plain arguments travel.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gopstream.jobs.errors import UserError
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.loading.transform_spec import TransformSpec


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
    """How frames are chosen, as ``gopstream.shards.loading.sampling`` names it."""
    overrun: str = "last"
    """What a dense clip takes that is longer than its video."""
    view_rule: str = "centred"
    """Where several test clips begin."""
    motion_on: str = "worker"
    """Where motion is accumulated: in the ``worker`` that reads, or on the ``device``."""
    frames_on: str = "worker"
    """Where frames are decoded, likewise."""


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """What the dataset must be; what is left out may be anything.

    Strides of the clip count stored frames, and crops are shares of stored pictures: a dataset
    that was stored otherwise trains another model.
    """

    fps: float | None = None
    """Stored frames per second, as ``gopstream shard --fps``."""
    short_side: int | None = None
    """Upper limit of the stored frames' shorter side in pixels."""
    frame_stride: int | None = None
    """Every n-th frame is stored; 1 for all of them."""
    planes: tuple[str, ...] | None = None
    """Planes that must be there, beside those that the model needs anyway."""
    mode: str | None = None
    """``canonical`` or ``native``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.mode not in (None, "canonical", "native"):
            raise ValueError(f"mode must be canonical or native, got {self.mode!r}")
        for name in ("fps", "short_side", "frame_stride"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value:g}")
        if self.fps is not None and (self.frame_stride or 1) > 1:
            raise ValueError("frames are stored either by fps or by a frame_stride; choose one")


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
    on_error: Literal["raise", "skip"] = "raise"
    """What becomes of clips whose bytes are damaged or missing."""
    shuffle: Literal["global", "windows"] = "global"
    """``windows`` mixes within windows of shards, for datasets in object storage."""
    window_shards: int = 16
    """Shards in a window."""
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
    transform: TransformSpec = field(default_factory=TransformSpec)
    data: DataRecipe = field(default_factory=DataRecipe)


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
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _is_required(item: Any) -> bool:  # noqa: ANN401 - dataclasses.Field is generic in nothing useful
    from dataclasses import MISSING

    return item.default is MISSING and item.default_factory is MISSING


def _check(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - checks what is not typed yet
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a section, got {value!r}")
        return _build(kind, value, where)
    if isinstance(kind, UnionType):  # with None, which a recipe leaves out and a run's file has
        return None if value is None else _check(get_args(kind)[0], value, where)
    if get_origin(kind) is Literal:
        words = [str(word) for word in get_args(kind)]
        if _check(str, value, where) not in words:
            raise UserError(f"{where}: got {value!r}{_nearest(value, words)}")
        return value
    if get_origin(kind) is tuple:
        return _check_tuple(get_args(kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if kind == dict[str, Any] else kind
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise UserError(f"{where}: expected {plain.__name__}, got {value!r}")
    return value


def _check_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    any_number = kinds[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or not (any_number or len(value) == len(kinds)):
        count = "values" if any_number else f"{len(kinds)} values"
        raise UserError(f"{where}: expected {count} in brackets, got {value!r}")
    of_each = kinds[:1] * len(value) if any_number else kinds
    return tuple(_check(kind, part, where) for kind, part in zip(of_each, value, strict=True))


def _nearest(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known, cutoff=0.6) or f"; there is {', '.join(known)}"
