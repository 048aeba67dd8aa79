"""Deformable space-time attention (D-ST-A) of the Deformable Video Transformer.

A query token attends N sampled points in each token frame of its sub-clip. Where they lie
and how much each counts is a linear function of the query's appearance and of the motion
from its frame to that frame: there are no keys and no dot products.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 3, 5 and 10 to 14.

Dimensions: B batch, T token frames, K token frames and J target frames of a sub-clip (J is K,
or the sampled frames of K tokens), H, W a token grid, Hq, Wq the query grid, D width, h heads,
d = D / h, N points, S = (dx, dy, logit).
"""

from einops import rearrange, repeat
from torch import Tensor, nn

from gopstream.models.dvt.options import BlockOptions
from gopstream.models.dvt.point_attention import attend_points
from gopstream.models.dvt.point_prediction import PointPrediction
from gopstream.models.dvt.query_pooling import QueryPooling
from gopstream.models.layers.multiscale_plan import BlockShape


class DeformableSpaceTimeAttention(nn.Module):
    """D-ST-A of one block, without the residual.

    With projections "query_value" there is no output projection: equation 10 adds the weighted
    values to the token, and the block's MLP mixes the heads.
    """

    def __init__(self, shape: BlockShape, *, options: BlockOptions) -> None:
        """Build the attention; each head has its own points and weights."""
        super().__init__()
        width, num_heads = shape.width, shape.num_heads
        self.subclip_tokens = options.subclip_tokens
        self.implementation = options.implementation
        with_query = options.projections == "query_value"
        self.query = nn.Linear(width, width) if with_query else nn.Identity()
        self.value = nn.Linear(width, width)
        # Values are never pooled.
        self.pooling = QueryPooling(width // num_heads) if shape.query_stride == 2 else None
        self.sampling = PointPrediction(width, num_heads=num_heads, num_points=options.num_points)
        self.output = nn.Identity() if with_query else nn.Linear(width, width)

    def forward(self, tokens_BTHWD: Tensor, motion_tokens: Tensor | None) -> Tensor:
        """Attend.

        Args:
            tokens_BTHWD: (B, T, H, W, D) normalised tokens; T is a multiple of K.
            motion_tokens: (B, T, J, Hq, Wq, D) from the stage's `MotionTokenizer`, on the
                grid of the pooled queries; None where nothing is known of motion: then all
                frames of the sub-clip are read at the same points.

        Returns:
            (B, T, Hq, Wq, D).
        """
        batch, _, height, width = tokens_BTHWD.shape[:4]
        subclip = {"k": self.subclip_tokens}
        values = rearrange(self.value(tokens_BTHWD), "b (c k) y x d -> (b c) (k y x) d", **subclip)
        predicted = self._predict(tokens_BTHWD, motion_tokens)
        query_grid = (predicted.shape[3], predicted.shape[4])
        # Each target frame of a token has its own points in the token's one value map.
        predicted = rearrange(
            predicted,
            "b (c q) (k r) y x h n s -> (b c) q k (y x) h (r n) s",
            q=self.subclip_tokens,
            **subclip,
        )
        attended = attend_points(
            values,
            predicted,
            grids=((height, width),) * self.subclip_tokens,
            query_grid=query_grid,
            implementation=self.implementation,
        )
        attended = rearrange(attended, "(b c) q (y x) d -> b (c q) y x d", b=batch, y=query_grid[0])
        joined: Tensor = self.output(attended)
        return joined

    def _predict(self, tokens_BTHWD: Tensor, motion_tokens: Tensor | None) -> Tensor:
        """Return points of each query in each target frame, (B, T, J, Hq, Wq, h, N, 3).

        Without motion J is K: the same points once more in a token frame would change nothing.
        """
        queries = self.query(tokens_BTHWD)
        if self.pooling is not None:
            queries = self.pooling(queries)
        if motion_tokens is not None:
            of_each: Tensor = self.sampling(queries.unsqueeze(2) + motion_tokens)
            return of_each
        of_all: Tensor = self.sampling(queries)
        return repeat(of_all, "b t y x h n s -> b t k y x h n s", k=self.subclip_tokens)
