"""How a recipe transforms clips: plain numbers and names, checked once."""

from dataclasses import dataclass
from typing import Final, Literal

from gopstream.shards.loading.appearance import EraseFill
from gopstream.shards.loading.augment_policy import parse_policy
from gopstream.shards.value_checks import check_fields

CropKind = Literal["area", "short_side", "random", "centre"]
PolicyPlace = Literal["crop", "frame"]


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """How clips are transformed: plain numbers and names, as a recipe has them."""

    size: int = 224
    """Side of the square result in pixels."""
    crop: CropKind = "area"
    """Of training clips. ``area``: RandomResizedCrop by ``crop_scale`` and ``crop_ratio``.
    ``short_side``: resize the short side to a number drawn from ``short_side``, then crop at
    random (SlowFast, ICCV 2019). ``random``: crop stored pixels at random. ``centre``: as the
    central test view."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the frame's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over height."""
    short_side: tuple[float, float] = (256.0, 320.0)
    """Range of the short side after the resize of ``crop = "short_side"``, in pixels."""
    flip: float = 0.0
    """Probability of mirroring. Off unless asked for: it swaps left and right."""
    keep_direction: tuple[int, ...] = ()
    """Labels whose clips are never mirrored, since the label names a direction."""
    policy: str = ""
    """Augmentation policy, such as ``rand-m7-n4-mstd0.5-inc1``; see
    :func:`gopstream.shards.loading.augment_policy.parse_policy`."""
    policy_on: PolicyPlace = "crop"
    """What the policy works on: the crop, as timm, Video-Swin and PST do, or the whole stored
    ``frame`` before the crop, as MViT does; that costs time where frames are large."""
    jitter: float = 0.0
    """Probability of colour jitter, drawn once per clip."""
    brightness: float = 0.0
    """Colour jitter draws a factor from 1 - this to 1 + this."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Colour jitter shifts the hue by up to this share of the circle, at most 0.5."""
    jitter_per_frame: bool = False
    """Draw order and factors anew for each frame, as the released Video-FocalNet does."""
    greyscale: float = 0.0
    """Probability of greyscale."""
    blur: float = 0.0
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of its standard deviation in pixels of the result."""
    erase: float = 0.0
    """Probability of random erasing (Zhong et al., AAAI 2020), of a clip or of each frame."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Range of the erased share of the area."""
    erase_ratio: float = 0.3
    """Least height over width of an erased box; the greatest is its inverse."""
    erase_fill: EraseFill = "noise"
    """``noise``: each pixel drawn from a normal distribution; ``colour``: one colour drawn from
    it; ``mean``: its mean."""
    erase_mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Of that distribution: what normalisation subtracts, where white is 1."""
    erase_std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    erase_per_frame: bool = False
    """Another draw for each frame rather than the same box in all of them."""
    view_short_side: int = 0
    """Short side that test views are resized to before the crop, in pixels; 0 is ``size``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_fields(self)
        if self.policy:
            parse_policy(self.policy)
        if self.size < 1 or self.view_short_side < 0:
            raise ValueError(
                f"size must be at least 1 and view_short_side not negative, got {self.size}, "
                f"{self.view_short_side}"
            )
        for name, low, high in _SHARES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value}")
        for name, high in _RANGES:
            first, last = getattr(self, name)
            if not 0 < first <= last <= high:
                raise ValueError(f"{name} must rise within (0, {high:g}], got {first}, {last}")
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if (self.jitter > 0) != any(strengths):
            raise ValueError(
                "jitter is the probability of colour jitter, whose strengths are brightness, "
                f"contrast, saturation and hue: give both, got {self.jitter} and {strengths}"
            )
        if self.crop == "short_side" and self.short_side[0] < self.size:
            raise ValueError(
                f"short_side must be at least size = {self.size}, got {self.short_side[0]:g}"
            )
        if 0 < self.view_short_side < self.size:
            raise ValueError(
                f"view_short_side must be at least size = {self.size}, got {self.view_short_side}"
            )


_SHARES: Final = (
    ("flip", 0.0, 1.0),
    ("jitter", 0.0, 1.0),
    ("brightness", 0.0, 10.0),
    ("contrast", 0.0, 10.0),
    ("saturation", 0.0, 10.0),
    ("hue", 0.0, 0.5),
    ("greyscale", 0.0, 1.0),
    ("blur", 0.0, 1.0),
    ("erase", 0.0, 1.0),
    ("erase_ratio", 0.01, 1.0),
)
_RANGES: Final = (
    ("crop_scale", 1.0),
    ("crop_ratio", 10.0),
    ("short_side", 65535.0),
    ("blur_sigma", 100.0),
    ("erase_area", 1.0),
)
