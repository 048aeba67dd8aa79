"""Frames of clips decoded on the device: the worker sends JPEGs instead of pixels.

On a CUDA device nvJPEG decodes all JPEGs of a batch at once, through torchvision; crop, resize and
flip follow on the device. On the CPU the same call gives the worker's frames in every bit: both
decoders are libjpeg-turbo, and the resize is the same kernel.

nvJPEG, as torchvision asks for it, repeats a chroma sample over its 2x2 pixels where libjpeg
interpolates between samples (jdsample.c, "fancy upsampling"; NVJPEG_FLAGS_DEFAULT). Frames of real
videos then differ by half a level in the mean, by tens of levels at edges between strong colours.
So a model should be tested with frames from where its training frames came from. The resize, in
floats since CUDA has no kernel for bytes, adds a level at most.

Dimensions: B clips of T frames, of which J differ; frames of W x H stored pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional

from gopstream.shards.errors import DamageError
from gopstream.shards.loading.geometry import Geometry
from gopstream.shards.sample_parts import Buffer

_DECODED_BYTES: Final = 1 << 28
"""Of stored frames that are held on the device at once, where a single clip does not take more."""


class ClipFrames(NamedTuple):
    """One clip's frames, but for the JPEGs themselves; plain values."""

    where: str
    """Shard and key, for messages."""
    numbers: tuple[int, ...]
    """J positions among the sample's stored JPEGs, for messages."""
    places: tuple[int, ...]
    """T: which of the J each frame of the clip shows."""
    frame_size: tuple[int, int]
    """(W, H)."""
    geometry: Geometry
    """Without a warp."""


class EncodedClip(NamedTuple):
    """What the worker has read of one clip."""

    jpegs: Sequence[Buffer]
    """J."""
    frames: ClipFrames


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """The JPEGs of several clips.

    They stay in the memory of the CPU, from where the decoder takes them, and need not be pinned:
    it has copied them when it returns.
    """

    content: Tensor
    """(bytes,) uint8: all JPEGs, one after the other."""
    lengths: tuple[int, ...]
    """Bytes of each JPEG."""
    clips: tuple[ClipFrames, ...]
    """B, whose JPEGs follow each other."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all JPEGs."""
        return self.content.numel()


def collate_frames(clips: Sequence[EncodedClip]) -> FrameBatch:
    """Put the JPEGs of clips into one tensor.

    Args:
        clips: B clips of the same number of frames and size of the result.
    """
    jpegs = [np.frombuffer(jpeg, np.uint8) for clip in clips for jpeg in clip.jpegs]
    return FrameBatch(
        torch.from_numpy(np.concatenate(jpegs)),
        tuple(map(len, jpegs)),
        tuple(clip.frames for clip in clips),
    )


def decode_frames(batch: FrameBatch, device: torch.device | str) -> Tensor:
    """Decode, crop, resize and flip the frames of a batch.

    On CUDA the calling thread waits until the JPEGs are decoded, but not for what it has queued
    itself.

    Args:
        batch: From :func:`collate_frames`.
        device: Where the frames are wanted; decoded there if it is a CUDA device.

    Returns:
        (B, 3, T, size, size) uint8 RGB, channels last in memory.

    Raises:
        DamageError: If a JPEG does not decode or has another size; names shard and key.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return _decoded(batch, torch.device("cpu")).to(device)
    number = torch.cuda.current_device() if device.index is None else device.index
    caller, own = torch.cuda.current_stream(number), _stream(number)
    with torch.cuda.stream(own):
        frames = _decoded(batch, torch.device("cuda", number))
    caller.wait_stream(own)
    frames.record_stream(caller)
    return frames


@lru_cache(maxsize=16)
def _stream(device: int) -> torch.cuda.Stream:
    """Return a stream of a device on which nothing else is done; see :func:`_pictures`."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not type it


def _decoded(batch: FrameBatch, device: torch.device) -> Tensor:
    jpegs = torch.split(batch.content, list(batch.lengths))
    clips = batch.clips
    size = clips[0].geometry.size
    out = torch.empty(
        (len(clips), len(clips[0].places), size, size, 3), dtype=torch.uint8, device=device
    )
    first = 0
    for rows in _groups(clips):
        group = [clips[row] for row in rows]
        end = first + sum(len(clip.numbers) for clip in group)
        pictures = iter(_pictures(jpegs[first:end], group, device))
        for row, clip in zip(rows, group, strict=True):
            own = [next(pictures) for _ in clip.numbers]
            out[row].copy_(_shown(own, clip).permute(0, 2, 3, 1))
        first = end
    return out.permute(0, 4, 1, 2, 3)


def _groups(clips: Sequence[ClipFrames]) -> Iterator[range]:
    """Yield rows of clips that are decoded together."""
    first = num_bytes = 0
    for row, clip in enumerate(clips):
        width, height = clip.frame_size
        more = 3 * width * height * len(clip.numbers)
        if row > first and num_bytes + more > _DECODED_BYTES:
            yield range(first, row)
            first, num_bytes = row, 0
        num_bytes += more
    yield range(first, len(clips))


def _pictures(
    jpegs: Sequence[Tensor], clips: Sequence[ClipFrames], device: torch.device
) -> list[Tensor]:
    """Decode JPEGs to (3, H, W) each.

    Raises:
        DamageError: If one does not decode or has another size.
    """
    # Imported here: it takes a second, which only this road needs.
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # torchvision's decoder writes at once into memory that was given back on this stream and
        # that kernels of it may still read (github.com/pytorch/vision/pull/9606). On a stream of
        # our own these are the crops of the group before, and nothing of the training step.
        torch.cuda.current_stream(device).synchronize()
    asked = [(clip, number) for clip in clips for number in clip.numbers]
    try:
        pictures: list[Tensor] = decode_jpeg(list(jpegs), mode=ImageReadMode.RGB, device=device)
    except RuntimeError:
        for jpeg, (clip, number) in zip(jpegs, asked, strict=True):
            _refuse_damage(jpeg, clip, number)
        raise  # the device's fault: all of them decode
    for picture, (clip, number) in zip(pictures, asked, strict=True):
        height, width = picture.shape[1:]
        if (width, height) != clip.frame_size:
            expected = "{}x{}".format(*clip.frame_size)
            raise DamageError(
                f"{clip.where}: JPEG {number} does not decode: it is {width}x{height}, not "
                f"{expected}"
            )
    return pictures


def _refuse_damage(jpeg: Tensor, clip: ClipFrames, number: int) -> None:
    """Judge a JPEG as the worker does, which never asks a device.

    Raises:
        DamageError: If it does not decode.
    """
    try:
        simplejpeg.decode_jpeg(jpeg.numpy())
    except ValueError as error:
        raise DamageError(f"{clip.where}: JPEG {number} does not decode: {error}") from error


def _shown(pictures: Sequence[Tensor], clip: ClipFrames) -> Tensor:
    """Crop, resize and flip J pictures (3, H, W), and repeat them: (T, 3, size, size)."""
    left, top, width, height = clip.geometry.box
    rows, columns = slice(top, top + height), slice(left, left + width)
    part = torch.stack([picture[:, rows, columns] for picture in pictures])
    size = clip.geometry.size
    if (width, height) != (size, size):
        part = _resized(part if part.device.type == "cpu" else part.float(), size)
    if clip.geometry.flip:
        part = part.flip(3)
    return part if len(part) == len(clip.places) else part[list(clip.places)]


def _resized(part: Tensor, size: int) -> Tensor:
    """Resize (J, 3, h, w) bytes, or floats where bytes have no kernel, to bytes."""
    resized = functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8) if resized.is_floating_point() else resized
