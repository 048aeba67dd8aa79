"""PST, and the Swin transformers beside it, written the plain way, to measure and check by.

The steps of Xiang et al., "Spatiotemporal Self-attention Modeling with Temporal Patch Shift",
ECCV 2022, and of Liu et al., "Video Swin Transformer", CVPR 2022, one after another and under the
names of the authors' checkpoints: pad, roll, cut into windows, roll the patches of each offset,
multiply queries with keys, add a bias looked up in the table, softmax, and all the way back. No
dropout and no stochastic depth.

Dimensions: B batch, T frames, H, W a token grid, C width; K windows in time, S windows in space
of M cells each; N tokens of a window.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from gopstream.jobs.bench.eager_video_focalnet import EagerMlp

BlockKind = Literal["plain", "tcs", "tps"]

_EPSILON: Final = 1e-5
_PATCH: Final = (2, 4, 4)
_MASKED: Final = -100.0
_PATTERN: Final = ((-4, 1, 2), (-1, 0, 3), (-2, -3, 4))
"""Pattern C: offsets in frames, tiled over each window."""
_FOLDS: Final = 8
"""An eighth of a head's channels comes from the frame before, another from the one after."""


class WindowGrid(NamedTuple):
    """Sizes that a block's tables depend on."""

    size: tuple[int, int, int]
    """(T, H, W) tokens."""
    window: tuple[int, int, int]
    shift: tuple[int, int, int]

    @property
    def padded(self) -> tuple[int, int, int]:
        """The size in whole windows."""
        frames, rows, columns = (
            -(-size // window) * window for size, window in zip(self.size, self.window, strict=True)
        )
        return frames, rows, columns


def make_grid(
    size: tuple[int, int, int], *, window: tuple[int, int, int], rolls: bool
) -> WindowGrid:
    """Clip windows to the grid; an axis of one window is not rolled."""
    clipped = [min(axis, wanted) for axis, wanted in zip(size, window, strict=True)]
    shift = [
        wanted // 2 if rolls and axis > wanted else 0
        for axis, wanted in zip(size, window, strict=True)
    ]
    return WindowGrid(size, (clipped[0], clipped[1], clipped[2]), (shift[0], shift[1], shift[2]))


def cell_offsets(grid: WindowGrid, *, kind: BlockKind) -> Tensor:
    """Return (M,) the frames that each cell of a window is moved."""
    tile = _PATTERN if kind == "tps" else ((0,),)
    side = len(tile)
    return torch.tensor(
        [
            tile[row % side][column % side]
            for row in range(grid.window[1])
            for column in range(grid.window[2])
        ]
    )


def roll_mask(grid: WindowGrid) -> Tensor | None:
    """Return (K, S, N, N) what is added to logits so that rolled regions stay apart, or None."""
    if not any(grid.shift):
        return None
    region = torch.zeros(grid.padded)
    for axis in range(3):
        length, window, shift = grid.padded[axis], grid.window[axis], grid.shift[axis]
        label = torch.zeros(length)
        if shift:
            label[length - window : length - shift] = 1
            label[length - shift :] = 2
        region = 3 * region + label.reshape([-1 if other == axis else 1 for other in range(3)])
    a, y, x = grid.window
    windows = rearrange(region, "(k a) (h y) (w x) -> k (h w) (a y x)", a=a, y=y, x=x)
    apart = windows[..., :, None] != windows[..., None, :]
    return apart * _MASKED


def position_index(
    grid: WindowGrid, *, offsets: Tensor, rule: str, table_frames: int, table_side: int
) -> Tensor:
    """Return (K or 1, N, N) rows of the table of positions.

    Rule "official" takes the frame of a key as if it were in frame 0, "paper" as it is.
    """
    frames, window_frames = grid.size[0], grid.window[0]
    if rule == "official" or offsets.any():
        times = torch.arange(grid.padded[0]).roll(-grid.shift[0])
        moved = rearrange(times, "(k a) -> k a 1", a=window_frames) - offsets
        queries = (moved % frames).flatten(1)
        keys = (-offsets % frames)[None] if rule == "official" else queries
    else:
        queries = torch.arange(window_frames).repeat_interleave(len(offsets))[None]
        keys = queries
    dt = queries[:, :, None] - keys[:, None, :]
    row, column = torch.meshgrid(*map(torch.arange, grid.window[1:]), indexing="ij")
    rows, columns = row.flatten().repeat(window_frames), column.flatten().repeat(window_frames)
    dy, dx = rows[:, None] - rows, columns[:, None] - columns
    side = 2 * table_side - 1
    index: Tensor = ((dt + table_frames - 1) * side + dy + table_side - 1) * side
    return index + dx + table_side - 1


class EagerAttention(nn.Module):
    """Attention in windows, with the shift of its block."""

    relative_position_index: Tensor
    mask: Tensor | None
    offsets: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        kind: BlockKind,
        grid: WindowGrid,
        rule: str,
        table_frames: int,
        table_side: int,
    ) -> None:
        """Build it for one size of grid."""
        super().__init__()
        self.num_heads, self.kind, self.grid = num_heads, kind, grid
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        num_rows = (2 * table_frames - 1) * (2 * table_side - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_rows, num_heads))
        offsets = cell_offsets(grid, kind=kind)
        index = position_index(
            grid, offsets=offsets, rule=rule, table_frames=table_frames, table_side=table_side
        )
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.register_buffer("mask", roll_mask(grid), persistent=False)

    def forward(self, tokens_BTSMC: Tensor) -> Tensor:
        """Map the cells of all windows in space, (B, T, S, M, C), to the same shape."""
        if self.kind == "tcs":
            tokens_BTSMC = self.shift_channels(tokens_BTSMC)
        if self.kind == "tps":
            tokens_BTSMC = self.shift_patches(tokens_BTSMC, sign=1)
        (frames, _, _), shift = self.grid.size, self.grid.shift[0]
        missing = self.grid.padded[0] - frames
        padded = nn.functional.pad(tokens_BTSMC, (0, 0, 0, 0, 0, 0, 0, missing))
        if shift:
            padded = torch.roll(padded, -shift, dims=1)
        attended = self.attend(padded)
        if shift:
            attended = torch.roll(attended, shift, dims=1)
        attended = attended[:, :frames]
        if self.kind == "tps":
            attended = self.shift_patches(attended, sign=-1)
        added: Tensor = self.proj(attended)
        return added

    def attend(self, tokens_BTSMC: Tensor) -> Tensor:
        """Attend in windows of frames and cells; the same shape comes back."""
        window_frames = self.grid.window[0]
        batch, times, spaces, cells, _ = tokens_BTSMC.shape
        windows = rearrange(tokens_BTSMC, "b (k a) s m c -> (b k s) (a m) c", a=window_frames)
        query, key, value = rearrange(
            self.qkv(windows), "w n (three h d) -> three w h n d", three=3, h=self.num_heads
        )
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        index = self.relative_position_index
        bias = self.relative_position_bias_table[index.flatten()]
        bias = bias.reshape(*index.shape, -1).permute(0, 3, 1, 2)
        logits = rearrange(logits, "(b k s) h n m -> b k s h n m", b=batch, s=spaces)
        logits = logits + bias[None, :, None]
        if self.mask is not None:
            logits = logits + self.mask[None, :, :, None]
        attended: Tensor = logits.flatten(0, 2).softmax(dim=-1) @ value
        return rearrange(
            attended,
            "(b k s) h (a m) d -> b (k a) s m (h d)",
            b=batch,
            k=times // window_frames,
            m=cells,
        )

    def shift_patches(self, tokens_BTSMC: Tensor, *, sign: int) -> Tensor:
        """Roll the cells of each offset along time."""
        shifted = tokens_BTSMC.clone()
        for offset in sorted(set(self.offsets.tolist())):
            cells = self.offsets == offset
            shifted[:, :, :, cells] = torch.roll(
                tokens_BTSMC[:, :, :, cells], sign * offset, dims=1
            )
        return shifted

    def shift_channels(self, tokens_BTSMC: Tensor) -> Tensor:
        """Take some channels of each head from the frames beside; the ends keep their own."""
        heads = rearrange(tokens_BTSMC, "b t s m (h d) -> b t s m h d", h=self.num_heads)
        fold = heads.shape[-1] // _FOLDS
        shifted = heads.clone()
        shifted[:, 1:, ..., :fold] = heads[:, :-1, ..., :fold]
        shifted[:, :-1, ..., fold : 2 * fold] = heads[:, 1:, ..., fold : 2 * fold]
        return rearrange(shifted, "b t s m h d -> b t s m (h d)")


