"""All cases of the fault corpus, and the checks of what is extracted from them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from gopstream.jobs.bench.fault_cases_broken import DAMAGE_CASES, HOSTILE_CASES, NOT_VIDEO_CASES
from gopstream.jobs.bench.fault_cases_pictures import PICTURE_CASES
from gopstream.jobs.bench.fault_cases_streams import CODEC_CASES, TIME_CASES
from gopstream.jobs.bench.fault_content import (
    has_one_size,
    is_deinterlaced,
    is_turned,
    keeps_times,
    modes_agree,
    shows_pictures,
    sound_frames_are_intact,
)
from gopstream.jobs.bench.fault_corpus import NUM_FRAMES, Case

CASES: Final = (
    *NOT_VIDEO_CASES,
    *DAMAGE_CASES,
    *PICTURE_CASES,
    *TIME_CASES,
    *CODEC_CASES,
    *HOSTILE_CASES,
)
"""In the order of the table."""

# The undamaged file of the workshop, and the index of the first frame that is left; None where
# time stamps tell.
_INTACT: Final[dict[str, tuple[str, int | None]]] = {
    "cut.mp4": ("plain.mp4", None),
    "cut.ts": ("plain.ts", None),
    "cut.mkv": ("plain.mkv", None),
    "noise.mp4": ("plain.mp4", None),
    "noise.ts": ("plain.ts", None),
    "too_large.mp4": ("plain.mp4", None),
    "unreadable.mp4": ("plain.mp4", None),
    "second_key_gone.mkv": ("plain.mkv", None),
    "lost_packet.ts": ("plain.ts", None),
    "zeros.mp4": ("plain.mp4", None),
    "zeros.mkv": ("plain.mkv", None),
    "first_key_gone.h264": ("plain.h264", 12),
    "cut_open_gop.ts": ("open_gop.ts", 12),
    "open_gop_start.mkv": ("open_gop.mp4", 12),
    "edit_list.mp4": ("plain.mp4", 5),
}
_OTHER_PICTURES: Final = ("rotated", "wide_pixels", "grey", "hdr.mp4")

Check = Callable[[Path], list[str]]


def checks_of(case: Case, *, workshop: Path) -> list[Check]:
    """Return functions that get the case's file and name what is wrong with its content."""
    is_extracted = case.canonical.outcome != "refused"
    if not is_extracted or case.is_slow:
        return []
    plain = workshop / "plain.mp4"
    checks: list[Check] = []
    if case.native.outcome != "refused":
        checks.append(modes_agree)
    if case.name in _INTACT:
        name, first = _INTACT[case.name]
        checks.append(partial(sound_frames_are_intact, intact=workshop / name, first=first))
    elif case.frames == NUM_FRAMES and not case.name.startswith(_OTHER_PICTURES):
        checks.append(partial(shows_pictures, plain=plain))
    if case.name.startswith("rotated"):
        checks.append(partial(is_turned, plain=plain))
    if case.name.startswith("interlaced"):
        checks.append(is_deinterlaced)
    if case.name.startswith("size_change"):
        checks.append(partial(has_one_size, second=workshop / "larger.h264"))
    if case.name == "variable_rate.mp4":
        checks.append(keeps_times)
    return checks
