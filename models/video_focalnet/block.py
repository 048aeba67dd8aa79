"""Blocks of Video-FocalNet: focal modulation and MLP, each with its skip.

Wasim et al., "Video-FocalNets", ICCV 2023, figure 2; the options are those of Yang et al.,
"Focal Modulation Networks", NeurIPS 2022.

Dimensions: B batch, T token frames, H, W a token grid, C width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gopstream.models.layers.drop_path import DropPath
from gopstream.models.video_focalnet.designs import BlockKind, BlockOptions, Patches
from gopstream.models.video_focalnet.focal_modulation import (
    NORM_EPSILON,
    FocalModulation,
)
from gopstream.models.video_focalnet.patches import Downsampling


class BlockModulators(NamedTuple):
    """What one block multiplied its queries by (paper, figure 7, shows their magnitude).

    Each is None where the design has no such branch, and (B, T, H, W, ...) otherwise. Gates are
    one per level and one for the global mean; modulators are C channels wide.
    """

    space: Tensor | None
    time: Tensor | None
    space_gates: Tensor | None
    time_gates: Tensor | None


class Residual(nn.Module):
    """A branch with its norm, its scale and its skip: x + drop_path(scale * branch(norm(x)))."""

    def __init__(
        self, width: int, *, branch: nn.Module, drop_path_rate: float, options: BlockOptions
    ) -> None:
        """Wrap `branch`, which maps (B, T, H, W, C) to the same shape."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.branch = branch
        self.norm_first = options.norm_position == "before"
        self.scale = (
            nn.Parameter(torch.full((width,), options.layer_scale))
            if options.layer_scale is not None
            else None
        )
        rows = 2 if options.drop_path_rows == "frame" else 1
        self.drop_path = DropPath(drop_path_rate, row_dims=rows)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        return self.add(tokens_BTHWC, branch_output=self.branch(self.prepare(tokens_BTHWC)))

    def prepare(self, tokens_BTHWC: Tensor) -> Tensor:
        """Return what the branch is given."""
        prepared: Tensor = self.norm(tokens_BTHWC) if self.norm_first else tokens_BTHWC
        return prepared

    def add(self, tokens_BTHWC: Tensor, *, branch_output: Tensor) -> Tensor:
        """Add what the branch returned to the skip."""
        if not self.norm_first:
            branch_output = self.norm(branch_output)
        if self.scale is not None:
            branch_output = self.scale * branch_output
        added: Tensor = tokens_BTHWC + self.drop_path(branch_output)
        return added


class FocalBlock(nn.Module):
    """The modulations of a kind of block, then the MLP."""

    def __init__(
        self,
        width: int,
        *,
        kind: BlockKind,
        kernels: tuple[int, ...],
        drop_path_rate: float,
        options: BlockOptions,
    ) -> None:
        """Build a block of tokens `width` channels wide."""
        super().__init__()
        self.time_modulation: Residual | None = None
        if kind == "divided":
            time = FocalModulation(width, kind="time", kernels=kernels, options=options)
            self.time_modulation = Residual(
                width, branch=time, drop_path_rate=drop_path_rate, options=options
            )
            kind = "space"
        modulation = FocalModulation(width, kind=kind, kernels=kernels, options=options)
        self.modulation = Residual(
            width, branch=modulation, drop_path_rate=drop_path_rate, options=options
        )
        hidden, dropout = int(width * options.mlp_ratio), options.dropout
        mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )
        self.mlp = Residual(width, branch=mlp, drop_path_rate=drop_path_rate, options=options)
        self.checkpointing = options.checkpointing

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        if self.checkpointing and torch.is_grad_enabled():
            saved: Tensor = checkpoint(self._transform, tokens_BTHWC, use_reentrant=False)
            return saved
        return self._transform(tokens_BTHWC)

    def _transform(self, tokens_BTHWC: Tensor) -> Tensor:
        if self.time_modulation is not None:
            tokens_BTHWC = self.time_modulation(tokens_BTHWC)
        mixed: Tensor = self.mlp(self.modulation(tokens_BTHWC))
        return mixed

    def forward_with_modulators(self, tokens_BTHWC: Tensor) -> tuple[Tensor, BlockModulators]:
        """Do as `forward`, and return the modulators beside the tokens."""
        modulators = BlockModulators(None, None, None, None)
        for residual in (self.time_modulation, self.modulation):
            if residual is None:
                continue
            assert isinstance(residual.branch, FocalModulation)
            modulated = residual.branch.modulate(residual.prepare(tokens_BTHWC))
            tokens_BTHWC = residual.add(tokens_BTHWC, branch_output=modulated.tokens)
            space, time = modulated.space, modulated.time
            if space is not None:
                modulators = modulators._replace(space=space.modulator, space_gates=space.gates)
            if time is not None:
                modulators = modulators._replace(time=time.modulator, time_gates=time.gates)
        return self.mlp(tokens_BTHWC), modulators


class FocalStage(nn.Module):
    """Blocks of one width, then the downsampling to the next."""

    def __init__(
        self,
        width: int,
        *,
        kind: BlockKind,
        kernels: tuple[int, ...],
        drop_path_rates: Sequence[float],
        patches: Patches | None,
        options: BlockOptions,
    ) -> None:
        """Build a block for each drop path rate; without `patches` there is no downsampling."""
        super().__init__()
        self.blocks = nn.ModuleList(
            FocalBlock(
                width,
                kind=kind,
                kernels=kernels,
                drop_path_rate=rate,
                options=options,
            )
            for rate in drop_path_rates
        )
        self.downsampling = None if patches is None else Downsampling(width, patches=patches)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / 2, W / 2, 2 C), in the last stage to its own shape."""
        for block in self.blocks:
            tokens_BTHWC = block(tokens_BTHWC)
        if self.downsampling is not None:
            tokens_BTHWC = self.downsampling(tokens_BTHWC)
        return tokens_BTHWC

    def forward_with_modulators(self, tokens_BTHWC: Tensor) -> tuple[Tensor, list[BlockModulators]]:
        """Do as `forward`, and return the modulators of each block beside the tokens."""
        modulators = []
        for block in self.blocks:
            assert isinstance(block, FocalBlock)
            tokens_BTHWC, of_block = block.forward_with_modulators(tokens_BTHWC)
            modulators.append(of_block)
        if self.downsampling is not None:
            tokens_BTHWC = self.downsampling(tokens_BTHWC)
        return tokens_BTHWC, modulators
