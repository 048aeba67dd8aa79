"""Deformable space-time attention (D-ST-A) of the Deformable Video Transformer.

A query token attends N sampled points in each token frame of its sub-clip. Where they lie
and how much each counts is a linear function of the query's appearance and of the motion
from its frame to that frame: there are no keys and no dot products.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 3, 5 and 10 to 14.

Dimensions: B batch, G sub-clips of all clips (B * T / K), T token frames, K token frames of a
sub-clip, Q the K queries of one place in a sub-clip, H, W a token grid, L = H * W, D width,
h heads, d = D / h, N points, S = (dx, dy, logit).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

OFFSET_INITIAL_STD = 1e-3
NORM_EPSILON = 1e-6


def grid_centres(height: int, width: int, *, like: Tensor) -> Tensor:
    """Return the centres of the cells of a grid that spans [0, 1] in both axes.

    Args:
        height: Rows.
        width: Columns.
        like: Tensor whose dtype and device the result has.

    Returns:
        (L, 2) as (x, y), row by row.
    """
    ys = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
    xs = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
    y_map, x_map = torch.meshgrid(ys, xs, indexing="ij")
    return rearrange([x_map, y_map], "s h w -> (h w) s")


def ring_offsets(num_heads: int, num_points: int) -> Tensor:
    """Spread each head's points over directions, at a distance of about one cell.

    The ring is square, as in Deformable DETR (Zhu et al., ICLR 2021, initialisation of
    MSDeformAttn): with eight points they are the eight neighbouring cells. Departure:
    Deformable DETR gives each of its eight heads one direction and its points growing
    distances; the first stages here have one or two heads, which would leave them blind in
    most directions, so the directions are spread over the points, and heads are turned
    against each other by a fraction of the step.

    Returns:
        (h, N, 2) offsets (dx, dy) in cells.
    """
    turn = torch.arange(num_heads)[:, None] / num_heads
    angle = 2 * math.pi * (torch.arange(num_points) + turn) / num_points
    ring = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return ring / ring.abs().amax(dim=-1, keepdim=True)


def sum_sampled_values(values: Tensor, *, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample value maps between their cells and add the samples up, weighted (equation 10).

    Interpolation is bilinear; a map is 0 outside itself. Locations must be float32 or wider,
    and values are sampled in the dtype of the locations: bfloat16 would place a point on a
    56-cell grid only to a tenth of a cell.

    Args:
        values: (G, K, H, W, D) value tokens of each token frame of each sub-clip.
        locations: (G, Q, K, L, h, N, 2) points (x, y); [0, 1] spans the value map.
        weights: (G, Q, K, L, h, N) attention weights.

    Returns:
        (G, Q, L, D) in the dtype of `values`.
    """
    groups, num_queries, _, _, num_heads = locations.shape[:5]
    maps = rearrange(values.to(locations.dtype), "g k y x (h d) -> (g k h) d y x", h=num_heads)
    grid = rearrange(2 * locations - 1, "g q k l h n s -> (g k h) (q l) n s")
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = rearrange(weights.to(samples.dtype), "g q k l h n -> (g k h) 1 (q l) n")
    # A product and a sum keep the layout of the samples, by far the largest tensor here;
    # an einsum copies them first (measured on a CPU: 1.1 times slower model).
    per_frame = (samples * weights).sum(dim=-1)
    summed = reduce(per_frame, "(g k h) d l -> g h d l", "sum", g=groups, h=num_heads)
    return rearrange(summed, "g h d (q l) -> g q l (h d)", q=num_queries).to(values.dtype)


class QueryPooling(nn.Module):
    """Halve the query grid, as MViT's pool_q does: depthwise convolution and norm.

    The heads share the weights.
    """

    def __init__(self, head_width: int) -> None:
        """Build the pooling of heads that are `head_width` channels wide."""
        super().__init__()
        self.convolution = nn.Conv3d(
            head_width, head_width, 3, stride=(1, 2, 2), padding=1, groups=head_width, bias=False
        )
        self.norm = nn.LayerNorm(head_width, eps=NORM_EPSILON)

    def forward(self, queries_BTHWD: Tensor) -> Tensor:
        """Pool (B, T, H, W, D) to (B, T, H / 2, W / 2, D), odd sizes rounded up."""
        num_heads = queries_BTHWD.shape[-1] // self.norm.normalized_shape[0]
        heads = rearrange(queries_BTHWD, "b t y x (h d) -> (b h) d t y x", h=num_heads)
        pooled = rearrange(self.convolution(heads), "(b h) d t y x -> b t y x h d", h=num_heads)
        joined: Tensor = rearrange(self.norm(pooled), "b t y x h d -> b t y x (h d)")
        return joined


