"""Stochastic depth (Huang et al., 2016): whole rows of a residual branch are left out in training.

A row is one index of the leading dimensions: a sample (B, ...), or a frame of a sample
(B, T, ...). Rows that stay are scaled so that the branch keeps its expectation.
"""

import torch
from torch import Tensor, nn


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop path rate is {rate}: give a number from 0 up to, not with, 1")


def drop_path(branch: Tensor, *, rate: float, training: bool, row_dims: int = 1) -> Tensor:
    """Leave out rows of `branch`, each with probability `rate`, on its own draw.

    Args:
        branch: any floating dtype; its first `row_dims` dimensions count the rows.
        rate: probability of leaving a row out, 0 <= rate < 1.
        training: False returns `branch` itself.
        row_dims: leading dimensions that share no draw: 1 for samples, 2 for their frames.

    Returns:
        `branch` with kept rows times 1 / (1 - rate) and the others 0, dtype unchanged.

    Raises:
        ValueError: a rate outside [0, 1), or more row dimensions than `branch` has.
    """
    _check_rate(rate)
    if not 1 <= row_dims <= branch.ndim:
        raise ValueError(f"row_dims is {row_dims}: this branch has dimensions 1 to {branch.ndim}")
    if rate == 0.0 or not training:
        return branch
    keep = 1.0 - rate
    shape = branch.shape[:row_dims] + (1,) * (branch.ndim - row_dims)
    # float32 draws: a bfloat16 uniform has only 256 steps, which moves small rates
    kept = torch.rand(shape, device=branch.device, dtype=torch.float32) < keep
    return branch * (kept.to(branch.dtype) / keep)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates of `depth` successive blocks: linear from 0 in the first to `rate` in the last.

    Raises:
        ValueError: a rate outside [0, 1), or a negative depth.
    """
    _check_rate(rate)
    if depth < 0:
        raise ValueError(f"depth is {depth}: give 0 or more blocks")
    rates: list[float] = torch.linspace(0, rate, depth, dtype=torch.float64, device="cpu").tolist()
    return rates


class DropPath(nn.Module):
    """`drop_path` as a module, active in training."""

    def __init__(self, rate: float, *, row_dims: int = 1) -> None:
        """Keep the options.

        Args:
            rate: probability of leaving a row out, 0 <= rate < 1.
            row_dims: 1 draws per sample, 2 per frame of a sample.

        Raises:
            ValueError: a rate outside [0, 1).
        """
        super().__init__()
        _check_rate(rate)
        self.rate = rate
        self.row_dims = row_dims

    def forward(self, branch: Tensor) -> Tensor:
        """Apply `drop_path`."""
        return drop_path(branch, rate=self.rate, training=self.training, row_dims=self.row_dims)

    def extra_repr(self) -> str:
        """Show the options when the module is printed."""
        return f"rate={self.rate:.4g}, row_dims={self.row_dims}"
