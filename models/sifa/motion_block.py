"""The SIFA block: what each frame takes from a deformed neighbourhood in the next one.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, sections 3.1, 3.2 and
4.2; the variants are those of tables 1(a) to 1(c).

Dimensions: B batch, T frames, P pairs of frames, H, W a grid, C width, K taps.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.layers.choices import require_choice
from gopstream.models.layers.unused_options import refuse_unused
from gopstream.models.sifa.aggregation import Implementation, attend_neighbours
from gopstream.models.sifa.offsets import (
    Direction,
    Ends,
    FramePairs,
    OffsetEstimator,
    OffsetSource,
    OffsetStart,
    pair_frames,
)

Variant = Literal["correlation", "regular", "deformable", "bidirectional"]
Scale = Literal["mean", "none"]

REGIONS = (1, 3, 5, 7, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionOptions:
    """What an inter-frame attention is made of; the defaults are the paper's but for `scale`.

    Raises:
        ValueError: If an option is none of its choices, or has no effect with the others.
    """

    variant: Variant = "deformable"
    """"regular" attends a square (SIFA_R of the paper), "deformable" moves its taps (SIFA),
    "bidirectional" attends the frame before as well, with offsets of its own (SIFA*).
    "correlation" adds the products with the square themselves, mapped to the width (SIFA_C; the
    paper does not say how: here by a linear layer without bias)."""
    offset_source: OffsetSource = "motion"
    """As for `OffsetEstimator`."""
    offset_start: OffsetStart = "zero"
    """Fresh offsets are none, or drawn as the other convolutions are, as in the authors' code."""
    region: int = 3
    """Taps on a side: 1, 3, 5, 7 or 9."""
    dilation: int = 1
    """Pixels between taps."""
    saliency_residual: bool = False
    """As for `motion_saliency`; True in the authors' code."""
    last: Ends = "self"
    """A frame without a neighbour attends itself, or takes nothing, as in the authors' code."""
    scale: Scale = "mean"
    """Weights are the mean product over channels, as in the authors' code, or dot products, as
    the paper writes. There is no softmax in either, so that what is added grows with the cube of
    the features, and of dot products with the width: hundreds of times what it is added to."""
    implementation: Implementation = "auto"
    """As for `attend_neighbours`."""

    def __post_init__(self) -> None:
        """Check the options."""
        choices = {
            "variant": Variant,
            "offset_source": OffsetSource,
            "offset_start": OffsetStart,
            "last": Ends,
            "scale": Scale,
            "implementation": Implementation,
        }
        for option, allowed in choices.items():
            require_choice(option, getattr(self, option), choices=get_args(allowed))
        if self.region not in REGIONS:
            raise ValueError(f"region must be one of {REGIONS}, got {self.region!r}")
        if self.dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {self.dilation}")
        self._refuse_unused()

    @property
    def moves_taps(self) -> bool:
        """Whether there are offsets."""
        return self.variant in ("deformable", "bidirectional")

    def _refuse_unused(self) -> None:
        offsets = ("offset_source", "offset_start", "saliency_residual")
        for is_idle, options, reason in (
            (not self.moves_taps, offsets, f"variant {self.variant!r} has no offsets"),
            (
                self.offset_source != "motion",
                ("saliency_residual",),
                f"offsets are estimated from {self.offset_source!r}, not from 'motion'",
            ),
            (self.region == 1, ("dilation",), "a region of 1 has one tap"),
            (
                self.variant == "correlation",
                ("implementation",),
                "variant 'correlation' attends nothing",
            ),
        ):
            if is_idle:
                given = {option: getattr(self, option) for option in options}
                refuse_unused(MotionOptions, given=given, reason=reason)


