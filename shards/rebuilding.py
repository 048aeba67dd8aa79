"""The decoded frames of a sample back from its motion and residual, as the codec made them.

Each frame is predicted from the one before by the stored motion, and the stored residual is
added, modulo 256; an I-frame is predicted as a constant.

The prediction is compiled where Numba is installed. Training machines may lack it; then it is
that of plain NumPy, bit for bit the same and slower.

Dimensions: T frames, Hc x Wc pixels of the coded picture.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.grid import Planes
from gopstream.shards.sample_parts import MotionWindow

INTRA_PREDICTION: Final = 128
"""What an unpredicted sample is predicted as."""

Predict = Callable[[Planes, npt.NDArray[np.int16], npt.NDArray[np.uint8]], Planes]


@cache
def load_prediction() -> Predict:
    """Import the compiled prediction where Numba is installed, else the plain one."""
    try:
        from gopstream.pipeline.compensation import predict_planes
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "numba":
            raise
        from gopstream.pipeline.plain.compensation import predict_planes
    return predict_planes


def rebuild_frames(
    residual: npt.NDArray[np.uint8],
    window: MotionWindow,
    *,
    first_frame: int,
    frames: npt.NDArray[np.integer[Any]],
    coded_size: tuple[int, int],
) -> Planes:
    """Rebuild some frames of a sample; GOPs that hold none of them are passed over.

    Args:
        residual: (N, Hc * 3 / 2 * Wc) modulo 256, of frames from ``first_frame`` on.
        window: Motion that covers these frames.
        first_frame: An I-frame of the sample.
        frames: (T,) of the sample, in any order, with repeats.
        coded_size: (width, height).

    Returns:
        Y (T, Hc, Wc), Cb and Cr (T, Hc / 2, Wc / 2).

    Raises:
        ValueError: If ``first_frame`` is no I-frame, or a frame lies outside of the residual.
    """
    end = first_frame + len(residual)
    offset = first_frame - window.first_frame
    intra = window.is_intra_frame[offset : offset + len(residual)]
    if offset < 0 or len(intra) < len(residual) or not intra[:1].all():
        raise ValueError(f"frames are rebuilt from an I-frame on, and frame {first_frame} is none")
    if frames.min() < first_frame or frames.max() >= end:
        raise ValueError(
            f"frames must lie in {first_frame}..{end - 1}, got {frames.min()}..{frames.max()}"
        )
    numbers, places = np.unique(frames - first_frame, return_inverse=True)
    gops = np.cumsum(intra)
    kept: list[Planes] = []
    reference: Planes | None = None
    for number in range(int(numbers[-1]) + 1):
        ahead = int(numbers[len(kept)])
        if gops[number] != gops[ahead]:
            continue  # nothing of this GOP is asked for any more
        planes = _split(residual[number], coded_size)
        if intra[number]:
            reference = Planes(*(plane + np.uint8(INTRA_PREDICTION) for plane in planes))
        else:
            assert reference is not None
            at = offset + number
            predicted = load_prediction()(reference, window.motion[at, 0], window.coverage[at, 0])
            reference = Planes(*(p + r for p, r in zip(predicted, planes, strict=True)))
        if number == ahead:
            kept.append(reference)
    return Planes(*(np.stack([frame[i] for frame in kept])[places] for i in range(3)))


def _split(flat: npt.NDArray[np.uint8], coded_size: tuple[int, int]) -> Planes:
    """Cut one frame's I420 bytes into planes."""
    width, height = coded_size
    luma, chroma = height * width, height * width // 4
    half = (height // 2, width // 2)
    return Planes(
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(half),
        flat[luma + chroma :].reshape(half),
    )
