"""Where two sources of the same clip differ, frame by frame.

This tells whether another extractor is right. Vectors are compared as multisets: their order says
nothing. Motion is compared block by block, and the residual value by value. What only one of the
sources has is not compared, and that is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table

from gopstream.jobs.console import printable
from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedClip, InspectedFrame
from gopstream.jobs.summaries import counted, fact_table, render
from gopstream.pipeline.grid import QUARTER_PIXELS, BlockMotion
from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS

ASPECTS: Final = ("kinds", "vectors", "motion", "residual")
"""What is compared, each by itself."""

_SHOWN_FRAMES: Final = 20
_SHOWN_RANGES: Final = 50
_EXAMPLES: Final = 3

Vectors = npt.NDArray[np.int32]


class Difference(NamedTuple):
    """What a comparison found."""

    is_equal: bool
    frames: tuple[int, ...]
    """The frames that differ, of those that both sources have."""
    text: str
    content: dict[str, Any]
    """For JSON: the sources' names, what was compared, and what differs in each frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _FrameDifference:
    """What differs in a frame; None where it was not compared."""

    index: int
    kinds: tuple[str, str]
    only_in_one: int | None
    only_in_other: int | None
    examples: tuple[list[list[int]], list[list[int]]]
    blocks: int | None
    """Blocks that only one source covers, or whose vectors differ."""
    largest_pixels: float | None
    """Longest distance between two vectors of a block; None if no block that both cover differs."""
    residual_values: int | None
    largest_residual: int | None

    @property
    def is_equal(self) -> bool:
        counts = (self.only_in_one, self.only_in_other, self.blocks, self.residual_values)
        return _same_kind(*self.kinds) and not any(counts)


@dataclass(slots=True)
class _Comparison:
    """What was compared so far."""

    num_frames: int = 0
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ASPECTS, 0))
    """Frames in which both sources have something."""
    num_vectors: list[int] = field(default_factory=lambda: [0, 0])
    differing: list[_FrameDifference] = field(default_factory=list)

    def add(self, one: InspectedFrame, other: InspectedFrame) -> None:
        self.num_frames += 1
        self.compared["kinds"] += "?" not in (one.kind, other.kind)
        self.compared["motion"] += one.motion is not None and other.motion is not None
        self.compared["residual"] += one.residual is not None and other.residual is not None
        if one.vectors is not None and other.vectors is not None:
            self.compared["vectors"] += 1
            self.num_vectors[0] += len(one.vectors)
            self.num_vectors[1] += len(other.vectors)
        found = _compare_frames(one, other)
        if not found.is_equal:
            self.differing.append(found)


