"""Video-FocalNet written the plain way, to measure the product against and to check it by.

Equations 3 to 9 of Wasim et al., "Video-FocalNets", ICCV 2023, in the order in which they stand and
under the names of the authors' checkpoints: rows of single frames, maps with channels first for
the convolutions of space, sequences of single places for those of time, and a transposition
wherever one follows another. No dropout and no stochastic depth.

Dimensions: B batch, T frames, R rows (B T), H, W a token grid, L tokens of a frame (H W), C width.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

_EPSILON = 1e-5


class EagerModulation(nn.Module):
    """Queries times a modulator of space times one of time."""

    def __init__(self, dim: int, *, num_frames: int, kernels: Sequence[int]) -> None:
        """Build a level for each kernel."""
        super().__init__()
        self.num_frames, self.num_levels = num_frames, len(kernels)
        self.f = nn.Linear(dim, 2 * dim + len(kernels) + 1)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False), nn.GELU()
            )
            for kernel in kernels
        )
        self.f_temporal = nn.Linear(dim, dim + len(kernels) + 1)
        self.h_temporal = nn.Conv1d(dim, dim, 1)
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, dim, kernel, padding=kernel // 2, bias=False), nn.GELU())
            for kernel in kernels
        )

    def forward(self, tokens_RHWC: Tensor) -> Tensor:
        """Map (R, H, W, C) to the same shape."""
        query, modulator = self.modulate_space(tokens_RHWC)
        modulated = query * modulator * self.modulate_time(tokens_RHWC)
        added: Tensor = self.proj(modulated.permute(0, 2, 3, 1).contiguous())
        return added

    def modulate_space(self, tokens_RHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and modulators, (R, C, H, W) each."""
        dim = tokens_RHWC.shape[-1]
        projected = self.f(tokens_RHWC).permute(0, 3, 1, 2).contiguous()
        query, context, gates = torch.split(projected, [dim, dim, self.num_levels + 1], dim=1)
        gathered = torch.zeros_like(query)
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            gathered = gathered + context * gates[:, level : level + 1]
        overall = nn.functional.gelu(context.mean(dim=(2, 3), keepdim=True))
        gathered = gathered + overall * gates[:, self.num_levels :]
        return query, self.h(gathered)

    def modulate_time(self, tokens_RHWC: Tensor) -> Tensor:
        """Return modulators, (R, C, H, W)."""
        height, dim = tokens_RHWC.shape[1], tokens_RHWC.shape[-1]
        projected = rearrange(
            self.f_temporal(tokens_RHWC), "(b t) h w c -> (b h w) c t", t=self.num_frames
        )
        context, gates = torch.split(projected, [dim, self.num_levels + 1], dim=1)
        gathered = torch.zeros_like(context)
        for level, layer in enumerate(self.focal_layers_temporal):
            context = layer(context)
            gathered = gathered + context * gates[:, level : level + 1]
        overall = nn.functional.gelu(context.mean(dim=2, keepdim=True))
        gathered = gathered + overall * gates[:, self.num_levels :]
        modulator: Tensor = self.h_temporal(gathered)
        batch = len(tokens_RHWC) // self.num_frames
        return rearrange(modulator, "(b h w) c t -> (b t) c h w", b=batch, h=height)


class EagerMlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int) -> None:
        """Build it four times as wide within."""
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        mixed: Tensor = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return mixed


class EagerFocalBlock(nn.Module):
    """Modulation and MLP, each after a norm and with its skip."""

    def __init__(self, dim: int, *, num_frames: int, kernels: Sequence[int]) -> None:
        """Build it."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.modulation = EagerModulation(dim, num_frames=num_frames, kernels=kernels)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = EagerMlp(dim)

    def forward(self, tokens_RLC: Tensor, *, height: int) -> Tensor:
        """Map (R, L, C) to the same shape."""
        grid = rearrange(self.norm1(tokens_RLC), "r (h w) c -> r h w c", h=height)
        tokens = tokens_RLC + rearrange(self.modulation(grid), "r h w c -> r (h w) c")
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class EagerPatches(nn.Module):
    """A convolution whose kernel is its stride, then a norm of tokens."""

    def __init__(self, in_dim: int, dim: int, *, side: int) -> None:
        """Build it for patches of `side` rows and columns."""
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, side, stride=side)
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)

    def forward(self, maps_RCHW: Tensor) -> tuple[Tensor, int]:
        """Return tokens (R, L, C), and the rows of their grid."""
        maps = self.proj(maps_RCHW)
        return self.norm(maps.flatten(2).transpose(1, 2)), maps.shape[2]


class EagerFocalStage(nn.Module):
    """Blocks of one width, then half the grid at twice the width."""

    def __init__(
        self, dim: int, *, depth: int, num_frames: int, kernels: Sequence[int], is_last: bool
    ) -> None:
        """Build it."""
        super().__init__()
        self.blocks = nn.ModuleList(
            EagerFocalBlock(dim, num_frames=num_frames, kernels=kernels) for _ in range(depth)
        )
        self.downsample = None if is_last else EagerPatches(dim, 2 * dim, side=2)

    def forward(self, tokens_RLC: Tensor, *, height: int) -> tuple[Tensor, int]:
        """Return tokens and the rows of their grid, as of the next stage."""
        for block in self.blocks:
            tokens_RLC = block(tokens_RLC, height=height)
        if self.downsample is None:
            return tokens_RLC, height
        maps = rearrange(tokens_RLC, "r (h w) c -> r c h w", h=height).contiguous()
        tokens, height = self.downsample(maps)
        return tokens, height


class EagerVideoFocalNet(nn.Module):
    """Video classifier; clips have the number of frames that it was made for."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int,
        embed_dim: int,
        depths: Sequence[int],
        focal_levels: Sequence[int],
        focal_windows: Sequence[int],
    ) -> None:
        """Build it with PyTorch's own initial weights; options are those of `VideoFocalNet`."""
        super().__init__()
        self.num_frames = num_frames
        self.patch_embed = EagerPatches(3, embed_dim, side=4)
        self.layers = nn.ModuleList(
            EagerFocalStage(
                embed_dim * 2**stage,
                depth=depth,
                num_frames=num_frames,
                kernels=[focal_windows[stage] + 2 * level for level in range(focal_levels[stage])],
                is_last=stage == len(depths) - 1,
            )
            for stage, depth in enumerate(depths)
        )
        width = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, T, H, W) to (B, num_classes) logits."""
        tokens, height = self.patch_embed(rearrange(frames, "b c t h w -> (b t) c h w"))
        for layer in self.layers:
            tokens, height = layer(tokens, height=height)
        of_frames = self.norm(tokens).mean(dim=1)
        logits: Tensor = self.head(
            rearrange(of_frames, "(b t) c -> b t c", t=self.num_frames).mean(dim=1)
        )
        return logits
