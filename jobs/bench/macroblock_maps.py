"""The types of macroblocks, as FFmpeg's own decoder tells them.

``-debug mb_type`` prints a letter for each macroblock (libavcodec/mpegutils.c,
ff_print_debug_info2).

Dimensions: R x C macroblocks of a frame.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.transcode import default_ffmpeg

MACROBLOCK: Final = 16
_ATTEMPTS: Final = 4
_NEW_FRAME = re.compile(r"^\[\w+ @ (0x[0-9a-f]+)\] New frame, type: (\S)")
_MAP_ROW = re.compile(r"^\[\w+ @ (0x[0-9a-f]+)\] +(\d+) ((?:[PAiIdDgGS<>X][-+| ?][ =])+)$")


class MacroblockMap(NamedTuple):
    """Types of one frame's macroblocks."""

    kind: str
    """``I`` or ``P``."""
    types: npt.NDArray[np.str_]
    """(R, C) one letter each: S skipped, > predicted, i I A P intra."""


def parse_macroblock_maps(
    lines: Iterable[str], *, num_rows: int, num_columns: int
) -> list[MacroblockMap]:
    """Read FFmpeg's ``-debug mb_type`` output.

    FFmpeg decodes the first frames twice, for probing and in earnest, with a decoder each; the
    maps of the decoder that spoke last are returned, in order.

    Raises:
        BitstreamError: If a map has not ``num_rows`` rows of ``num_columns`` macroblocks.
    """
    frames: dict[str, list[tuple[str, list[str]]]] = {}
    last = ""
    for line in lines:
        text = line.rstrip("\r\n")
        if opened := _NEW_FRAME.match(text):
            last = opened.group(1)
            frames.setdefault(last, []).append((opened.group(2), []))
        elif (row := _MAP_ROW.match(text)) and row.group(1) in frames:
            rows = frames[row.group(1)][-1][1]
            if int(row.group(2)) != MACROBLOCK * len(rows):
                raise BitstreamError(f"row {row.group(2)} of a macroblock map follows {len(rows)}")
            rows.append(row.group(3)[::3])
    maps = []
    for index, (kind, rows) in enumerate(frames.get(last, [])):
        if len(rows) != num_rows or any(len(row) != num_columns for row in rows):
            raise BitstreamError(
                f"the map of frame {index} must have {num_rows} rows of {num_columns} "
                f"macroblocks, got rows of {[len(row) for row in rows]}"
            )
        maps.append(MacroblockMap(kind, np.array([list(row) for row in rows])))
    return maps


def read_macroblock_maps(
    stream_path: Path, *, num_rows: int, num_columns: int
) -> list[MacroblockMap]:
    """Ask FFmpeg for the macroblock types of each frame, in decoding order.

    FFmpeg's threads share one log, so that now and then a line of another thread tears a row.
    That is noticed, and FFmpeg asked again.
    """
    command = [default_ffmpeg(), "-hide_banner", "-nostdin", "-threads", "1", "-debug", "mb_type"]
    command += ["-loglevel", "debug", "-i", str(stream_path), "-fps_mode", "passthrough"]
    command += ["-f", "null", "-"]
    for attempt in range(_ATTEMPTS):
        done = subprocess.run(command, capture_output=True, check=True)
        lines = done.stderr.decode(errors="replace").splitlines()
        try:
            return parse_macroblock_maps(lines, num_rows=num_rows, num_columns=num_columns)
        except BitstreamError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError
