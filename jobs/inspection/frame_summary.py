"""What ``inspect --frame`` says of one frame."""

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt
from rich.table import Table

from gopstream.jobs.console import printable
from gopstream.jobs.inspection.clip_summary import frame_row, gop_content, statistic_cells
from gopstream.jobs.inspection.frame_statistics import FrameStatistics, frame_statistics
from gopstream.jobs.inspection.inspected import InspectedClip, InspectedFrame
from gopstream.jobs.inspection.vector_table import COLUMN, LIST_SIGNS, vector_pixels
from gopstream.jobs.summaries import Summary, fact_table, render
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS

_SHOWN_VECTORS: Final = 10


def frame_summary(clip: InspectedClip, index: int) -> Summary:
    """Tell what is in one frame.

    Args:
        clip: Any source.
        index: 0 to T - 1.

    Raises:
        IndexError: If there is no such frame.
        PipelineError, ShardError: If the source is damaged.
    """
    facts = clip.facts
    (frame,) = clip.frames(index, index + 1)
    statistics = frame_statistics(frame)
    gops = gop_content(facts.kinds)
    number = int(np.searchsorted(gops["starts"], index, side="right")) - 1
    vectors = largest_vectors(frame)
    sizes = partition_sizes(frame)
    content = frame_row(statistics, facts) | {
        "clip": facts.name,
        "gop": number,
        "place_in_gop": index - gops["starts"][number],
        "partitions": sizes,
        "largest_vectors": vectors,
    }
    rows: dict[str, object] = {
        "clip": printable(facts.name),
        "frame": f"{index} of 0 to {facts.num_frames - 1}, {_moment(content['seconds'])}",
        "kind": f"{frame.kind}, frame {content['place_in_gop']} of GOP {number}",
    }
    rows |= {name: "yes" for name in ("damaged", "scene_cut") if content[name]}
    rows |= {name.strip(): value for name, value in _told(statistics).items()}
    if sizes:
        rows["partitions"] = ", ".join(f"{count} of {size}" for size, count in sizes.items())
    parts: list[Table | str] = [fact_table(rows)]
    if vectors:
        parts += ["", _vector_table(vectors)]
    return Summary(render(*parts), content)


def _moment(seconds: float | None) -> str:
    return "time unknown" if seconds is None else f"at {seconds:.3f} s"


def _told(statistics: FrameStatistics) -> dict[str, str]:
    """Return the cells that say something, each under a name that stands alone."""
    told, above = {}, ""
    for name, value in statistic_cells(statistics).items():
        above = above if name.startswith(" ") else name.partition(",")[0]
        full = f"{above}: {name.strip()}" if name.startswith(" ") else name
        if value != "-":
            told[full] = value
    return told


def partition_sizes(frame: InspectedFrame) -> dict[str, int]:
    """Return how many vectors have each size of a block, such as ``{"16x16": 40}``."""
    if frame.vectors is None:
        return {}
    sizes = Counter(f"{w}x{h}" for w, h in frame.vectors[:, [COLUMN["w"], COLUMN["h"]]].tolist())
    return dict(sizes.most_common())


def largest_vectors(
    frame: InspectedFrame, *, number: int = _SHOWN_VECTORS
) -> list[dict[str, float | str]]:
    """Return the longest vectors of a frame, the longest first, of equals the upper left one.

    Without those of no length. Of the decoder's own where there are any, else of the blocks of
    the grid.

    Returns:
        For each ``x``, ``y`` of the block's upper left corner and ``width``, ``height`` in pixels
        of the coded picture, ``to`` (past or future), ``dx``, ``dy`` to the reference and
        ``length`` in pixels.
    """
    table = _grid_table(frame) if frame.vectors is None else _vector_rows(frame)
    table = table[table[:, 5:].any(axis=1)]
    lengths = np.hypot(table[:, 5], table[:, 6])
    order = np.lexsort((table[:, 0], table[:, 1], -lengths))[:number]
    names = ("x", "y", "width", "height")
    return [
        dict(zip(names, map(int, table[place, :4].tolist()), strict=True))
        | {
            "to": "past" if table[place, 4] < 0 else "future",
            "dx": round(float(table[place, 5]), 4),
            "dy": round(float(table[place, 6]), 4),
            "length": round(float(lengths[place]), 4),
        }
        for place in order.tolist()
    ]


def _vector_rows(frame: InspectedFrame) -> npt.NDArray[np.float64]:
    """Return (K, 7) x, y, width, height, source, dx, dy of the decoder's own vectors."""
    assert frame.vectors is not None
    columns = {name: frame.vectors[:, number].astype(np.float64) for name, number in COLUMN.items()}
    return np.stack(
        [
            columns["dst_x"] - columns["w"] // 2,
            columns["dst_y"] - columns["h"] // 2,
            columns["w"],
            columns["h"],
            columns["source"],
            *vector_pixels(frame.vectors).T,
        ],
        axis=1,
    )


def _grid_table(frame: InspectedFrame) -> npt.NDArray[np.float64]:
    """Return the same of the predicted blocks of the grid."""
    if frame.motion is None:
        return np.zeros((0, 7))
    number, row, column = np.nonzero(frame.motion.coverage == 1)
    side = np.full(len(row), BLOCK)
    vectors = frame.motion.motion[number, row, column] / QUARTER_PIXELS
    rows = [column * BLOCK, row * BLOCK, side, side, np.array(LIST_SIGNS)[number], *vectors.T]
    return np.stack(rows, axis=1).astype(np.float64)


def _vector_table(vectors: list[dict[str, float | str]]) -> Table:
    table = Table("longest vectors", "block", "to the", "dx", "dy", "length")
    for number, vector in enumerate(vectors, start=1):
        table.add_row(
            str(number),
            f"{vector['width']}x{vector['height']} at {vector['x']},{vector['y']}",
            str(vector["to"]),
            *(f"{vector[name]:.2f}" for name in ("dx", "dy")),
            f"{vector['length']:.2f} px",
        )
    return table