def compare_clips(
    one: InspectedClip,
    other: InspectedClip,
    *,
    start: int = 0,
    stop: int | None = None,
    names: tuple[str, str] | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Difference:
    """Read two clips side by side and compare their frames of the same number.

    A different number of frames is a difference. So is another size of the coded picture, which
    a dump does not know; then no frames are compared.

    Args:
        one: Any source.
        other: Any source.
        start: First frame to compare.
        stop: One behind the last; None for the end of either clip.
        names: What the text calls the sources; None for the names of the clips.
        on_frame: Called after each pair of frames.

    Raises:
        UserError: If the sources have nothing in common that could be compared.
        IndexError: If there are no such frames.
        PipelineError, ShardError: If a source is damaged.
    """
    facts = (one.facts, other.facts)
    ends = [min(clip.num_frames, clip.num_frames if stop is None else stop) for clip in facts]
    last = min(ends)
    comparison = _Comparison()
    sizes_differ = "dump" not in (facts[0].source, facts[1].source) and (
        facts[0].coded_size != facts[1].coded_size
    )
    if not sizes_differ:
        for pair in zip(one.frames(start, last), other.frames(start, last), strict=True):
            comparison.add(*pair)
            on_frame()
    if not (sizes_differ or any(comparison.compared.values())):
        raise UserError(
            f"{facts[0].name} and {facts[1].name} have nothing in common that can be compared: "
            f"{_planes(facts[0])} and {_planes(facts[1])}"
        )
    is_equal = not comparison.differing and ends[0] == ends[1] and not sizes_differ
    content = _content(facts, comparison) | {
        "equal": is_equal,
        "first": start,
        "frames": [end - start for end in ends],
        "coded_sizes": [list(clip.coded_size) for clip in facts],
    }
    frames = tuple(found.index for found in comparison.differing)
    sides = names or (facts[0].name, facts[1].name)
    rows = {
        side: printable(f"{name}: {_side(clip, num_frames)}")
        for side, name, clip, num_frames in zip(
            ("one", "other"), sides, facts, content["frames"], strict=True
        )
    }
    if sizes_differ:
        text = _other_size(rows, content)
    else:
        rows["compared"] = _compared(facts, comparison)
        text = _text(rows, comparison, content=content)
    return Difference(is_equal, frames, text, content)


def _planes(facts: ClipFacts) -> str:
    return ", ".join(sorted(facts.planes)) or "nothing"


def _same_kind(one: str, other: str) -> bool:
    return one == other or "?" in (one, other)


def _compare_frames(one: InspectedFrame, other: InspectedFrame) -> _FrameDifference:
    only: tuple[Vectors, Vectors] | None = None
    if one.vectors is not None and other.vectors is not None:
        only = unmatched_vectors(one.vectors, other.vectors)
    blocks, pixels = _compare_motion(one.motion, other.motion)
    values, largest = _compare_residual(one, other)
    return _FrameDifference(
        index=one.index,
        kinds=(one.kind, other.kind),
        only_in_one=None if only is None else len(only[0]),
        only_in_other=None if only is None else len(only[1]),
        examples=([], [])
        if only is None
        else (only[0][:_EXAMPLES].tolist(), only[1][:_EXAMPLES].tolist()),
        blocks=blocks,
        largest_pixels=pixels,
        residual_values=values,
        largest_residual=largest,
    )


def unmatched_vectors(one: Vectors, other: Vectors) -> tuple[Vectors, Vectors]:
    """Return the vectors of each that the other does not have, as often as it lacks them.

    Args:
        one: (K, 10).
        other: (K', 10).
    """
    if np.array_equal(one, other):
        return one[:0], other[:0]
    rows, place = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    counts = [np.bincount(part, minlength=len(rows)) for part in np.split(place, [len(one)])]
    surplus = counts[0] - counts[1]
    return (
        np.repeat(rows, np.maximum(surplus, 0), axis=0),
        np.repeat(rows, np.maximum(-surplus, 0), axis=0),
    )


def _compare_motion(
    one: BlockMotion | None, other: BlockMotion | None
) -> tuple[int | None, float | None]:
    """Return the number of blocks that differ, and by how many pixels at most."""
    if one is None or other is None:
        return None, None
    shape = tuple(map(max, one.coverage.shape, other.coverage.shape))
    first, second = _grown(one, shape), _grown(other, shape)
    in_one, in_other = first.coverage == 1, second.coverage == 1
    apart = first.motion.astype(np.float64) - second.motion
    distance = np.hypot(apart[..., 0], apart[..., 1]) / QUARTER_PIXELS  # (L, Hb, Wb)
    moved = in_one & in_other & (distance > 0)
    differs = (moved | (in_one != in_other)).any(axis=0)
    return int(np.count_nonzero(differs)), float(distance[moved].max()) if moved.any() else None


def _grown(fields: BlockMotion, shape: Sequence[int]) -> BlockMotion:
    """Add lists, rows and columns that nothing covers: a dump knows neither their number."""
    if fields.coverage.shape == tuple(shape):
        return fields
    room = [(0, wanted - had) for wanted, had in zip(shape, fields.coverage.shape, strict=True)]
    return BlockMotion(np.pad(fields.motion, [*room, (0, 0)]), np.pad(fields.coverage, room))


def _compare_residual(one: InspectedFrame, other: InspectedFrame) -> tuple[int | None, int | None]:
    """Return the number of values that differ in the three planes, and by how much at most."""
    if one.residual is None or other.residual is None:
        return None, None
    number = largest = 0
    for first, second in zip(one.residual, other.residual, strict=True):
        if first.shape != second.shape:
            return max(first.size, second.size), None
        apart = np.abs(first.astype(np.int32) - second)
        number += int(np.count_nonzero(apart))
        largest = max(largest, int(apart.max(initial=0)))
    return number, largest or None


def _content(facts: tuple[ClipFacts, ClipFacts], comparison: _Comparison) -> dict[str, Any]:
    return {
        "one": {"name": facts[0].name, "source": facts[0].source, "mode": facts[0].mode},
        "other": {"name": facts[1].name, "source": facts[1].source, "mode": facts[1].mode},
        "compared_frames": dict(comparison.compared),
        "num_vectors": list(comparison.num_vectors),
        "vector_columns": list(TABLE_COLUMNS),
        "notes": _notes(facts),
        "differing_frames": [found.index for found in comparison.differing],
        "differences": [_frame_content(found) for found in comparison.differing],
    }


def _frame_content(found: _FrameDifference) -> dict[str, Any]:
    pixels = found.largest_pixels
    return {
        "index": found.index,
        "kinds": list(found.kinds),
        "vectors_only_in_one": found.only_in_one,
        "vectors_only_in_other": found.only_in_other,
        "examples_only_in_one": found.examples[0],
        "examples_only_in_other": found.examples[1],
        "blocks": found.blocks,
        "largest_pixels": None if pixels is None else round(pixels, 4),
        "residual_values": found.residual_values,
        "largest_residual": found.largest_residual,
    }


def _notes(facts: tuple[ClipFacts, ClipFacts]) -> list[str]:
    """Say what makes sources differ that are both right."""
    notes = []
    if facts[0].mode != facts[1].mode:
        notes.append(
            "one has the vectors of the original stream, the other those of the canonical stream "
            "that was made of it: compare two of the same mode"
        )
    rotations = [clip.stream.get("rotation") for clip in facts]
    if "dump" in (facts[0].source, facts[1].source) and any(rotations):
        notes.append("the video is shown turned, and a dump is not: all vectors differ by that")
    return notes


def _other_size(rows: dict[str, str], content: dict[str, Any]) -> str:
    sizes = ["x".join(map(str, size)) for size in content["coded_sizes"]]
    return render(
        fact_table(rows),
        *(f"note: {note}" for note in content["notes"]),
        f"sizes of the coded picture differ: {sizes[0]} and {sizes[1]}; their frames were not "
        "compared",
    )


def _text(rows: dict[str, str], comparison: _Comparison, *, content: dict[str, Any]) -> str:
    parts: list[Table | str] = [fact_table(rows)]
    parts += [f"note: {note}" for note in content["notes"]]
    if content["frames"][0] != content["frames"][1]:
        parts.append(
            f"numbers of frames differ: {content['frames'][0]:,} and {content['frames'][1]:,}"
        )
    if not comparison.differing:
        number = comparison.num_frames
        parts.append(f"no difference in {counted(number, 'frame')}")
        return render(*parts)
    found = comparison.differing
    parts += [
        "",
        f"{len(found):,} of {comparison.num_frames:,} frames differ: "
        f"{frame_ranges(content['differing_frames'])}",
        _frame_table(found[:_SHOWN_FRAMES]),
    ]
    if len(found) > _SHOWN_FRAMES:
        parts.append(f"and {len(found) - _SHOWN_FRAMES:,} more frames; --json has all of them")
    return render(*parts)


def _side(facts: ClipFacts, num_frames: int) -> str:
    return f"{facts.source}, {facts.mode}, {counted(num_frames, 'frame')} with {_planes(facts)}"


def _compared(facts: tuple[ClipFacts, ClipFacts], comparison: _Comparison) -> str:
    """Say what was compared in how many frames, and why the rest was not."""
    lines = []
    for aspect, count in comparison.compared.items():
        if count:
            vectors = " and ".join(f"{number:,}" for number in comparison.num_vectors)
            what = f" ({vectors} vectors)" if aspect == "vectors" else ""
            lines.append(f"{aspect} of {counted(count, 'frame')}{what}")
            continue
        if aspect == "kinds":
            lines.append("not kinds: a dump does not know them")
            continue
        sides = zip(("one", "other"), facts, strict=True)
        lacking = [name for name, clip in sides if aspect not in clip.planes]
        whose = f"{lacking[0]} has none" if len(lacking) == 1 else "neither has any"
        lines.append(f"not {aspect}: {whose if lacking else 'never both in the same frame'}")
    return "\n".join(lines)


def frame_ranges(frames: Sequence[int]) -> str:
    """Return frame numbers as text, neighbours together: ``3, 5-9``; many are cut short."""
    ranges: list[list[int]] = []
    for frame in frames:
        if ranges and ranges[-1][1] == frame - 1:
            ranges[-1][1] = frame
        else:
            ranges.append([frame, frame])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:_SHOWN_RANGES]]
    return ", ".join(shown + ["..."] * (len(ranges) > _SHOWN_RANGES))


def _frame_table(differing: Sequence[_FrameDifference]) -> Table:
    """Show what was compared; a column of nothing is left out."""
    columns: dict[str, list[str]] = {
        "frame": [str(found.index) for found in differing],
        "kind": [_told_kinds(*found.kinds) for found in differing],
        "vectors only in one": [_cell(found.only_in_one) for found in differing],
        "only in other": [_cell(found.only_in_other) for found in differing],
        "blocks differ": [_cell(found.blocks) for found in differing],
        "by at most": [
            "-" if (pixels := found.largest_pixels) is None else f"{pixels:.2f} px"
            for found in differing
        ],
        "residual values": [_cell(found.residual_values) for found in differing],
        "by at most, levels": [_cell(found.largest_residual) for found in differing],
    }
    shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    table = Table(*shown)
    for column in table.columns:
        column.justify = "right"
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _told_kinds(one: str, other: str) -> str:
    return one if _same_kind(one, other) else f"{one} / {other}"


def _cell(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
