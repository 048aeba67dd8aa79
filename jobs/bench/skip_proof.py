"""Proof that motion and interpolation are the codec's: skipped macroblocks have no residual.

A P_SKIP macroblock carries no data but its inferred vector (ITU-T H.264, clause 7.3.4), so that
the decoded picture there *is* the prediction. Where our own prediction from the exported vectors
gives the decoded samples, bit for bit, vectors and interpolation are right. Which macroblocks
are skipped is asked from another decoder: FFmpeg's ``-debug mb_type`` map
(libavcodec/mpegutils.c, ff_print_debug_info2). Three wrong predictions have to fail.

Dimensions: R x C macroblocks of a frame, Hb x Wb = 2R x 2C blocks of the motion grid.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.decode import DecodedFrame, Planes, open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.motion import BLOCK, BlockMotion, rasterise_vectors
from gopstream.pipeline.probe import VideoFacts
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames

MACROBLOCK: Final = 16
CONTROL_LIMIT: Final = 0.9999
"""A control whose total share of exact macroblocks is not below this has not failed."""
_SKIP, _INTER, _INTRA = "S", "S>", "iIAP"
_NEW_FRAME = re.compile(r"^\[\w+ @ (0x[0-9a-f]+)\] New frame, type: (\S)")
_MAP_ROW = re.compile(r"^\[\w+ @ (0x[0-9a-f]+)\] +(\d+) ((?:[PAiIdDgGS<>X][-+| ?][ =])+)$")


class MacroblockMap(NamedTuple):
    """Types of one frame's macroblocks."""

    kind: str
    """``I`` or ``P``."""
    types: npt.NDArray[np.str_]
    """(R, C) one letter each: S skipped, > predicted, i I A P intra."""


