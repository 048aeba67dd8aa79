"""Temporal patch shift on the whole grid of a frame, class tokens apart.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action
Recognition", ECCV 2022, section 3.2 and appendix A.3.

Dimensions: B batch, T frames, N tokens of a frame (1 class token, then patches), D width.
"""

from functools import partial
from operator import index
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gopstream.models.layers.gather import RowMap, gather_rows, make_row_map
from gopstream.models.layers.kept_tables import KeptTables

MOST_BYTES_KEPT: Final = 2**26
"""Of the maps of all patterns, grids and lengths together, on all devices."""

_kept: Final = KeptTables(most_bytes=MOST_BYTES_KEPT)


def shift_patches(tokens_BTND: Tensor, *, offsets: tuple[int, ...]) -> Tensor:
    """Move the patches of clips along time; class tokens stay.

    Args:
        tokens_BTND: (B, T, N, D). The clip is a ring: its last frames come before its first.
        offsets: Of each patch, row by row, in frames: the patch is taken from so many frames
            earlier. N is one more, the class token being first.

    Returns:
        (B, T, N, D).
    """
    return _move(tokens_BTND, offsets=offsets, back=False)


def shift_patches_back(tokens_BTND: Tensor, *, offsets: tuple[int, ...]) -> Tensor:
    """Undo `shift_patches`, to the bit."""
    return _move(tokens_BTND, offsets=offsets, back=True)


def _move(tokens: Tensor, *, offsets: tuple[int, ...], back: bool) -> Tensor:
    # A tracer that has met other lengths has a symbol here: the map needs a number.
    row_map = patch_map(offsets, index(tokens.shape[1]), device=tokens.device)
    moved = gather_rows(tokens.flatten(1, 2), row_map.reversed() if back else row_map)
    return moved.view(tokens.shape)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch has no types
def patch_map(offsets: tuple[int, ...], num_frames: int, *, device: torch.device) -> RowMap:
    """Return which token of (T N) each of them is taken from, made once for each length."""
    row_map: RowMap = _kept.get(
        (offsets, num_frames, device),
        make=partial(_make_map, offsets, num_frames=num_frames, device=device),
    )
    return row_map


def _make_map(offsets: tuple[int, ...], *, num_frames: int, device: torch.device) -> RowMap:
    token_offsets = np.array([0, *offsets])
    tokens = np.arange(len(token_offsets))
    frames = (np.arange(num_frames)[:, None] - token_offsets) % num_frames
    source = (frames * len(tokens) + tokens).ravel()
    return make_row_map(source, num_rows=len(source), device=device)