class EagerPstBlock(nn.Module):
    """Attention and MLP, each after a norm and with its skip."""

    def __init__(self, dim: int, *, attention: EagerAttention) -> None:
        """Build it around its attention."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = EagerMlp(dim)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to the same shape."""
        grid = self.attn.grid
        (_, height, width), (_, padded_height, padded_width) = grid.size, grid.padded
        _, shift_y, shift_x = grid.shift
        padding = (0, 0, 0, padded_width - width, 0, padded_height - height)
        rows = nn.functional.pad(self.norm1(tokens_BTHWC), padding)
        if shift_y or shift_x:
            rows = torch.roll(rows, (-shift_y, -shift_x), dims=(2, 3))
        _, y, x = grid.window
        windows = rearrange(rows, "b t (h y) (w x) c -> b t (h w) (y x) c", y=y, x=x)
        attended = rearrange(
            self.attn(windows),
            "b t (h w) (y x) c -> b t (h y) (w x) c",
            h=padded_height // y,
            y=y,
        )
        if shift_y or shift_x:
            attended = torch.roll(attended, (shift_y, shift_x), dims=(2, 3))
        tokens = tokens_BTHWC + attended[:, :, :height, :width]
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class EagerMerging(nn.Module):
    """One token of 2 x 2, twice as wide."""

    def __init__(self, dim: int) -> None:
        """Build it for tokens of width `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=_EPSILON)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T, H / 2, W / 2, 2 C), rounded up."""
        height, width = tokens_BTHWC.shape[2:4]
        rows = nn.functional.pad(tokens_BTHWC, (0, 0, 0, width % 2, 0, height % 2))
        quads = [rows[:, :, y::2, x::2] for y, x in ((0, 0), (1, 0), (0, 1), (1, 1))]
        merged: Tensor = self.reduction(self.norm(torch.cat(quads, dim=-1)))
        return merged