class InterFrameAttention(nn.Module):
    """What each frame takes from its neighbour; the caller adds it to the frame."""

    tap_weights: Tensor | None
    """(C, T, region, region); those of a frame are for the pair in which it is attended."""

    def __init__(
        self, width: int, *, options: MotionOptions, tap_frames: int | None = None
    ) -> None:
        """Build a block with fresh weights.

        Args:
            width: C.
            options: Of the block.
            tap_frames: T of all clips, for weights of each channel, frame and tap in place of
                the scale. In the authors' code they are constants, 1 / C, that checkpoints have;
                so they are a buffer here.

        Raises:
            ValueError: If there are weights of taps and the options have no place for them.
        """
        super().__init__()
        self.options = options
        with_offsets = options.moves_taps
        self.offsets = _make_estimator(width, options) if with_offsets else None
        self.previous_offsets = (
            _make_estimator(width, options) if options.variant == "bidirectional" else None
        )
        self.mapping = (
            nn.Linear(options.region**2, width, bias=False)
            if options.variant == "correlation"
            else None
        )
        weights = None
        if tap_frames is not None:
            if options.variant == "correlation" or options.scale != "mean":
                raise ValueError(
                    "weights of taps take the place of scale='mean' where frames are attended, "
                    f"got scale={options.scale!r} and variant={options.variant!r}"
                )
            shape = (width, tap_frames, options.region, options.region)
            weights = torch.full(shape, 1 / width)
        self.register_buffer("tap_weights", weights)
        self.initialise()

    def initialise(self) -> None:
        """Draw fresh offset estimators from torch's global generator, or set them to zero."""
        for estimator in (self.offsets, self.previous_offsets):
            if estimator is None:
                continue
            if self.options.offset_start == "zero":
                nn.init.zeros_(estimator.convolution.weight)
            else:
                draw_convolution(estimator.convolution)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        """Compute what is to be added to (B, T, H, W, C) frames, of the same shape.

        Raises:
            ValueError: If there are weights of taps, for another number of frames.
        """
        frames = frames_BTHWC.contiguous()
        added = self._attend(frames, direction="next", estimator=self.offsets)
        if self.options.variant == "bidirectional":
            added = added + self._attend(
                frames, direction="previous", estimator=self.previous_offsets
            )
        return added

    def _attend(
        self, frames: Tensor, *, direction: Direction, estimator: OffsetEstimator | None
    ) -> Tensor:
        options = self.options
        taken: Tensor
        pairs = pair_frames(frames, direction=direction, ends=options.last)
        if pairs.query_BPHWC.shape[1] == 0:
            return torch.zeros_like(frames)
        if self.mapping is not None:
            taken = self.mapping(_correlate(pairs, options=options))
        else:
            taken = attend_neighbours(
                pairs.query_BPHWC,
                pairs.keys_BPHWC,
                offsets_BPHWK2=None if estimator is None else estimator(pairs),
                region=options.region,
                dilation=options.dilation,
                scale=None if options.scale == "mean" else 1.0,
                tap_weights=self._weights_of_taps(pairs),
                implementation=options.implementation,
            )
        if options.last == "self":
            return taken
        missing = (0, 1) if direction == "next" else (1, 0)
        return functional.pad(taken, (0, 0, 0, 0, 0, 0, *missing))

    def _weights_of_taps(self, pairs: FramePairs) -> Tensor | None:
        """Return (P, K, C), those of the attended frames."""
        if self.tap_weights is None:
            return None
        num_frames = pairs.clip_BTHWC.shape[1]
        if num_frames != self.tap_weights.shape[1]:
            raise ValueError(
                f"the weights of taps are for {self.tap_weights.shape[1]} frames of features, "
                f"got {num_frames}; make the model with another num_frames= or without tap_weights="
            )
        weights = rearrange(self.tap_weights, "c t i j -> 1 t (i j) c")
        return pairs.of_keys(weights).squeeze(0)


def draw_convolution(convolution: nn.Conv2d | nn.Conv3d) -> None:
    """Draw weights as ResNets do: normal, for the variance after a ReLU in the backward pass."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def _make_estimator(width: int, options: MotionOptions) -> OffsetEstimator:
    return OffsetEstimator(
        width,
        source=options.offset_source,
        region=options.region,
        saliency_residual=options.saliency_residual,
    )


def _correlate(pairs: FramePairs, *, options: MotionOptions) -> Tensor:
    """Return products of each query with the taps of a square of its keys, (B, P, H, W, K)."""
    query = pairs.query_BPHWC
    height, width = query.shape[2:4]
    margin = (options.dilation * (options.region - 1) + 1) // 2
    padded = functional.pad(pairs.keys_BPHWC, (0, 0, margin, margin, margin, margin))
    steps = [tap * options.dilation for tap in range(options.region)]
    products = torch.stack(
        [
            (query * padded[:, :, y : y + height, x : x + width]).sum(dim=-1)
            for y in steps
            for x in steps
        ],
        dim=-1,
    )
    return products / query.shape[-1] if options.scale == "mean" else products
