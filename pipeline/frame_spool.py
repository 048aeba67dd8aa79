"""Encoded frames on their way from the transcode to the clips, on disk."""

from typing import BinaryIO

import numpy as np
import numpy.typing as npt


class FrameSpool:
    """JPEGs back to back in a file, so that memory does not grow with the video."""

    def __init__(self, file: BinaryIO, *, stride: int) -> None:
        """Start a spool.

        Args:
            file: An empty file, open to be written and read; the caller closes it.
            stride: Every n-th frame is stored, from frame 0 on.
        """
        self._file = file
        self._stride = stride
        self._offsets = [0]

    def add(self, jpeg: bytes) -> None:
        """Append the JPEG of the next stored frame."""
        self._file.write(jpeg)
        self._offsets.append(self._offsets[-1] + len(jpeg))

    def read(self, frames: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the JPEGs of stored frames, by frame index; nothing is added afterwards."""
        jpegs = []
        for position in (frames // self._stride).tolist():
            start, end = self._offsets[position : position + 2]
            self._file.seek(start)
            jpegs.append(self._file.read(end - start))
        return jpegs
