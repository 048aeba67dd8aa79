"""Hold the compiled kernels equal to their twins in plain NumPy, on real frames."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gopstream.pipeline import compensation, residual
from gopstream.pipeline.decode import DecodedFrame
from gopstream.pipeline.grid import BlockMotion, Planes
from gopstream.pipeline.plain import compensation as plain_compensation
from gopstream.pipeline.plain import motion as plain_motion
from gopstream.pipeline.plain import residual as plain_residual


def twin_stride(num_pixels: int) -> int:
    """Return n where every n-th frame is compared: 1 up to 200,000 pixels, at most 8."""
    return max(1, min(8, num_pixels // 100_000))


def count_twin_differences(
    frame: DecodedFrame, reference: Planes, field: BlockMotion
) -> Counter[str]:
    """Compute a frame's motion, prediction and residual with both, and compare.

    Args:
        frame: A decoded frame of a stream without B-frames.
        reference: The coded planes of the frame before it.
        field: The frame's motion by the compiled kernel, one list.

    Returns:
        ``twin_frames`` 1, ``twin_samples`` compared, and ``twin_differences``, values that are
        not equal; a shape that differs counts as each of its values.
    """
    planes = frame.planes
    height, width = planes.y.shape
    twin_field = plain_motion.rasterise_vectors(
        frame.vectors, coded_height=height, coded_width=width
    )
    predicted = compensation.predict_planes(reference, field.motion[0], field.coverage[0])
    twin_predicted = plain_compensation.predict_planes(
        reference, field.motion[0], field.coverage[0]
    )
    ours = residual.residual_between(planes, predicted)
    twin = plain_residual.residual_between(planes, predicted)
    pairs: list[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]] = [
        (field.motion, twin_field.motion),
        (field.coverage, twin_field.coverage),
        *zip(predicted, twin_predicted, strict=True),
        *zip(ours.planes, twin.planes, strict=True),
        (ours.exceptions, twin.exceptions),
        (
            residual.zero_macroblocks(ours.planes),
            plain_residual.zero_macroblocks(twin.planes),
        ),
        *zip(residual.add_residual(predicted, ours.planes), planes, strict=True),
    ]
    return Counter(
        twin_frames=1,
        twin_samples=sum(first.size for first, _ in pairs),
        twin_differences=count_unequal(pairs),
    )


def count_unequal(
    pairs: Iterable[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]],
) -> int:
    """Count the values in which the two of each pair differ."""
    total = 0
    for first, second in pairs:
        if first.shape != second.shape:
            total += max(1, first.size, second.size)
        else:
            total += int(np.count_nonzero(first != second))
    return total
