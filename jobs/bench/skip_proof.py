"""Proof that motion and interpolation are the codec's: skipped macroblocks have no residual.

A P_SKIP macroblock carries no data but its inferred vector (ITU-T H.264, clause 7.3.4), so that
the decoded picture there *is* the prediction. Where our own prediction from the exported vectors
gives the decoded samples, bit for bit, vectors and interpolation are right. Which macroblocks
are skipped is asked from another decoder (:mod:`gopstream.jobs.bench.macroblock_maps`). The same
holds for macroblocks with a vector and without coefficients, which a second question to the
decoder finds (:mod:`gopstream.jobs.bench.coefficients`). Three wrong predictions have to fail, and
the compiled kernels have to equal their twins in plain NumPy.

Dimensions: R x C macroblocks of a frame, Hb x Wb = 2R x 2C blocks of the motion grid.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.coefficients import (
    Unchanged,
    same_macroblocks,
    unchanged_macroblocks,
)
from gopstream.jobs.bench.macroblock_maps import (
    MACROBLOCK,
    MacroblockMap,
    read_macroblock_maps,
)
from gopstream.jobs.bench.plain_twins import count_twin_differences, twin_stride
from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.jobs.bench.proof_videos import PROOF_VIDEOS, make_proof_video
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.decode import DecodedFrame, open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BLOCK, BlockMotion, Planes
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, transcode_frames

CONTROL_LIMIT: Final = 0.9999
"""A control whose total share of exact macroblocks is not below this has not failed."""
_NEVER: Final = (
    "inter_without_vector",
    "intra_with_vector",
    "skipped_with_coefficients",
    "twin_differences",
)
_SKIP, _INTER, _INTRA = "S", "S>", "iIAP"


Predictor = Callable[[Planes, BlockMotion], npt.NDArray[np.uint8]]


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
        ``frames``, ``macroblocks``, ``inter``, ``intra``, ``inter_without_vector``,
        ``intra_with_vector``. Of the skipped: ``skipped``, ``skipped_moving`` (vector not zero),
        ``skipped_fractional``, ``exact_y``, ``exact_cb_cr``, ``exact_NAME`` (luma) per control.
        Of the inter ones without coefficients, skipped or not: ``free_y`` and ``free_cb_cr``
        (in luma, in chroma), ``free_y_exact``, ``free_cb_cr_exact``, ``free_NAME`` (luma) per
        control; of those without any that are not skipped: ``free_coded`` and
        ``free_coded_exact``. With coefficients: ``coefficients`` and ``coefficients_exact``.
        ``skipped_with_coefficients`` and what :func:`count_twin_differences` counts.

    Raises:
        BitstreamError: If the two decoders disagree about the frames.
    """
    counts: Counter[str] = Counter()
    reference: Planes | None = None
    unchanged = unchanged_macroblocks(stream_path)
    for (frame, types), same in zip(_frames_with_maps(stream_path), unchanged, strict=True):
        height, width = frame.planes.y.shape
        field = rasterise_vectors(frame.vectors, coded_height=height, coded_width=width)
        stride = twin_stride(height * width)
        if reference is not None and counts["frames"] % stride == 1 % stride:
            counts.update(count_twin_differences(frame, reference, field))
        counts.update(frames=1, macroblocks=types.size)
        counts.update(_count_vectors(types, field))
        if reference is not None and frame.kind == "P":
            counts.update(
                _count_exact(frame.planes, reference, field=field, types=types, unchanged=same)
            )
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
    decoded: Planes,
    reference: Planes,
    *,
    field: BlockMotion,
    types: npt.NDArray[np.str_],
    unchanged: Unchanged,
) -> Counter[str]:
    """Count the macroblocks that a prediction reproduces, the true one and each control."""
    predicted = predict_planes(reference, field.motion[0], field.coverage[0])
    exact_y, exact_cb, exact_cr = (
        same_macroblocks(plane, prediction, side=side)
        for plane, prediction, side in zip(decoded, predicted, (16, 8, 8), strict=True)
    )
    exact_cb_cr = exact_cb & exact_cr
    inter, skipped = np.isin(types, list(_INTER)), types == _SKIP
    free_y, free_cb_cr = inter & unchanged.y, inter & unchanged.cb_cr
    free = free_y & free_cb_cr
    chosen = {
        "exact_y": skipped & exact_y,
        "exact_cb_cr": skipped & exact_cb_cr,
        "skipped_with_coefficients": skipped & ~free,
        "free_y": free_y,
        "free_y_exact": free_y & exact_y,
        "free_cb_cr": free_cb_cr,
        "free_cb_cr_exact": free_cb_cr & exact_cb_cr,
        "free_coded": free & ~skipped,
        "free_coded_exact": free & ~skipped & exact_y & exact_cb_cr,
        "coefficients": inter & ~free,
        "coefficients_exact": inter & ~free & exact_y & exact_cb_cr,
    }
    for name, predict in CONTROLS.items():
        exact = same_macroblocks(decoded.y, predict(reference, field), side=MACROBLOCK)
        chosen[f"exact_{name}"] = skipped & exact
        chosen[f"free_{name}"] = free_y & exact
    return Counter({name: int(which.sum()) for name, which in chosen.items()})


