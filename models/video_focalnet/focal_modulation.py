"""Spatio-temporal focal modulation: queries times what surrounds them.

A branch gathers context along one axis: a hierarchy of convolutions of growing kernel and a
global mean, summed with one gate per token and level, then mixed over channels into a
modulator. The tokens' queries are multiplied by the modulators.

Wasim et al., "Video-FocalNets", ICCV 2023, section 3.1 and equations 3 to 9. Where paper and
authors' code differ, the code is followed, since only it has the paper's compute: the temporal
"pointwise" convolutions are dense over channels with kernels 3 and 5 along time, the global
mean passes through a GELU, and every token has its own gates in both branches.

Tokens stay channels-last from end to end. A convolution sees them through a transposed view
that PyTorch knows as channels_last memory, so that nothing is copied; along time it is a 2D
convolution of kernel (k, 1) over frames and places.

Dimensions: B batch, T token frames, H, W a token grid, C width, L levels.
"""

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gopstream.models.layers.time_convolution import TimeConvolution
from gopstream.models.video_focalnet.designs import (
    BlockOptions,
    ContextKind,
    ModulationKind,
    TemporalConvolution,
)

NORM_EPSILON: Final = 1e-5


class Context(NamedTuple):
    """What a branch returns."""

    query: Tensor | None
    """(B, T, H, W, C); None for a branch without queries."""
    modulator: Tensor
    """(B, T, H, W, C)."""
    gates: Tensor
    """(B, T, H, W, L + 1), the last for the global mean; not limited to any range."""


class Modulated(NamedTuple):
    """The output of a modulation and what it was made with."""

    tokens: Tensor
    """(B, T, H, W, C)."""
    space: Context | None
    time: Context | None