class DeformableSpaceTimeAttention(nn.Module):
    """D-ST-A of one block, without the residual.

    There is no output projection: equation 10 adds the weighted values to the token, and the
    block's MLP mixes the heads.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        num_points: int,
        subclip_tokens: int,
        query_stride: int,
    ) -> None:
        """Build the attention.

        Args:
            width: D, a multiple of `num_heads`.
            num_heads: h; each head has its own points and weights.
            num_points: N points in each token frame.
            subclip_tokens: K, token frames that a query attends, its own included.
            query_stride: 2 where queries are pooled (the first block of a stage), else 1.
                Values are never pooled.
        """
        super().__init__()
        self.num_heads = num_heads
        self.num_points = num_points
        self.subclip_tokens = subclip_tokens
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.pooling = QueryPooling(width // num_heads) if query_stride == 2 else nn.Identity()
        # W_Delta and W_alpha of all heads in one matrix, rows in the order (h, N, S).
        self.sampling = nn.Linear(width, num_heads * num_points * 3)

    @torch.no_grad()
    def initialise_sampling(self) -> None:
        """Start with equal weights on a ring of points.

        W_Delta is small and not zero: with zero no gradient would reach the motion tokens
        in the first step.
        """
        shape = {"h": self.num_heads, "n": self.num_points, "s": 3}
        weight = rearrange(self.sampling.weight, "(h n s) d -> h n s d", **shape)
        weight[:, :, :2].normal_(std=OFFSET_INITIAL_STD)
        weight[:, :, 2].zero_()
        bias = rearrange(self.sampling.bias, "(h n s) -> h n s", **shape)
        bias[:, :, :2].copy_(ring_offsets(self.num_heads, self.num_points))
        bias[:, :, 2].zero_()

    def forward(self, tokens_BTHWD: Tensor, motion_tokens: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens_BTHWD: (B, T, H, W, D) normalised tokens; T is a multiple of K.
            motion_tokens: (B, T, K, Hq, Wq, D) from the stage's `MotionTokenizer`, on the
                grid of the pooled queries.

        Returns:
            (B, T, Hq, Wq, D).
        """
        batch = tokens_BTHWD.shape[0]
        queries = self.pooling(self.query(tokens_BTHWD))
        values = rearrange(
            self.value(tokens_BTHWD), "b (c k) y x d -> (b c) k y x d", k=self.subclip_tokens
        )
        predicted = self.sampling(queries.unsqueeze(2) + motion_tokens)
        locations, weights = self._points(predicted, value_grid=values.shape[2:4])
        attended = sum_sampled_values(values, locations=locations, weights=weights)
        height, width = queries.shape[2:4]
        return rearrange(attended, "(b c) q (y x) d -> b (c q) y x d", b=batch, y=height, x=width)

    def _points(self, predicted: Tensor, *, value_grid: torch.Size) -> tuple[Tensor, Tensor]:
        """Split the prediction into locations (equations 11, 12) and weights (13, 14).

        The softmax is joint over the points of all frames of the sub-clip.

        Args:
            predicted: (B, T, K, Hq, Wq, h * N * S).
            value_grid: (H, W) of the value maps: offsets are in their cells.

        Returns:
            locations (G, Q, K, L, h, N, 2) and weights (G, Q, K, L, h, N), at least float32.
        """
        num_queries, num_frames = self.subclip_tokens, self.subclip_tokens
        query_height, query_width = predicted.shape[3:5]
        predicted = rearrange(
            predicted.to(torch.promote_types(predicted.dtype, torch.float32)),
            "b (c q) k y x (h n s) -> (b c) q k (y x) h n s",
            q=num_queries,
            h=self.num_heads,
            s=3,
        )
        centres = grid_centres(query_height, query_width, like=predicted)
        cell_counts = predicted.new_tensor([value_grid[1], value_grid[0]])
        locations = centres[:, None, None] + predicted[..., :2] / cell_counts
        logits = rearrange(predicted[..., 2], "g q k l h n -> g q l h (k n)")
        weights = rearrange(logits.softmax(dim=-1), "g q l h (k n) -> g q k l h n", k=num_frames)
        return locations, weights
