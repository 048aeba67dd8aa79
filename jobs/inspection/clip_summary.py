"""What ``inspect`` says of a clip: tables for people, the same as JSON."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from rich.table import Table

from gopstream.jobs.console import printable
from gopstream.jobs.inspection.clip_payload import facts_content, lists_with_vectors
from gopstream.jobs.inspection.frame_statistics import (
    FrameStatistics,
    KindStatistics,
    StatisticsMeter,
    statistics_content,
)
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedClip
from gopstream.jobs.summaries import Summary, counted, fact_table, render
from gopstream.pipeline.grid import QUARTER_PIXELS

_SHOWN_LETTERS: Final = 32
_SHOWN_PATTERNS: Final = 4
_SHOWN_FRAMES: Final = 12
_COMPASS: Final = (
    "right",
    "down right",
    "down",
    "down left",
    "left",
    "up left",
    "up",
    "up right",
)
_TOLD_ELSEWHERE: Final = ("pictures_per_gop",)
"""Facts of a stream that the table of the clip has, counted from what is shown."""
_STREAMS: Final = {
    "video": "stream",
    "sample": "sample",
    "folder": "extraction",
    "dump": "dump",
}
_SOURCES: Final = {
    "video": "a video, as its decoder reads it",
    "sample": "a sample of a dataset",
    "folder": "a folder of 'gopstream extract'",
    "dump": "a dump in mvextractor's layout",
}


def clip_summary(
    clip: InspectedClip,
    *,
    start: int = 0,
    stop: int | None = None,
    with_frames: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Summary:
    """Read a clip once and tell what is in it.

    Args:
        clip: Any source.
        start: First frame to measure.
        stop: One behind the last; None for the clip's end.
        with_frames: Also give the numbers of each frame in the content, as ``frames``.
        on_frame: Called after each frame.

    Raises:
        IndexError: If there are no such frames.
        PipelineError, ShardError: If the source is damaged.
    """
    facts, meter = clip.facts, StatisticsMeter()
    rows: list[dict[str, Any]] = []
    for frame in clip.frames(start, stop):
        statistics = meter.add(frame)
        if with_frames:
            rows.append(frame_row(statistics, facts))
        on_frame()
    kinds = meter.kinds()
    shown = facts.kinds[start:stop]
    content = clip_content(facts) | {
        "first": start,
        "last": start + len(shown) - 1,
        "gops": gop_content(shown),
        "kinds": {row.kind: statistics_content(row) for row in kinds},
    }
    if with_frames:
        content["frames"] = rows
    told = _clip_rows(facts)
    if len(shown) < facts.num_frames:
        told["looked at"] = f"frames {start} to {start + len(shown) - 1}"
    told["GOPs"] = _gop_text(content["gops"])
    parts: list[Table | str] = [fact_table(told), ""]
    if stream := _stream_rows(facts):
        parts += [f"of the {_STREAMS[facts.source]}:", fact_table(stream), ""]
    parts += [_kind_table(kinds, lists_with_vectors(facts)), *_residual_note(kinds)]
    return Summary(render(*parts), content)


def clip_content(facts: ClipFacts) -> dict[str, Any]:
    """Return the facts of a clip for JSON."""
    return facts_content(facts) | {
        "num_frames": facts.num_frames,
        "frame_types": facts.kinds,
        "fps": frames_per_second(facts),
        "num_lists": facts.num_lists,
    }


def frames_per_second(facts: ClipFacts) -> float | None:
    """Return the mean rate by the time stamps; None where these are but frame numbers."""
    if facts.num_frames < 2 or not facts.has_times:
        return None
    seconds = float(facts.times[-1] - facts.times[0])
    return round((facts.num_frames - 1) / seconds, 3) if seconds > 0 else None


def gop_content(kinds: str) -> dict[str, Any]:
    """Return the groups of pictures of a clip, each from an I-frame to the next in shown order.

    B-frames that are shown before the I-frame they refer to are counted to the group before.

    Args:
        kinds: A letter per frame.
    """
    starts = [index for index, kind in enumerate(kinds) if kind == "I"]
    if kinds and (not starts or starts[0] != 0):
        starts.insert(0, 0)
    ends = [*starts[1:], *([len(kinds)] if kinds else [])]
    groups = [kinds[a:b] for a, b in zip(starts, ends, strict=True)]
    lengths = [len(group) for group in groups]
    return {
        "starts": starts,
        "lengths": lengths,
        "patterns": [
            {"pattern": pattern, "count": count}
            for pattern, count in Counter(groups).most_common(_SHOWN_PATTERNS)
        ],
        "num_patterns": len(set(groups)),
        "most_b_frames": max(map(len, kinds.replace("P", "I").replace("?", "I").split("I"))),
    }


def _gop_text(content: Mapping[str, Any]) -> str:
    lengths = content["lengths"]
    if not lengths:
        return "none"
    spread = f"{min(lengths)} / {int(np.median(lengths))} / {max(lengths)}"
    text = f"{counted(len(lengths), 'group')} of {spread} frames"
    lines = [f"{text} (shortest, median, longest)"]
    for entry in content["patterns"]:
        pattern = entry["pattern"]
        shown = pattern[:_SHOWN_LETTERS] + "..." * (len(pattern) > _SHOWN_LETTERS)
        lines.append(f"{entry['count']} x {shown} ({counted(len(pattern), 'frame')})")
    hidden = content["num_patterns"] - len(content["patterns"])
    return "\n".join(lines + [f"and {counted(hidden, 'other pattern')}"] * bool(hidden))


def _clip_rows(facts: ClipFacts) -> dict[str, str]:
    rate = frames_per_second(facts)
    num_lists = lists_with_vectors(facts)
    whose = "the original stream" if facts.mode == "native" else "the canonical stream"
    x, y, width, height = facts.display_rect
    coded = "x".join(map(str, facts.coded_size))
    rows: dict[str, object] = {
        "clip": f"{facts.name}: {_SOURCES[facts.source]}",
        "vectors": f"of {whose}, {counted(num_lists, 'reference list')}" if num_lists else "none",
        "frames": f"{facts.num_frames}, {'time stamps unknown' if rate is None else f'{rate:g}/s'}",
        "picture": f"{width}x{height} at {x},{y} of the coded {coded}",
        "holds": ", ".join(sorted(facts.planes)) or "nothing",
        "residual": _residual_text(facts),
    }
    if facts.label is not None:
        rows["label"] = facts.label
    for name, frames in (("damaged", facts.damaged_frames), ("cuts", facts.scene_cuts)):
        if frames:
            rows[name] = f"{len(frames)}: {_numbers(frames)}"
    if facts.warnings:
        rows["warnings"] = "\n".join(facts.warnings)
    return {printable(name): printable(value) for name, value in rows.items()}


def _residual_text(facts: ClipFacts) -> str:
    """Answer in the first line whether there is one, and say why not in those below."""
    if "residual" in facts.planes or facts.exactness == "exact":
        return facts.exactness
    if facts.source == "dump":
        return f"none: {facts.exactness}"
    answer = "none: it would not be exact; mode canonical of 'gopstream extract' or 'shard' has one"
    return "\n".join([answer, *(f"- {reason}" for reason in facts.exactness.split("; "))])


def _stream_rows(facts: ClipFacts) -> dict[str, str]:
    return {
        printable(name.replace("_", " ")): printable(_word(value))
        for name, value in facts.stream.items()
        if value != facts.name and name not in _TOLD_ELSEWHERE
    }


def _word(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {"True": "yes", "False": "no"}.get(str(value), str(value))


def _numbers(frames: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, frames[:_SHOWN_FRAMES]))
    return f"{shown}, ..." if len(frames) > _SHOWN_FRAMES else shown


def _kind_table(kinds: tuple[KindStatistics, ...], num_lists: int) -> Table:
    table = Table("per frame of kind", *(row.kind for row in kinds))
    for column in table.columns[1:]:
        column.justify = "right"
    cells = [statistic_cells(row) for row in kinds]
    table.add_row("frames", *(str(row.frames) for row in kinds))
    for name in cells[0] if cells else ():
        if "future" in name and num_lists < 2:
            continue
        values = [cell[name] for cell in cells]
        if any(value != "-" for value in values):
            table.add_row(name, *values)
    return table


def statistic_cells(row: KindStatistics | FrameStatistics) -> dict[str, str]:
    """Return the numbers by their names for people; ``-`` where there is none."""
    return {
        "vectors": _number(row.num_vectors),
        "  to the past (list 0)": _number(row.num_past),
        "  to the future (list 1)": _number(row.num_future),
        "blocks predicted": _share(row.covered),
        "  from the past": _share(row.covered_past),
        "  from the future": _share(row.covered_future),
        "blocks intra": _share(row.intra),
        "vectors' length, mean": _pixels(row.mean_length),
        "  median": _pixels(row.median_length),
        "  95 % are at most": _pixels(row.p95_length),
        "  longest": _pixels(row.max_length),
        "  zero": _share(row.static),
        "content moves": _direction(row.mean_x, row.mean_y),
        "residual, mean |r| of luma": _number(row.residual_energy, digits=2),
        "  where predicted": _number(row.predicted_energy, digits=2),
        "  macroblocks all zero": _share(row.zero_macroblocks),
    }


def _number(value: float | None, *, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _pixels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} px"


def _direction(x: float | None, y: float | None) -> str:
    if x is None or y is None:
        return "-"
    length = float(np.hypot(x, y))
    if length < 1 / (2 * QUARTER_PIXELS):
        return "nowhere"
    eighth = round(float(np.arctan2(y, x)) / (np.pi / 4)) % len(_COMPASS)
    return f"{length:.2f} px {_COMPASS[eighth]}"


def _residual_note(kinds: tuple[KindStatistics, ...]) -> list[str]:
    """Say how to read the residual of what is not predicted, if there is any."""
    if all(row.residual_energy is None or not row.intra for row in kinds):
        return []
    return ["the residual of intra blocks is the picture minus 128: they have no prediction here"]


def frame_row(statistics: FrameStatistics, facts: ClipFacts) -> dict[str, Any]:
    """Return the numbers of a frame for JSON, with what the clip says of it."""
    index = statistics.index
    return statistics_content(statistics) | {
        "seconds": round(float(facts.times[index]), 6) if facts.has_times else None,
        "damaged": index in facts.damaged_frames,
        "scene_cut": index in facts.scene_cuts,
    }
