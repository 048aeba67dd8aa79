"""Attention over points that the query chooses: the operator of the Deformable Video Transformer.

A query predicts N points in each value map, and how much each counts. What it receives is the
weighted sum of the values at those points: no keys and no dot products. Space-time attention
(D-ST-A) has the frames of a sub-clip for maps, multi-scale attention (D-MS-A) the scales of one
frame.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 10 to 16.

Dimensions: as in `gopstream.models.dvt.portable_points`.
"""

import importlib.util
from typing import Final, Literal, get_args

from torch import Tensor

from gopstream.models.dvt.portable_points import Grids, attend_points_portable
from gopstream.models.dvt.triton_points import attend_points_triton
from gopstream.models.layers.choices import require_choice

Implementation = Literal["auto", "portable", "triton"]

_HAS_TRITON: Final = importlib.util.find_spec("triton") is not None


def attend_points(
    values_GPD: Tensor,
    predicted_GQKLhNS: Tensor,
    *,
    grids: Grids,
    query_grid: tuple[int, int],
    implementation: Implementation = "auto",
) -> Tensor:
    """Sum the values at the predicted points, weighted.

    The query at row y, column x of a (Y, X) grid reads map k, H rows and W columns, at column
    ``(x + 0.5) * W / X - 0.5 + dx`` and row ``(y + 0.5) * H / Y - 0.5 + dy``, between cells
    bilinearly; a map is 0 outside itself. The weights are the softmax of a query's and head's
    logits over all K * N points. Head i has channels ``i * d`` to ``(i + 1) * d``.

    Places, weights and sums are float32, or float64 where an input is, whatever the storage.
    Nothing is attended across groups.

    Args:
        values_GPD: (G, P, D) floating; the maps one after the other, each row by row. The last
            axis is contiguous.
        predicted_GQKLhNS: (G, Q, K, L, h, N, 3) floating: dx, dy in cells of map k, logit. It is
            what one linear layer over (G, Q, K, L, D) gives, viewed.
        grids: (rows, columns) of the K maps; their cells sum to P.
        query_grid: (rows, columns) of the queries, L in all.
        implementation: "auto" is "triton" on CUDA where triton can be imported, else "portable".

    Returns:
        (G, Q, L, D) in the dtype of `values_GPD`.

    Raises:
        ValueError: If a shape is not as above, or `implementation` cannot run on these tensors.
    """
    require_choice("implementation", implementation, choices=get_args(Implementation))
    _check_shapes(values_GPD, predicted_GQKLhNS, grids=grids, query_grid=query_grid)
    if implementation == "auto":
        implementation = "triton" if values_GPD.is_cuda and _HAS_TRITON else "portable"
    if implementation == "triton":
        if not _HAS_TRITON:
            raise ValueError('implementation="triton" needs the package triton; take "auto"')
        return attend_points_triton(
            values_GPD, predicted_GQKLhNS, grids=grids, query_grid=query_grid
        )
    return attend_points_portable(values_GPD, predicted_GQKLhNS, grids=grids, query_grid=query_grid)


def _check_shapes(
    values: Tensor, predicted: Tensor, *, grids: Grids, query_grid: tuple[int, int]
) -> None:
    num_cells = sum(height * width for height, width in grids)
    if values.ndim != 3 or values.shape[1] != num_cells:
        raise ValueError(
            f"values must be (G, P, D) with the {num_cells} cells of grids {grids} as P, "
            f"got {tuple(values.shape)}"
        )
    num_places = query_grid[0] * query_grid[1]
    if predicted.ndim != 7 or (*predicted.shape[2:4], predicted.shape[6]) != (
        len(grids),
        num_places,
        3,
    ):
        raise ValueError(
            f"predicted must be (G, Q, K, L, h, N, 3) with K = {len(grids)} (grids) and "
            f"L = {num_places} (query_grid {query_grid}), got {tuple(predicted.shape)}"
        )
    if predicted.shape[0] != values.shape[0]:
        raise ValueError(
            f"values and predicted must have the same groups, got G = {values.shape[0]} and "
            f"{predicted.shape[0]}"
        )
    if values.shape[2] % predicted.shape[4]:
        raise ValueError(
            f"D must be a multiple of the h = {predicted.shape[4]} heads of predicted, "
            f"got D = {values.shape[2]}"
        )
