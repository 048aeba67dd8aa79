"""Whether a dataset is what a recipe was made for, and what to change where it is not."""

from typing import Any, NamedTuple

from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe_sections import DataRecipe
from gopstream.shards.dataset_files import DatasetFacts
from gopstream.shards.missing_planes import commands_to_add, missing_planes


class _Misfit(NamedTuple):
    """A setting that differs."""

    what: str
    option: str
    """Of ``gopstream shard``, which would have made it fit."""


def check_fit(facts: DatasetFacts, wanted: DataRecipe, *, url: str, force: bool = False) -> None:
    """Refuse a dataset that a recipe was not made for.

    Args:
        facts: What the dataset says of itself.
        wanted: The recipe's ``[data]``.
        url: The dataset's folder or address.
        force: Go on, with a warning on standard error.

    Raises:
        UserError: Naming every difference and the commands that would make the dataset fit.
    """
    misfits = _setting_misfits(facts, wanted)
    missing = missing_planes(facts, wanted.planes or ())
    if not misfits and not missing:
        return
    differences = [misfit.what for misfit in misfits]
    differences += [f"the plane {plane} is missing" for plane in missing]
    lines = [f"{url} does not fit the recipe:", *(f"- {what}" for what in differences)]
    options = [misfit.option for misfit in misfits]
    if force:
        say("\n".join(["warning: " + lines[0], *lines[1:], "It is used all the same: --force"]))
        return
    lines.append("What would make it fit:")
    commands = commands_to_add(missing, facts=facts, url=url, settings=options)
    lines += [f"- {command}" for command in commands]
    lines.append("To use it as it is, give --force, or change [data] of the recipe.")
    raise UserError("\n".join(lines))


def _setting_misfits(facts: DatasetFacts, wanted: DataRecipe) -> list[_Misfit]:
    held = facts.settings
    found = []
    if wanted.mode is not None and held.get("mode") != wanted.mode:
        what = f"its mode is {held.get('mode')}, the recipe needs {wanted.mode}"
        found.append(_Misfit(what, f"--mode {wanted.mode}"))
    if wanted.short_side is not None and held.get("short_side") != wanted.short_side:
        what = (
            f"its frames have a short side of at most {held.get('short_side')} pixels, the recipe "
            f"needs {wanted.short_side}"
        )
        found.append(_Misfit(what, f"--short-side {wanted.short_side}"))
    rate = _stored_rate(held.get("frame_stride", 1), held.get("fps"))
    if wanted.fps is not None and held.get("fps") != wanted.fps:
        needed = _stored_rate(1, wanted.fps)
        what = f"it stores {rate}, the recipe needs {needed}"
        found.append(_Misfit(what, f"--fps {wanted.fps:g}"))
    stride = wanted.frame_stride
    if wanted.fps is None and stride is not None and rate != _stored_rate(stride, None):
        what = f"it stores {rate}, the recipe needs {_stored_rate(stride, None)}"
        found.append(_Misfit(what, f"--frame-stride {stride}"))
    return found


def _stored_rate(frame_stride: Any, fps: Any) -> str:  # noqa: ANN401 - as a JSON file has it
    """Say which frames are stored."""
    if fps is not None:
        return f"{fps:g} frames per second"
    return "every frame" if frame_stride == 1 else f"one frame in {frame_stride}"
