"""Decode the stored frames of a clip: into memory that is reused, no further than a crop needs.

A JPEG is decoded from its first row on, and nobody asks for what lies under the crop: a copy
whose header states fewer rows decodes to the very same pixels, as far as it goes, in less time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.shards.sample_parts import Buffer

# ITU-T T.81, B.1.1.3: second bytes of markers.
_START_OF_SCAN: Final = 0xDA
_HUFFMAN_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_PROGRESSIVE: Final = 0xC2
_END_OF_IMAGE: Final = b"\xff\xd9"
# libjpeg's smooth upsampling of chroma looks one chroma row, two of luma, beyond its own.
_ROWS_BEYOND: Final = 2
_LARGEST_KEPT: Final = 128 << 20
"""Bytes of frames that a process keeps; more than 16 frames of 1080p."""


class FrameBuffer:
    """Memory for the decoded frames of one clip after the other.

    A clip has megabytes, and fresh ones cost a page fault for each four kilobytes.
    """

    def __init__(self) -> None:
        """Begin without memory."""
        self._bytes = np.empty(0, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory behind."""
        return {"_bytes": np.empty(0, np.uint8)}

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return an array, which the next call may write to.

        Raises:
            MemoryError: If there is not so much.
        """
        size = math.prod(shape)
        if size > _LARGEST_KEPT:
            return np.empty(shape, np.uint8)
        if size > self._bytes.size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].reshape(shape)


def decode_frames(
    jpegs: Sequence[Buffer],
    buffer: FrameBuffer,
    *,
    frame_size: tuple[int, int],
    num_rows: int,
    numbers: Sequence[int],
) -> npt.NDArray[np.uint8]:
    """Decode the upper rows of frames; those below may hold anything.

    Args:
        jpegs: Whole JPEGs, whose bytes have been compared with their checksums.
        buffer: For the pixels.
        frame_size: (width, height) that each must have.
        num_rows: How many rows are needed, at most ``height``.
        numbers: What messages call them.

    Returns:
        (T, height, width, 3) RGB.

    Raises:
        ValueError: If one does not decode or has another size; says its number.
        MemoryError: If there is not enough.
    """
    width, height = frame_size
    place = 0
    try:
        headers: list[JpegHeader] = []  # of all, before memory is taken
        for header in jpeg_headers(jpegs):
            _check_size(header, frame_size)
            headers.append(header)
            place = len(headers)
        decoded = buffer.take((len(jpegs), height, width, 3))
        for place, header in enumerate(headers):
            decode_rows(jpegs[place], header, num_rows=num_rows, out=decoded[place])
    except ValueError as error:
        raise ValueError(f"JPEG {numbers[place]} does not decode: {error}") from error
    except MemoryError as error:
        text = f"{len(jpegs)} frames of {width}x{height} do not fit into memory"
        raise MemoryError(text) from error
    return decoded


def _check_size(header: "JpegHeader", frame_size: tuple[int, int]) -> None:
    """Refuse a JPEG of another size than the index says.

    Raises:
        ValueError: Saying both.
    """
    if (header.width, header.height) != frame_size:
        width, height = frame_size
        raise ValueError(f"it is {header.width}x{header.height}, not {width}x{height}")


class JpegHeader(NamedTuple):
    """What the headers of a JPEG say."""

    width: int
    height: int
    height_at: int
    """Byte at which the height is stated, in two bytes."""
    unit_rows: int
    """Rows of its least coded unit."""
    has_one_scan: bool
    """Whether one scan holds all components, row by row, from the first row to the last."""
    num_bytes: int
    """Before the scan's own, which differ from frame to frame."""


def jpeg_headers(jpegs: Iterable[Buffer]) -> Iterator[JpegHeader]:
    """Read the headers of JPEGs that mostly have the same, as a clip's do.

    Raises:
        ValueError: If one has no frame header, or no scan.
    """
    known, header = b"", None
    for jpeg in jpegs:
        if header is None or jpeg[: header.num_bytes] != known:
            header = jpeg_header(jpeg)
            known = bytes(jpeg[: header.num_bytes])
        yield header


def jpeg_header(jpeg: Buffer) -> JpegHeader:
    """Read the headers of a JPEG (ITU-T T.81, B.2.2 and B.2.3).

    Raises:
        ValueError: If there is no frame header, or no scan.
    """
    place, frame, kind = 2, 0, 0
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if marker in _HUFFMAN_FRAMES:
            frame, kind = place, marker
        elif marker == _START_OF_SCAN:
            break
        place += 2 + (jpeg[place + 2] << 8 | jpeg[place + 3])
    else:
        raise ValueError("it has no start of a scan")
    if not frame or max(frame + 10, place + 5) > len(jpeg):
        raise ValueError("it has no frame header that can be decoded")
    components = jpeg[frame + 9]
    factors = jpeg[frame + 11 : frame + 10 + 3 * components : 3]
    return JpegHeader(
        width=jpeg[frame + 7] << 8 | jpeg[frame + 8],
        height=jpeg[frame + 5] << 8 | jpeg[frame + 6],
        height_at=frame + 5,
        unit_rows=8 * max((factor & 15 for factor in factors), default=1),
        has_one_scan=kind != _PROGRESSIVE and jpeg[place + 4] == components,
        num_bytes=place + 5,
    )


def decode_rows(
    jpeg: Buffer, header: JpegHeader, *, num_rows: int, out: npt.NDArray[np.uint8]
) -> None:
    """Decode the upper rows of a JPEG; those below are decoded or left as they were.

    Args:
        jpeg: A whole JPEG, whose bytes have been compared with their checksum.
        header: What it says of itself.
        num_rows: How many rows are needed.
        out: (height, width, 3) for its pixels, RGB.

    Raises:
        ValueError: If it does not decode.
    """
    enough = -(-(num_rows + _ROWS_BEYOND) // header.unit_rows) * header.unit_rows
    if enough >= header.height or not header.has_one_scan or jpeg[-2:] != _END_OF_IMAGE:
        simplejpeg.decode_jpeg(jpeg, buffer=out)
        return
    shorter = bytearray(jpeg)
    shorter[header.height_at : header.height_at + 2] = enough.to_bytes(2, "big")
    # Not strict: what is left of the scan is to be ignored.
    simplejpeg.decode_jpeg(shorter, buffer=out[:enough], strict=False)
