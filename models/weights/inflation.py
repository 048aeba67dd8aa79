"""Make weights of another clip length or picture size fit: kernels, and rows of positions.

Dimensions: N rows, D width, H, W a token grid, T token frames.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def inflate_kernel(source: Tensor, wanted: torch.Size) -> tuple[Tensor, str] | None:
    """Spread the kernel of an image, (O, I, h, w), evenly over frames.

    A clip that stands still then gives what the image gave. A kernel over one frame,
    (O, I, 1, h, w), is one of images too.

    Returns:
        The kernel of shape `wanted`, (O, I, frames, h, w), and what was done; None if it is
        no kernel of images, or of another size.
    """
    image = source.squeeze(2) if source.dim() == 5 and source.shape[2] == 1 else source
    if image.dim() != 4 or len(wanted) != 5 or image.shape != wanted[:2] + wanted[3:]:
        return None
    frames = wanted[2]
    kernel = image.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    return kernel, f"inflated 2D -> {frames} frames"


def fit_places(source: Tensor, wanted: torch.Size, *, side: int) -> tuple[Tensor, str] | None:
    """Resize positions of a square grid bicubically, in any shape that has them row by row.

    Args:
        source: Ends in D; the rest counts N places, or 1 + N with a class token's first, which
            is left out.
        wanted: Ends in D; the rest counts ``side * side`` places.
        side: Of the wanted grid.

    Returns:
        Positions of shape `wanted` and what was done; None if the source's are no square.
    """
    if source.shape[-1] != wanted[-1]:
        return None
    rows = source.reshape(-1, wanted[-1])
    old = math.isqrt(len(rows))
    if old**2 != len(rows):
        rows, old = rows[1:], math.isqrt(len(rows) - 1)
    if old == 0 or old**2 != len(rows):
        return None
    if old == side:
        return rows.reshape(wanted), "resized in form alone"
    grid = rows.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    resized = grid.permute(0, 2, 3, 1).to(source.dtype)
    return resized.reshape(wanted), f"resized {old} x {old} -> {side} x {side} places"


def fit_times(source: Tensor, wanted: torch.Size, *, times: int) -> tuple[Tensor, str] | None:
    """Resize positions in time linearly, in any shape that has one after the other.

    Args:
        source: Ends in D; the rest counts token frames.
        wanted: Ends in D; the rest counts `times`.
        times: T.

    Returns:
        Positions of shape `wanted` and what was done; None if the widths differ.
    """
    if source.shape[-1] != wanted[-1]:
        return None
    rows = source.reshape(-1, wanted[-1])
    if len(rows) == times:
        return rows.reshape(wanted), "resized in form alone"
    series = interpolate(rows.T.unsqueeze(0).float(), size=times, mode="linear")
    resized = series.squeeze(0).T.to(source.dtype)
    return resized.reshape(wanted), f"resized {len(rows)} -> {times} token frames"
