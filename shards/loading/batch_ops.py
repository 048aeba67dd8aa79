"""What happens to whole batches on the device: normalisation, Mixup and CutMix.

Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) as timm, MViT and the released
Video-FocalNet apply them: one of the two for a whole batch, each clip with the clip that stands
at the same place from the batch's other end.

Motion goes along: it is affine in the accumulated displacements, so that Mixup mixes it linearly,
and CutMix pastes the same box of cells as of pixels. What was drawn is a function of (seed, epoch,
position), so that a run that is continued mixes the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gopstream.shards.loading.geometry import Box
from gopstream.shards.loading.order import draw_generator


def normalise(
    frames: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return ``(frames / 255 - mean) / std``, worked out in float32.

    Args:
        frames: (B, 3, T, H, W) uint8 RGB.
        mean: Three values on the scale where white is 1.
        std: Likewise.
        dtype: Of the result, such as ``torch.bfloat16``.

    Returns:
        (B, 3, T, H, W) in the memory order of ``frames``.
    """
    shape = (1, 3, 1, 1, 1)
    black = 255.0 * torch.tensor(mean, dtype=torch.float64).view(shape)
    gain = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64).view(shape))
    levels = frames.to(torch.float32)
    levels.sub_(black.to(levels.device, torch.float32, non_blocking=True))
    return levels.mul_(gain.to(levels.device, torch.float32, non_blocking=True)).to(dtype)


@dataclass(frozen=True, slots=True)
class MixSpec:
    """How batches are mixed."""

    mixup: float = 0.0
    """Both parameters of the Beta distribution of Mixup's shares; 0 is no Mixup."""
    cutmix: float = 0.0
    """Likewise of CutMix."""
    probability: float = 1.0
    """That a batch is mixed at all."""
    switch: float = 0.5
    """Probability of CutMix rather than Mixup where both are on."""
    label_smoothing: float = 0.0
    """Weight that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("probability", "switch", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


class Mix(NamedTuple):
    """How one batch is mixed."""

    share: float = 1.0
    """Of a clip in what it becomes; the rest is its partner's. 1 leaves the batch as it is."""
    box: Box | None = None
    """Where the partner is pasted, in pixels; None mixes all of the frame."""


def mix_generator(*, seed: int, epoch: int, position: int) -> np.random.Generator:
    """Return the random numbers of the batch whose first clip has a position.

    They are others than those of that clip's own draws.
    """
    clip = draw_generator(seed=seed, epoch=epoch, position=position).bit_generator
    assert isinstance(clip, np.random.Philox)
    return np.random.Generator(clip.jumped())


def draw_mix(
    spec: MixSpec, *, frame_size: tuple[int, int], cell_pixels: int = 1, rng: np.random.Generator
) -> Mix:
    """Draw how a batch is mixed.

    CutMix's box has the partner's share of the area before it is cut at the borders; what is
    left of it then counts as the share.

    Args:
        spec: The recipe's.
        frame_size: (width, height) of the clips.
        cell_pixels: Side of a cell of the motion field in pixels: the box is put on whole cells.
        rng: Random numbers, such as :func:`mix_generator` gives.

    Raises:
        ValueError: If the frames do not divide into cells.
    """
    width, height = frame_size
    if width % cell_pixels or height % cell_pixels:
        raise ValueError(
            f"frames of {width}x{height} do not divide into motion cells of {cell_pixels} pixels: "
            "choose a grid that divides the size"
        )
    happens, which, x, y = rng.random(4).tolist()
    if happens >= spec.probability or not (spec.mixup or spec.cutmix):
        return Mix()
    is_cutmix = spec.cutmix > 0 and (spec.mixup == 0 or which < spec.switch)
    alpha = spec.cutmix if is_cutmix else spec.mixup
    share = float(rng.beta(alpha, alpha))
    if not is_cutmix:
        return Mix(share)
    side = (1.0 - share) ** 0.5
    left, right = _span(x, int(width * side), width, cell_pixels)
    top, bottom = _span(y, int(height * side), height, cell_pixels)
    box = Box(left, top, right - left, bottom - top)
    return Mix(1.0 - box.width * box.height / (width * height), box)


def _span(draw: float, length: int, limit: int, step: int) -> tuple[int, int]:
    """Place a length about a drawn centre, cut at the limits, ends on the nearest step."""
    centre = int(draw * limit)
    first = max(0, centre - length // 2)
    last = min(limit, centre + length // 2)
    return (first + step // 2) // step * step, (last + step // 2) // step * step


def mix_clips(
    mix: Mix, frames: Tensor, *, motion: Tensor | None = None, valid: Tensor | None = None
) -> None:
    """Mix a batch with itself in reverse order, in place.

    A mixed vector counts as valid where either of the two was: an invalid one is 0, which is how
    models take it.

    Args:
        mix: How.
        frames: (B, C, T, H, W) of a floating type.
        motion: (B, ..., h, w) pixels, 0 where not valid.
        valid: (B, ..., h, w) bool.

    Raises:
        ValueError: If CutMix's box does not lie on whole cells of ``motion`` or ``valid``.
    """
    if mix.share == 1.0:
        return
    if mix.box is None:
        for plane in (frames, motion):
            if plane is not None:
                plane.lerp_(plane.flip(0), 1.0 - mix.share)
        if valid is not None:
            valid.logical_or_(valid.flip(0))
        return
    height, width = frames.shape[-2:]
    for plane in (frames, motion, valid):
        if plane is not None:
            rows, columns = _cells(mix.box, plane, height=height, width=width)
            plane[..., rows, columns] = plane[..., rows, columns].flip(0)


def _cells(box: Box, plane: Tensor, *, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a plane that a box of the frames covers."""
    spans = []
    for first, length, cells, pixels in (
        (box.top, box.height, plane.shape[-2], height),
        (box.left, box.width, plane.shape[-1], width),
    ):
        ends = (first * cells, (first + length) * cells)
        if any(end % pixels for end in ends):
            raise ValueError(
                f"a box from pixel {first} to {first + length} of {pixels} does not lie on whole "
                f"cells of a field of {cells}: draw it with cell_pixels"
            )
        spans.append(slice(ends[0] // pixels, ends[1] // pixels))
    return spans[0], spans[1]


def soft_labels(
    labels: Tensor, *, num_classes: int, label_smoothing: float = 0.0, mix: Mix | None = None
) -> Tensor:
    """Return the distribution over the classes that each clip of a batch is to be given.

    Args:
        labels: (B,) int64.
        num_classes: K.
        label_smoothing: Weight spread evenly over all classes, the right one among them.
        mix: How the batch was mixed; None if it was not.

    Returns:
        (B, K) float32, rows of sum 1.
    """
    even = label_smoothing / num_classes
    rows = torch.full((len(labels), num_classes), even, device=labels.device)
    rows.scatter_(1, labels[:, None], 1.0 - label_smoothing + even)
    return rows if mix is None else rows.lerp(rows.flip(0), 1.0 - mix.share)