class SpatialConvolution(nn.Conv2d):
    """Depthwise convolution of each frame, zero outside it, without bias."""

    def __init__(self, width: int, *, kernel: int) -> None:
        """Build a convolution of `width` channels over kernel x kernel tokens."""
        super().__init__(width, width, kernel, padding=kernel // 2, groups=width, bias=False)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        maps = super().forward(rearrange(tokens_BTHWC, "b t h w c -> (b t) c h w"))
        tokens: Tensor = rearrange(maps, "(b t) c h w -> b t h w c", t=tokens_BTHWC.shape[1])
        return tokens


class FocalContext(nn.Module):
    """One branch: hierarchical contextualisation and gated aggregation (equations 4 to 8)."""

    def __init__(
        self,
        width: int,
        *,
        kind: ContextKind,
        has_query: bool,
        kernels: tuple[int, ...],
        options: BlockOptions,
    ) -> None:
        """Build a branch with a level for each kernel; with `has_query` it projects queries."""
        super().__init__()
        self.kind = kind
        self.divisor = len(kernels) + 1 if options.normalize_modulator else 1
        # Rows of the projection, in the order of the authors' weights.
        self.rows = [width] * has_query + [width, len(kernels) + 1]
        self.projection = nn.Linear(width, sum(self.rows))
        time_levels = [
            _time_convolution(width, kernel=kernel, kind=options.temporal_convolution)
            for kernel in kernels
            if kind != "space"
        ]
        space_levels = [
            SpatialConvolution(width, kernel=kernel) for kernel in kernels if kind != "time"
        ]
        self.levels = nn.ModuleList(space_levels or time_levels)
        self.later_levels = nn.ModuleList(time_levels) if kind == "factorized" else None
        # A convolution of kernel 1 for the authors' shape and initial weights; used as a matrix.
        self.mixing = nn.Conv1d(width, width, 1) if kind == "time" else nn.Conv2d(width, width, 1)

    def forward(self, tokens_BTHWC: Tensor) -> Context:
        """Gather the context of every token."""
        # One product for each part, not one for all: a part of a joint result is not
        # contiguous and would be copied by the convolution, and L + 1 columns more leave its rows
        # unaligned. Nor one for both branches: on a CPU, forwards and backwards, it takes up to
        # 11 % longer in the first two stages, and as long in the others.
        weights = torch.split(self.projection.weight, self.rows)
        biases = torch.split(self.projection.bias, self.rows)
        parts = [
            F.linear(tokens_BTHWC, weight, bias)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        gathered = self._gather(parts[-2], gates=parts[-1])
        modulator = F.linear(gathered, self.mixing.weight.flatten(1), self.mixing.bias)
        query = parts[0] if len(parts) == 3 else None
        return Context(query, modulator=modulator, gates=parts[-1])

    def _gather(self, context: Tensor, *, gates: Tensor) -> Tensor:
        gate_of_level = torch.split(gates, 1, dim=-1)
        gathered: Tensor | None = None
        for level, convolution in enumerate(self.levels):
            context = convolution(context)
            if self.later_levels is not None:
                context = self.later_levels[level](context)
            context = F.gelu(context)
            gathered = _add_gated(gathered, context, gate=gate_of_level[level])
        dimensions = (1,) if self.kind == "time" else (2, 3)
        overall = F.gelu(context.mean(dim=dimensions, keepdim=True))
        gathered = _add_gated(gathered, overall, gate=gate_of_level[-1])
        return gathered / self.divisor if self.divisor > 1 else gathered


class FocalModulation(nn.Module):
    """Queries modulated by their context, then projected (equations 3 and 9)."""

    def __init__(
        self, width: int, *, kind: ModulationKind, kernels: tuple[int, ...], options: BlockOptions
    ) -> None:
        """Build a modulation of tokens `width` channels wide, a level for each kernel."""
        super().__init__()
        self.space: FocalContext | None = None
        self.time: FocalContext | None = None
        if kind != "time":
            self.space = FocalContext(
                width,
                kind="factorized" if kind == "factorized" else "space",
                has_query=True,
                kernels=kernels,
                options=options,
            )
        if kind in ("time", "parallel"):
            # In parallel it modulates the queries of the spatial branch.
            self.time = FocalContext(
                width, kind="time", has_query=kind == "time", kernels=kernels, options=options
            )
        self.fusion = options.fusion
        projected = kind == "parallel" and options.fusion == "projection"
        self.fusion_projection = nn.Linear(2 * width, width) if projected else None
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON) if options.modulated_norm else None
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        return self.modulate(tokens_BTHWC).tokens

    def modulate(self, tokens_BTHWC: Tensor) -> Modulated:
        """Do as `forward`, and return the branches' contexts beside the output."""
        space = None if self.space is None else self.space(tokens_BTHWC)
        time = None if self.time is None else self.time(tokens_BTHWC)
        modulated = self._interact(space, time)
        if self.projection.weight.dtype == torch.float16:  # else autocast narrows it
            modulated = modulated.half()
        if self.norm is not None:
            modulated = self.norm(modulated)
        return Modulated(self.dropout(self.projection(modulated)), space=space, time=time)

    def _interact(self, space: Context | None, time: Context | None) -> Tensor:
        if space is None or time is None:
            only = time if space is None else space
            assert only is not None and only.query is not None
            return _multiply(only.query, only.modulator)
        assert space.query is not None
        if self.fusion_projection is not None:
            joined: Tensor = self.fusion_projection(
                torch.cat([space.modulator, time.modulator], dim=-1)
            )
            return _multiply(space.query, joined)
        if self.fusion == "average":
            return _multiply(space.query, space.modulator + time.modulator) / 2
        return _multiply(space.query, space.modulator, time.modulator)


def _multiply(query: Tensor, *modulators: Tensor) -> Tensor:
    """Return the product, in float32 where the factors are float16.

    Factors of a few hundred leave float16's range (65504) on the way to a product that need not.
    """
    product = query.float() if query.dtype == torch.float16 else query
    for modulator in modulators:
        product = product * modulator
    return product


def _add_gated(gathered: Tensor | None, context: Tensor, *, gate: Tensor) -> Tensor:
    if gathered is None:
        return context * gate
    return torch.addcmul(gathered, context, gate)


def _time_convolution(width: int, *, kernel: int, kind: TemporalConvolution) -> TimeConvolution:
    """Return a level's convolution; where `kind` is pointwise, of kernel 1."""
    length = 1 if kind == "pointwise" else kernel
    return TimeConvolution(width, kernel=length, groups=width if kind == "depthwise" else 1)
