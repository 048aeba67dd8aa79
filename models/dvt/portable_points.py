"""Attention over sampled points in plain PyTorch: the form that runs everywhere.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 10 to 16.

Dimensions: G groups that attend apart from one another (sub-clips, or single frames), Q query
frames of a group, K value maps of a group (its frames, or scales of one frame), H, W a map,
P the cells of all maps of a group, L the places of a query frame, h heads, D width, d = D / h,
N points, S = (dx, dy, logit).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Grids = tuple[tuple[int, int], ...]
"""(rows, columns) of each of the K value maps."""


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


def point_locations(
    predicted_GQKLhNS: Tensor, *, grids: Grids, query_grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Split a prediction into where the points lie and how much each counts.

    Equations 11 to 14: the softmax of a query and head is joint over the points of all maps.

    Args:
        predicted_GQKLhNS: (G, Q, K, L, h, N, 3) floating: dx, dy in cells of map k, logit.
        grids: (rows, columns) of the K maps.
        query_grid: (rows, columns) of the queries; L of them, row by row.

    Returns:
        locations (G, Q, K, L, h, N, 2) as (x, y), where [0, 1] spans the map, and weights
        (G, Q, K, L, h, N); both at least float32.
    """
    wide = torch.promote_types(predicted_GQKLhNS.dtype, torch.float32)
    predicted = predicted_GQKLhNS.to(wide)
    centres = grid_centres(*query_grid, like=predicted)
    cell_counts = predicted.new_tensor([(width, height) for height, width in grids])
    offsets = predicted[..., :2] / cell_counts[:, None, None, None]
    logits = rearrange(predicted[..., 2], "g q k l h n -> g q l h (k n)")
    weights = rearrange(logits.softmax(dim=-1), "g q l h (k n) -> g q k l h n", k=len(grids))
    return centres[:, None, None] + offsets, weights


def attend_points_portable(
    values_GPD: Tensor,
    predicted_GQKLhNS: Tensor,
    *,
    grids: Grids,
    query_grid: tuple[int, int],
) -> Tensor:
    """Do what `gopstream.models.dvt.point_attention.attend_points` says, map by map.

    Values are sampled in the dtype of the locations, at least float32: bfloat16 would place a
    point on a 56-cell grid only to a tenth of a cell.
    """
    wide = torch.promote_types(values_GPD.dtype, predicted_GQKLhNS.dtype)
    wide = torch.promote_types(wide, torch.float32)
    locations, weights = point_locations(
        predicted_GQKLhNS.to(wide), grids=grids, query_grid=query_grid
    )
    num_queries, num_heads = predicted_GQKLhNS.shape[1], predicted_GQKLhNS.shape[4]
    values = torch.split(values_GPD.to(wide), [height * width for height, width in grids], dim=1)
    attended = None
    for index, (height, _) in enumerate(grids):
        maps = rearrange(values[index], "g (y x) (h d) -> (g h) d y x", y=height, h=num_heads)
        grid = 2 * locations[:, :, index] - 1
        grid = rearrange(grid, "g q l h n s -> (g h) (q l) n s")
        samples = F.grid_sample(
            maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        counts = rearrange(weights[:, :, index], "g q l h n -> (g h) 1 (q l) n")
        # A product and a sum keep the layout of the samples, by far the largest tensor here;
        # an einsum copies them first (measured on a CPU: 1.1 times slower model).
        of_map = (samples * counts).sum(dim=-1)
        attended = of_map if attended is None else attended + of_map
    assert attended is not None  # there is a map
    joined = rearrange(attended, "(g h) d (q l) -> g q l (h d)", h=num_heads, q=num_queries)
    return joined.to(values_GPD.dtype)
