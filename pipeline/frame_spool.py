"""Encoded frames on their way from the transcode to the clips, on disk."""

from pathlib import Path

import numpy as np
import numpy.typing as npt


class FrameSpool:
    """JPEGs back to back in a file, so that memory does not grow with the video."""

    def __init__(self, path: Path, *, stride: int) -> None:
        """Start a spool.

        Args:
            path: Of a file that does not exist yet.
            stride: Every n-th frame is stored, from frame 0 on.
        """
        self._path = path
        self._stride = stride
        self._offsets = [0]
        path.touch()

    def add(self, jpeg: bytes) -> None:
        """Append the JPEG of the next stored frame."""
        with self._path.open("ab") as spool:
            spool.write(jpeg)
        self._offsets.append(self._offsets[-1] + len(jpeg))

    def read(self, frames: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the JPEGs of stored frames, by frame index."""
        jpegs = []
        with self._path.open("rb") as spool:
            for position in (frames // self._stride).tolist():
                start, end = self._offsets[position : position + 2]
                spool.seek(start)
                jpegs.append(spool.read(end - start))
        return jpegs
