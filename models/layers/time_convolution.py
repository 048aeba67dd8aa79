"""Convolution along time at each place."""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class TimeConvolution(nn.Conv1d):
    """Convolution along time, zero before and after the clip, without bias."""

    def __init__(self, width: int, *, kernel: int, groups: int = 1) -> None:
        """Build a convolution from `width` to as many channels over an odd number of frames."""
        super().__init__(width, width, kernel, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        # As one of two dimensions, whose channels may come last in memory: no copy is needed.
        maps = functional.conv2d(
            rearrange(tokens_BTHWC, "b t h w c -> b c t (h w)"),
            rearrange(self.weight, "o i k -> o i k 1"),
            padding=(self.kernel_size[0] // 2, 0),
            groups=self.groups,
        )
        tokens: Tensor = rearrange(maps, "b c t (h w) -> b t h w c", h=tokens_BTHWC.shape[2])
        return tokens