def count_video(facts: VideoFacts, *, canonical: CanonicalFormat | None = None) -> Counter[str]:
    """Make the canonical stream of a video and count in it."""
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        stream_path = Path(folder) / "canonical.nut"
        for _ in transcode_frames(
            facts,
            stream_path,
            canonical=canonical or CanonicalFormat(),
            binary=default_ffmpeg(),
        ):
            pass
        return count_stream(stream_path)


def count_proof_video(name: str) -> Counter[str]:
    """Draw one of the synthetic videos and count in its canonical stream."""
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        path = make_proof_video(name, Path(folder))
        return count_video(open_video(path), canonical=PROOF_VIDEOS[name].canonical)


def shares(counts: Counter[str]) -> dict[str, float | None]:
    """Return which share of a kind of macroblocks each prediction reproduces; None of none."""
    of_skipped = ["exact_y", "exact_cb_cr", *(f"exact_{name}" for name in CONTROLS)]
    parts = dict.fromkeys(of_skipped, "skipped")
    parts |= {"free_y_exact": "free_y", "free_cb_cr_exact": "free_cb_cr"}
    parts |= {"free_coded_exact": "free_coded", "coefficients_exact": "coefficients"}
    parts |= {f"free_{name}": "free_y" for name in CONTROLS}
    return {
        part: counts[part] / counts[whole] if counts[whole] else None
        for part, whole in parts.items()
    }


def failures(total: Counter[str]) -> list[str]:
    """Name what of the claim does not hold for the counts of all videos together."""
    found = []
    for name in ("skipped", "free_coded", "coefficients", "twin_frames"):
        if total[name] == 0:
            found.append(f"{name}: none at all, so that nothing was proven")
    for part, whole in (
        ("exact_y", "skipped"),
        ("exact_cb_cr", "skipped"),
        ("free_y_exact", "free_y"),
        ("free_cb_cr_exact", "free_cb_cr"),
        ("free_coded_exact", "free_coded"),
    ):
        if total[part] != total[whole]:
            found.append(f"{part}: {total[part]} of {total[whole]} {whole} macroblocks")
    found += [f"{name}: {total[name]}, must be 0" for name in _NEVER if total[name]]
    for name in CONTROLS:
        for kind, whole in (("exact", "skipped"), ("free", "free_y")):
            if total[f"{kind}_{name}"] >= CONTROL_LIMIT * total[whole]:
                found.append(f"the control {name!r} did not fail on {whole} macroblocks")
    return found


def _table(rows: dict[str, Counter[str]]) -> Table:
    shown = ("exact_y", "exact_cb_cr", "free_y_exact", "free_cb_cr_exact", "free_coded_exact")
    controls = tuple(f"free_{name}" for name in CONTROLS)
    counted = ("frames", "inter", "intra", "skipped", "free_coded", "twin_differences")
    table = Table("video", *counted, *shown, *controls)
    for name, counts in rows.items():
        of = shares(counts)
        cells = [
            "-" if (share := of[part]) is None else f"{share:.2%}" for part in shown + controls
        ]
        table.add_row(name, *(str(counts[part]) for part in counted), *cells)
    return table


def count_all(folder: Path) -> dict[str, Counter[str]]:
    """Count in the videos of a folder and in the synthetic ones, spread over processes."""
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        drawn = {name: pool.submit(count_proof_video, name) for name in PROOF_VIDEOS}
        real = {facts.path.name: pool.submit(count_video, facts) for facts in usable_videos(folder)}
        return {name: future.result() for name, future in (real | drawn).items()}


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = parse_arguments("skip_proof", "Skipped macroblocks have residual zero.")
    rows = count_all(arguments.videos)
    total: Counter[str] = Counter()
    for counts in rows.values():
        total.update(counts)  # unlike +, update keeps the zeros
    found = failures(total)
    content = {
        "claim": "100 % of P_SKIP macroblocks and of inter macroblocks without coefficients exact "
        "in Y and in Cb and Cr, a vector for each inter and no intra macroblock, each control "
        f"below {CONTROL_LIMIT} in total, compiled kernels equal to plain NumPy",
        "holds": not found,
        "failures": found,
        "videos": [
            {"video": name, **counts, "shares": shares(counts)} for name, counts in rows.items()
        ],
        "total": {**total, "shares": shares(total)},
    }
    write_report(arguments.json_file, content, name="skip_proof")
    console = Console(width=220)
    console.print(_table({**rows, "all": total}))
    console.print("\n".join(found) or "the claim holds", markup=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
