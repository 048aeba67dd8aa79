"""Planes that a dataset lacks, and the commands that would add them."""

from collections.abc import Iterable, Sequence
from typing import Final

from gopstream.shards.dataset_files import DatasetFacts

# What 'gopstream shard' extracts; any other plane is the user's own and is added later.
_EXTRACTED: Final = ("frames", "motion", "residual")


def missing_planes(facts: DatasetFacts, needed: Iterable[str]) -> list[str]:
    """Return the planes that a dataset lacks, in the order asked; coverage comes with motion."""
    names = ["motion" if plane == "coverage" else plane for plane in needed]
    return [plane for plane in dict.fromkeys(names) if plane not in facts.planes]


def commands_to_add(
    missing: Sequence[str], *, facts: DatasetFacts, url: str, settings: Sequence[str] = ()
) -> list[str]:
    """Return the commands after which a dataset has what it lacks, in the order of their use.

    Args:
        missing: Its missing planes, as `missing_planes` returns them.
        facts: What the dataset says of itself.
        url: The dataset's folder or address.
        settings: Options of ``gopstream shard`` that must change as well.
    """
    extracted = [plane for plane in missing if plane in _EXTRACTED]
    place, commands = url, []
    if settings or [plane for plane in extracted if plane != "residual"]:
        # What is written cannot be changed: another dataset takes its place.
        place = "OTHER"
        planes = [plane for plane in _EXTRACTED if plane in {*facts.planes, *missing}]
        words = [*settings, f"--planes {','.join(planes)}"] if extracted else list(settings)
        commands.append(f"gopstream shard VIDEOS --out {place} {' '.join(words)}")
    elif extracted:
        commands.append(f"gopstream planes add {place} residual --videos VIDEOS")
    own = [plane for plane in missing if plane not in _EXTRACTED]
    commands += [f"gopstream planes add {place} {plane} --from FOLDER" for plane in own]
    return commands
