"""The folder of a run: which recipe it is of, and whether that is the same one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.checkpoint import CHECKPOINT_FILE
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import Recipe, recipe_content
from gopstream.shards.layout import write_atomic

RECIPE_FILE: Final = "recipe.json"
_PARTIAL: Final = ".*.partial"
_FREE: Final[Mapping[str, tuple[str, ...]]] = {
    "train": (
        "accumulate",
        "checkpoint_every",
        "keep",
        "log_every",
        "on_error",
        "threads",
        "workers",
    ),
}
_FREE_SECTIONS: Final = ("test", "paper")


def check_folder(out: Path, recipe: Recipe, *, resume: bool) -> bool:
    """See whether a run can begin or go on in a folder.

    A run goes on with the recipe that it began with, but for what changes neither the clips of a
    step nor what is learnt of them.

    Args:
        out: Folder of the run.
        recipe: Of the run.
        resume: Whether it is to go on.

    Returns:
        Whether there is a checkpoint to go on from: a run may end before its first one.

    Raises:
        UserError: If the folder holds something else, or another recipe's run; names what differs.
    """
    held = out / RECIPE_FILE
    if not resume:
        if out.exists() and (not out.is_dir() or set(out.iterdir()) - set(out.glob(_PARTIAL))):
            raise UserError(f"{out} is not empty; use --resume to continue, or another folder")
        return False
    if not held.is_file():
        raise UserError(f"{out}: there is no run to resume")
    differing = _differences(json.loads(held.read_text()), recipe_content(recipe))
    if differing:
        raise UserError(
            f"{out} holds a run of another recipe (see {held}), which differs in "
            f"{', '.join(differing)}; nothing was changed"
        )
    return (out / CHECKPOINT_FILE).is_file()


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Save the resolved recipe with the run, and remove what a killed process left half-written."""
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(_PARTIAL):
        left.unlink(missing_ok=True)
    content = json.dumps(recipe_content(recipe), indent=2) + "\n"
    write_atomic(out / RECIPE_FILE, content.encode())


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key}"
        for section in sorted({*held, *wanted} - {*_FREE_SECTIONS})
        for key in sorted({*held.get(section, {}), *wanted.get(section, {})})
        if key not in _FREE.get(section, ())
        and held.get(section, {}).get(key) != wanted.get(section, {}).get(key)
    ]
