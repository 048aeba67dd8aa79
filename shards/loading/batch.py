"""A batch of clips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gopstream.shards.loading.device_frames import FrameBatch, decode_frames
from gopstream.shards.loading.device_motion import MotionBatch, accumulated_motion


class Skipped(NamedTuple):
    """A clip that could not be read and was left out of its batch."""

    key: str
    """Empty where its shard's index is damaged and ``samples.parquet`` is not at hand."""
    position: int
    """In the epoch."""
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class ClipBatch:
    """B clips; none where all views of a batch of views were skipped."""

    labels: Tensor
    """(B,) int64."""
    keys: list[str]
    positions: Tensor
    """(B,) int64: places in the epoch, or in the list of test views."""
    is_repeat: Tensor
    """(B,) bool: shown before in this epoch, here only to fill the last batch."""
    motion: Tensor | None = None
    """(B, Q, 2, J, h, w) float32 pixels, (dx, dy) from query frames to the frames of their
    sub-clips; 0 where not valid."""
    valid: Tensor | None = None
    """(B, Q, J, h, w) bool."""
    vectors: Tensor | None = None
    """(B, 2, T, h, w) float32 pixels, (dx, dy) from each frame to its reference; 0 where the
    codec predicted nothing."""
    coverage: Tensor | None = None
    """(B, T, h, w) bool: whether the codec predicted the block from another frame."""
    residual: Tensor | None = None
    """(B, 3, T, H, W) int16: Y, Cb, Cr of decoded minus predicted picture."""
    rgb_residual: Tensor | None = None
    """(B, Q, 3, J, H, W) float16 levels, R, G, B of query frames minus those that the frames of
    their sub-clips showed where the content was; 0 where not valid."""
    rgb_valid: Tensor | None = None
    """(B, Q, J, H, W) bool."""
    pixels: Tensor | None = None
    """``frames``; None until they are decoded, where the device does that."""
    jpegs: FrameBatch | None = None
    """What :meth:`decoded` makes ``frames`` of, where the device decodes them."""
    windows: MotionBatch | None = None
    """What :meth:`accumulated` makes ``motion`` and ``valid`` of, where the device makes them."""
    skipped: tuple[Skipped, ...] = ()
    """Clips of this batch that could not be read; the tensors do not have them."""

    def __repr__(self) -> str:
        """Say what is there, without its contents."""
        parts = [f"{len(self.keys)} clips"]
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                kind = str(value.dtype).removeprefix("torch.")
                name = "frames" if field.name == "pixels" else field.name
                parts.append(f"{name} {tuple(value.shape)} {kind}")
            elif field.name in ("jpegs", "windows") and value is not None:
                parts.append(f"{field.name} for the device")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"ClipBatch({', '.join(parts)})"

    @property
    def frames(self) -> Tensor:
        """(B, 3, T, H, W) uint8 RGB, channels last in memory.

        Raises:
            ValueError: If they are still to be decoded on the device.
        """
        if self.pixels is None:
            raise ValueError(
                'frames are decoded on the device (frames_on = "device"): call '
                "ClipBatch.decoded(device) first"
            )
        return self.pixels

    def map(self, change: Callable[[Tensor], Tensor]) -> "ClipBatch":
        """Return a batch with each tensor changed."""
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ClipBatch":
        """Return the batch on another device; JPEGs stay where the decoder takes them from."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if self.windows is None:
            return moved
        return replace(moved, windows=self.windows.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ClipBatch":
        """Return the batch in memory that a GPU copies from without waiting."""
        pinned = self.map(lambda tensor: tensor.pin_memory())
        if self.windows is None:
            return pinned
        return replace(pinned, windows=self.windows.pin_memory())

    def decoded(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch with its frames decoded, where the device does that.

        Args:
            device: Where the frames are wanted.

        Raises:
            DamageError: If a JPEG does not decode, although its bytes are those that were
                written; names shard and key.
        """
        if self.jpegs is None:
            return self
        return replace(self, pixels=decode_frames(self.jpegs, device), jpegs=None)

    def accumulated(self, *, query_stride: int) -> "ClipBatch":
        """Return the batch with its motion made on the device on which it is.

        Args:
            query_stride: Of the ``MotionSpec`` with which it was read.
        """
        if self.windows is None:
            return self
        motion, valid = accumulated_motion(self.windows, query_stride=query_stride)
        return replace(self, motion=motion, valid=valid, windows=None)


class BatchFacts(NamedTuple):
    """What a batch is besides its arrays; plain values."""

    keys: list[str]
    labels: list[int]
    positions: list[int]
    is_repeat: list[bool]
    skipped: tuple[Skipped, ...]
    jpegs: FrameBatch | None = None
    windows: MotionBatch | None = None


def make_batch(facts: BatchFacts, tensors: Mapping[str, Tensor]) -> ClipBatch:
    """Put a batch together.

    Args:
        facts: Of its B clips.
        tensors: ``frames`` (B, T, H, W, 3) if they are decoded, and the other planes as
            :class:`ClipBatch` has them.
    """
    planes = {name: tensor for name, tensor in tensors.items() if name != "frames"}
    if "frames" in tensors:
        planes["pixels"] = tensors["frames"].permute(0, 4, 1, 2, 3)
    return ClipBatch(
        labels=torch.tensor(facts.labels, dtype=torch.int64),
        keys=facts.keys,
        positions=torch.tensor(facts.positions, dtype=torch.int64),
        is_repeat=torch.tensor(facts.is_repeat, dtype=torch.bool),
        skipped=facts.skipped,
        jpegs=facts.jpegs,
        windows=facts.windows,
        **planes,
    )
