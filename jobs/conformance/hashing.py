"""The hash of a frame's vectors: the same for every extractor that is right.

docs/conformance.md shows it as five lines of NumPy.
"""

import hashlib

import numpy as np
import numpy.typing as npt


def hash_vectors(table: npt.NDArray[np.int32]) -> str:
    """Return the sha256 of one frame's vectors, whatever their order.

    Only fields are hashed: FFmpeg leaves the padding of its records uninitialised.

    Args:
        table: (N, 10) integers: source, w, h, src_x, src_y, dst_x, dst_y, motion_x, motion_y,
            motion_scale; N is 0 in an I-frame.

    Raises:
        ValueError: If the shape is another.
    """
    if table.ndim != 2 or table.shape[1] != 10:
        raise ValueError(f"vectors must be an (N, 10) table, got {table.shape}")
    order = np.lexsort(table.T[::-1])
    return hashlib.sha256(table[order].astype("<i4").tobytes()).hexdigest()
