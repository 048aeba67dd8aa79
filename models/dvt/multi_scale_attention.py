"""Deformable multi-scale attention (D-MS-A) of the Deformable Video Transformer.

A query token attends N sampled points in each of two maps of its own frame: the tokens, and a
coarser map that a strided convolution makes of them.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 15 and 16. The paper
leaves open how the coarse map is made and read; a depthwise convolution, and projections after
the map has been brought back to the token grid, give its parameters and FLOPs.

Dimensions: B batch, T token frames, H, W the token grid, Hq, Wq the query grid, Hc, Wc the
coarse grid, L = Hq * Wq, D width, h heads, N points.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from gopstream.models.dvt.options import BlockOptions
from gopstream.models.dvt.point_attention import attend_points
from gopstream.models.dvt.point_prediction import PointPrediction
from gopstream.models.dvt.query_pooling import NORM_EPSILON, QueryPooling
from gopstream.models.layers.multiscale_plan import BlockShape


def resize_tokens(tokens_BTHWD: Tensor, *, height: int, width: int) -> Tensor:
    """Resize each frame bilinearly to (B, T, height, width, D); weights at borders sum to 1."""
    batch, _, rows, columns = tokens_BTHWD.shape[:4]
    if (rows, columns) == (height, width):
        return tokens_BTHWD
    maps = rearrange(tokens_BTHWD, "b t h w d -> (b t) d h w")
    resized = functional.interpolate(
        maps, size=(height, width), mode="bilinear", align_corners=False
    )
    joined: Tensor = rearrange(resized, "(b t) d h w -> b t h w d", b=batch)
    return joined


class CoarseScale(nn.Module):
    """The second scale: a strided depthwise convolution in space and time, then a norm."""

    def __init__(self, width: int, *, stride: int) -> None:
        """Build the scale; `stride` is that of rows and columns."""
        super().__init__()
        self.convolution = nn.Conv3d(
            width, width, 3, stride=(1, stride, stride), padding=1, groups=width, bias=False
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, tokens_BTHWD: Tensor) -> Tensor:
        """Map (B, T, H, W, D) to (B, T, Hc, Wc, D), grids rounded up."""
        maps = self.convolution(rearrange(tokens_BTHWD, "b t h w d -> b d t h w"))
        normalised: Tensor = self.norm(rearrange(maps, "b d t h w -> b t h w d"))
        return normalised


class DeformableMultiScaleAttention(nn.Module):
    """D-MS-A of one block, without the residual; the scales share their projections.

    With scale form "literal" the coarse map is brought to the token grid, then projected and
    sampled there. "commuted" projects it on its own grid, which gives the same queries, since
    the weights of bilinear interpolation sum to 1, and samples it there: interpolated once, not
    twice, and offsets are in its own, larger cells.
    """

    def __init__(self, shape: BlockShape, *, options: BlockOptions) -> None:
        """Build the attention; each head has its own points and weights in each scale."""
        super().__init__()
        width, num_heads = shape.width, shape.num_heads
        self.scale_form = options.scale_form
        self.implementation = options.implementation
        with_query = options.projections == "query_value"
        self.coarse_scale = CoarseScale(width, stride=shape.coarse_stride(options.coarse_stride))
        self.query = nn.Linear(width, width) if with_query else nn.Identity()
        self.value = nn.Linear(width, width)
        self.pooling = QueryPooling(width // num_heads) if shape.query_stride == 2 else None
        self.sampling = nn.ModuleList(
            PointPrediction(width, num_heads=num_heads, num_points=options.num_points)
            for _ in range(2)
        )
        self.output = nn.Identity() if with_query else nn.Linear(width, width)

    def forward(self, tokens_BTHWD: Tensor) -> Tensor:
        """Map normalised tokens (B, T, H, W, D) to (B, T, Hq, Wq, D)."""
        batch, _, height, width = tokens_BTHWD.shape[:4]
        coarse = self.coarse_scale(tokens_BTHWD)
        if self.scale_form == "literal":
            coarse = resize_tokens(coarse, height=height, width=width)
        scales = (tokens_BTHWD, coarse)
        queries = [resize_tokens(self.query(scale), height=height, width=width) for scale in scales]
        if self.pooling is not None:
            queries = [self.pooling(query) for query in queries]
        points = [predict(query) for predict, query in zip(self.sampling, queries, strict=True)]
        query_grid = (queries[0].shape[2], queries[0].shape[3])
        values = [rearrange(self.value(scale), "b t y x d -> (b t) (y x) d") for scale in scales]
        attended = attend_points(
            torch.cat(values, dim=1),
            rearrange(points, "k b t y x h n s -> (b t) 1 k (y x) h n s"),
            grids=tuple((scale.shape[2], scale.shape[3]) for scale in scales),
            query_grid=query_grid,
            implementation=self.implementation,
        )
        attended = rearrange(attended, "(b t) 1 (y x) d -> b t y x d", b=batch, y=query_grid[0])
        joined: Tensor = self.output(attended)
        return joined