class EagerPstStage(nn.Module):
    """Blocks of alternating kinds, then the merging of patches."""

    def __init__(self, dim: int, *, attentions: Sequence[EagerAttention], merges: bool) -> None:
        """Build a block around each attention."""
        super().__init__()
        self.blocks = nn.ModuleList(EagerPstBlock(dim, attention=each) for each in attentions)
        self.downsample = EagerMerging(dim) if merges else None

    def forward(self, tokens_BTHWC: Tensor) -> Tensor:
        """Return tokens as of the next stage."""
        for block in self.blocks:
            tokens_BTHWC = block(tokens_BTHWC)
        return tokens_BTHWC if self.downsample is None else self.downsample(tokens_BTHWC)


class EagerPatchEmbed(nn.Module):
    """A convolution whose kernel is its stride, then a norm of tokens."""

    def __init__(self, dim: int) -> None:
        """Build it for tokens of width `dim`."""
        super().__init__()
        self.proj = nn.Conv3d(3, dim, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, Y, X) to (B, T, H, W, C), the ends padded with zeros."""
        depth, height, width = (
            -size % patch for size, patch in zip(frames.shape[2:], _PATCH, strict=True)
        )
        maps = self.proj(nn.functional.pad(frames, (0, width, 0, height, 0, depth)))
        tokens: Tensor = self.norm(rearrange(maps, "b c t h w -> b t h w c").contiguous())
        return tokens


class EagerBackbone(nn.Module):
    """All but the classifier."""

    def __init__(self, dim: int, *, stages: Sequence[EagerPstStage]) -> None:
        """Build it around its stages."""
        super().__init__()
        self.patch_embed = EagerPatchEmbed(dim)
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(dim * 2 ** (len(stages) - 1), eps=_EPSILON)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, Y, X) to (B, T, H, W, C)."""
        tokens = self.patch_embed(frames)
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class EagerPst(nn.Module):
    """Video classifier; clips have the frames and the size that it was made for."""

    def __init__(
        self,
        num_classes: int,
        *,
        num_frames: int,
        size: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        temporal_window: int,
        block_kinds: tuple[BlockKind, BlockKind],
        rpe: str,
        table_frames: int,
    ) -> None:
        """Build it with PyTorch's own initial weights.

        Options are those of `PatchShiftTransformer`, and `size`, height and width in pixels.
        """
        super().__init__()
        stages = []
        frames, side = -(-num_frames // _PATCH[0]), -(-size // _PATCH[1])
        for stage, depth in enumerate(depths):
            attentions = [
                EagerAttention(
                    embed_dim * 2**stage,
                    num_heads=num_heads[stage],
                    kind=block_kinds[block % 2],
                    grid=make_grid(
                        (frames, side, side),
                        window=(temporal_window, window_size, window_size),
                        rolls=block % 2 == 1,
                    ),
                    rule=rpe,
                    table_frames=table_frames,
                    table_side=window_size,
                )
                for block in range(depth)
            ]
            merges = stage < len(depths) - 1
            stages.append(EagerPstStage(embed_dim * 2**stage, attentions=attentions, merges=merges))
            side = -(-side // 2)
        self.backbone = EagerBackbone(embed_dim, stages=stages)
        self.cls_head = nn.ModuleDict(
            {"fc_cls": nn.Linear(embed_dim * 2 ** (len(depths) - 1), num_classes)}
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, F, Y, X) to (B, num_classes) logits."""
        logits: Tensor = self.cls_head["fc_cls"](self.backbone(frames).mean(dim=(1, 2, 3)))
        return logits
