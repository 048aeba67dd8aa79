"""Recipes: a training run as a TOML file, turned into checked values once.

Below the jobs only plain arguments travel.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe_sections import (
    ClipRecipe,
    DataRecipe,
    EvaluationRecipe,
    ModelRecipe,
    OptimiserRecipe,
    PaperRecipe,
    ScheduleRecipe,
    TrainRecipe,
)
from gopstream.models.catalogue import find_model
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.loading.batch_ops import MixSpec
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.transform_spec import TransformSpec

_INSTEAD: Final = {
    "train.steps": "epochs",
    "train.epochs": "steps",
    "schedule.warmup_steps": "warmup_epochs",
    "schedule.warmup_epochs": "warmup_steps",
}
"""Keys of which an override takes the other's place, since a recipe has one of the two."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run."""

    model: ModelRecipe
    clip: ClipRecipe
    train: TrainRecipe
    transform: TransformSpec = field(default_factory=TransformSpec)
    mix: MixSpec = field(default_factory=MixSpec)
    """Mixup, CutMix and label smoothing, on the device."""
    data: DataRecipe = field(default_factory=DataRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    test: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    paper: PaperRecipe | None = None


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
    _check_together(recipe, where)
    return recipe


def _check_together(recipe: Recipe, where: str) -> None:
    """Refuse sections that do not go together.

    Raises:
        UserError: Naming the section or the model.
    """
    settings = asdict(recipe.clip)
    del settings["motion_on"]  # of the motion, which the network asks for
    try:
        ClipSpec(transform=recipe.transform, **settings)
    except ValueError as error:
        raise UserError(f"{where}: clip: {error}") from error
    if recipe.schedule.kind == "steps" and not recipe.train.epochs:
        raise UserError(f"{where}: schedule: milestones count epochs; give train.epochs")
    if recipe.train.trainable == "head" and not recipe.model.weights:
        raise UserError(
            f'{where}: train: trainable = "head" trains the last layer of given weights alone; '
            "give model.weights"
        )
    if recipe.model.is_own:
        return
    try:
        entry = find_model(recipe.model.name)
    except ValueError as error:
        raise UserError(f"{where}: model: {error}") from error
    for option in recipe.model.options:
        if option not in entry.options:
            raise UserError(
                f"{where}: model: {entry.name} has no option {option!r}"
                f"{_nearest(option, entry.options)}"
            )


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON and TOML have it; :func:`recipe_from` reads it again."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return content


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
    section.pop(_INSTEAD.get(name, ""), None)
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