Predictor = Callable[[Planes, BlockMotion], npt.NDArray[np.uint8]]


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
    """Ask FFmpeg for the macroblock types of each frame, in decoding order."""
    command = [default_ffmpeg(), "-hide_banner", "-nostdin", "-threads", "1", "-debug", "mb_type"]
    command += ["-loglevel", "debug", "-i", str(stream_path), "-fps_mode", "passthrough"]
    command += ["-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    lines = done.stderr.decode(errors="replace").splitlines()
    return parse_macroblock_maps(lines, num_rows=num_rows, num_columns=num_columns)


def predict_luma_bilinear(
    reference: npt.NDArray[np.uint8], motion: npt.NDArray[np.int16]
) -> npt.NDArray[np.uint8]:
    """Predict luma with bilinear quarter samples: what H.264 does *not* do.

    Args:
        reference: (Hc, Wc) uint8 luma of the reference picture.
        motion: (Hb, Wb, 2) int16 quarter pixels.

    Returns:
        (Hc, Wc) uint8.
    """
    height, width = reference.shape
    per_pixel = motion.astype(np.int32).repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    right, below = per_pixel[..., 0] & 3, per_pixel[..., 1] & 3
    columns = np.arange(width) + (per_pixel[..., 0] >> 2)
    rows = np.arange(height)[:, None] + (per_pixel[..., 1] >> 2)

    def sample(down: int, across: int) -> npt.NDArray[np.int32]:
        y, x = np.clip(rows + down, 0, height - 1), np.clip(columns + across, 0, width - 1)
        samples: npt.NDArray[np.uint8] = reference[y, x]
        return samples.astype(np.int32)

    top = (4 - right) * sample(0, 0) + right * sample(0, 1)
    bottom = (4 - right) * sample(1, 0) + right * sample(1, 1)
    return (((4 - below) * top + below * bottom + 8) >> 4).astype(np.uint8)


def _predict_shifted(reference: Planes, field: BlockMotion) -> npt.NDArray[np.uint8]:
    motion = field.motion[0] + np.array([1, 0], np.int16)
    return predict_planes(reference, motion, field.coverage[0]).y


def _predict_swapped(reference: Planes, field: BlockMotion) -> npt.NDArray[np.uint8]:
    return predict_planes(reference, -field.motion[0], field.coverage[0]).y


def _predict_bilinear(reference: Planes, field: BlockMotion) -> npt.NDArray[np.uint8]:
    return predict_luma_bilinear(reference.y, field.motion[0])


CONTROLS: Final[dict[str, Predictor]] = {
    "shifted": _predict_shifted,
    "swapped": _predict_swapped,
    "bilinear": _predict_bilinear,
}
"""Wrong luma predictions: x one quarter pixel off, the sign swapped, bilinear for six taps."""


def count_stream(stream_path: Path) -> Counter[str]:
    """Count macroblocks of a canonical stream, and those that the prediction reproduces.

    Returns:
        ``frames``, ``skipped``, ``skipped_moving`` (vector not zero), ``skipped_fractional``,
        ``exact_y``, ``exact_cb_cr``, ``exact_NAME`` (luma) per control, ``inter``, ``intra``,
        ``inter_without_vector``, ``intra_with_vector``.

    Raises:
        BitstreamError: If the two decoders disagree about the frames.
    """
    counts: Counter[str] = Counter()
    reference: Planes | None = None
    for frame, types in _frames_with_maps(stream_path):
        height, width = frame.planes.y.shape
        field = rasterise_vectors(frame.vectors, coded_height=height, coded_width=width)
        counts["frames"] += 1
        counts.update(_count_vectors(types, field))
        skipped = types == _SKIP
        if reference is not None and skipped.any():
            counts.update(_count_exact(frame.planes, reference, field=field, skipped=skipped))
        reference = frame.planes
    return counts


def _frames_with_maps(
    stream_path: Path,
) -> Iterator[tuple[DecodedFrame, npt.NDArray[np.str_]]]:
    """Pair each decoded frame with its (R, C) types; no B-frames, so both orders are one."""
    with open_coded(stream_path) as stream:
        first = next(stream.frames)
        height, width = first.planes.y.shape
        maps = read_macroblock_maps(
            stream_path, num_rows=height // MACROBLOCK, num_columns=width // MACROBLOCK
        )
        yield _pair(first, maps[0] if maps else None)
        for frame, types in zip_longest(stream.frames, maps[1:]):
            yield _pair(frame, types)


def _pair(
    frame: DecodedFrame | None, types: MacroblockMap | None
) -> tuple[DecodedFrame, npt.NDArray[np.str_]]:
    if frame is None or types is None or frame.kind != types.kind:
        raise BitstreamError(
            "the decoders disagree about a frame: "
            f"{frame and frame.kind} decoded, {types and types.kind} in the map"
        )
    return frame, types.types


def _count_vectors(types: npt.NDArray[np.str_], field: BlockMotion) -> Counter[str]:
    """Compare who has a vector with who should; a macroblock has four cells of the grid."""
    covered = _cells(field.coverage[0] == 1)
    inter, intra = np.isin(types, list(_INTER)), np.isin(types, list(_INTRA))
    if not np.all(inter | intra):
        raise BitstreamError(f"macroblock types must be of I and P, got {np.unique(types)}")
    vectors = _cells(field.motion[0])
    skipped = types == _SKIP
    return Counter(
        inter=int(inter.sum()),
        intra=int(intra.sum()),
        inter_without_vector=int((inter & ~covered.all(axis=(1, 3))).sum()),
        intra_with_vector=int((intra & covered.any(axis=(1, 3))).sum()),
        skipped=int(skipped.sum()),
        skipped_moving=int((skipped & (vectors != 0).any(axis=(1, 3, 4))).sum()),
        skipped_fractional=int((skipped & (vectors & 3 != 0).any(axis=(1, 3, 4))).sum()),
    )


def _cells(grid: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an (Hb, Wb, ...) grid as (R, 2, C, 2, ...), macroblocks and their cells."""
    rows, columns = grid.shape[0] // 2, grid.shape[1] // 2
    return grid.reshape(rows, 2, columns, 2, *grid.shape[2:])


def _count_exact(
    decoded: Planes, reference: Planes, *, field: BlockMotion, skipped: npt.NDArray[np.bool_]
) -> Counter[str]:
    """Count the skipped macroblocks that a prediction reproduces, the true one and each control."""
    predicted = predict_planes(reference, field.motion[0], field.coverage[0])
    exact_y, exact_cb, exact_cr = (
        _exact(plane, prediction, side=side)
        for plane, prediction, side in zip(decoded, predicted, (16, 8, 8), strict=True)
    )
    counts = Counter(
        exact_y=int((skipped & exact_y).sum()),
        exact_cb_cr=int((skipped & exact_cb & exact_cr).sum()),
    )
    for name, predict in CONTROLS.items():
        exact = _exact(decoded.y, predict(reference, field), side=MACROBLOCK)
        counts[f"exact_{name}"] = int((skipped & exact).sum())
    return counts


def _exact(
    decoded: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], *, side: int
) -> npt.NDArray[np.bool_]:
    """Return (R, C) True where all ``side`` x ``side`` samples of a macroblock are equal."""
    rows, columns = decoded.shape[0] // side, decoded.shape[1] // side
    equal = (decoded == predicted).reshape(rows, side, columns, side)
    result: npt.NDArray[np.bool_] = equal.all(axis=(1, 3))
    return result


def count_video(facts: VideoFacts) -> Counter[str]:
    """Make the canonical stream of a video and count in it."""
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        stream_path = Path(folder) / "canonical.nut"
        for _ in transcode_frames(
            facts, stream_path, canonical=CanonicalFormat(), binary=default_ffmpeg()
        ):
            pass
        return count_stream(stream_path)


def shares(counts: Counter[str]) -> dict[str, float | None]:
    """Return the share of skipped macroblocks that each prediction reproduces; None of none."""
    names = ["exact_y", "exact_cb_cr", *(f"exact_{name}" for name in CONTROLS)]
    num_skipped = counts["skipped"]
    return {name: counts[name] / num_skipped if num_skipped else None for name in names}


def failures(total: Counter[str]) -> list[str]:
    """Name what of the claim does not hold for the counts of all videos together."""
    found = []
    if total["skipped"] == 0:
        found.append("no skipped macroblock at all: nothing was proven")
    for name in ("exact_y", "exact_cb_cr"):
        if total[name] != total["skipped"]:
            found.append(f"{name}: {total[name]} of {total['skipped']} skipped macroblocks")
    found += [
        f"{name}: {total[name]}, must be 0"
        for name in ("inter_without_vector", "intra_with_vector")
        if total[name]
    ]
    for name in CONTROLS:
        if total[f"exact_{name}"] >= CONTROL_LIMIT * total["skipped"]:
            found.append(f"the control {name!r} did not fail")
    return found


def _table(rows: dict[str, Counter[str]]) -> Table:
    table = Table("video", "frames", "P_SKIP", "exact Y", "exact CbCr", *CONTROLS)
    for name, counts in rows.items():
        shown = ["-" if share is None else f"{share:.4%}" for share in shares(counts).values()]
        table.add_row(name, str(counts["frames"]), str(counts["skipped"]), *shown)
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = parse_arguments("skip_proof", "Skipped macroblocks have residual zero.")
    videos = list(usable_videos(arguments.videos))
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(pool.map(count_video, videos))
    rows = {facts.path.name: counts for facts, counts in zip(videos, results, strict=True)}
    total: Counter[str] = Counter()
    for counts in results:
        total.update(counts)  # unlike +, update keeps the zeros
    found = failures(total)
    content = {
        "claim": "100 % of P_SKIP macroblocks exact in Y and in Cb and Cr, a vector for each "
        f"inter and no intra macroblock, each control below {CONTROL_LIMIT} in total",
        "holds": not found,
        "failures": found,
        "videos": [
            {"video": name, **counts, "shares": shares(counts)} for name, counts in rows.items()
        ],
        "total": {**total, "shares": shares(total)},
    }
    write_report(arguments.json_file, content, name="skip_proof")
    console = Console(width=120)
    console.print(_table({**rows, "all": total}))
    console.print("\n".join(found) or "the claim holds", markup=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
