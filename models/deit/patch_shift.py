"""Temporal patch shift on the whole grid of a frame, class tokens apart.

Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action
Recognition", ECCV 2022, section 3.2 and appendix A.3.

Dimensions: B batch, T frames, N tokens of a frame (1 class token, then patches), D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gopstream.models.pst.gather import RowMap, gather_rows


class PatchShift(nn.Module):
    """Moves the patches of a clip along time, and back; class tokens stay.

    The indices are buffers that no state dict holds: the options of the model give them.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, offsets: Sequence[int], *, num_frames: int) -> None:
        """Prepare the indices.

        Args:
            offsets: Of each patch, row by row, in frames: the patch is taken from so many
                frames earlier. N is one more, the class token being first.
            num_frames: T. The clip is a ring: its last frames come before its first ones.
        """
        super().__init__()
        token_offsets = torch.tensor([0, *offsets])
        frames, tokens = torch.arange(num_frames).unsqueeze(1), torch.arange(1 + len(offsets))
        sources = (frames - token_offsets) % num_frames * len(tokens) + tokens
        targets = (frames + token_offsets) % num_frames * len(tokens) + tokens
        self.register_buffer("order", sources.flatten(), persistent=False)
        self.register_buffer("inverse", targets.flatten(), persistent=False)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        """Shift (B, T, N, D)."""
        shifted = gather_rows(tokens_BTND.flatten(1, 2), self._map())
        return shifted.view(tokens_BTND.shape)

    def back(self, tokens_BTND: Tensor) -> Tensor:
        """Undo `forward`, to the bit."""
        restored = gather_rows(tokens_BTND.flatten(1, 2), self._map().reversed())
        return restored.view(tokens_BTND.shape)

    def _map(self) -> RowMap:
        return RowMap(self.order, None, self.inverse, None)
