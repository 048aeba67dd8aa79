"""Attention over sampled points, fused for CUDA, as one operator that torch can compile.

Only the values and the prediction are kept for the backward pass. The gradient of the values is
added up atomically, in an order that differs from run to run.

Dimensions: as in `gopstream.models.dvt.portable_points`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gopstream.models.dvt.portable_points import Grids
from gopstream.models.layers.atomic_sums import alert_to_changing_order

_LARGEST_CHUNK: Final = 128
_SMALLEST_CHUNK: Final = 16
_FORWARD_ELEMENTS: Final = 2048
_BACKWARD_ELEMENTS: Final = 1024
"""Places times channels that a program of four warps holds at once.

The largest powers of two for which ptxas spills no register (sm_90, 64 and 96 channels to a
head, bfloat16 and float32).
"""


def attend_points_triton(
    values_GPD: Tensor,
    predicted_GQKLhNS: Tensor,
    *,
    grids: Grids,
    query_grid: tuple[int, int],
) -> Tensor:
    """Do what `gopstream.models.dvt.point_attention.attend_points` says, in one kernel.

    Raises:
        ValueError: If the tensors are on no CUDA device (and Triton does not interpret), or a
            group has more elements than 32 bits count.
        RuntimeError: In the backward pass, if torch must use deterministic algorithms.
    """
    in_group = {
        "values": values_GPD.shape[1] * max(values_GPD.stride(1), values_GPD.shape[2]),
        "predicted": math.prod(predicted_GQKLhNS.shape[1:]),
    }
    for name, elements in in_group.items():
        if elements >= 2**31:
            raise ValueError(
                f'implementation="triton" needs less than 2^31 elements of {name} in a group, '
                f'got {elements}; take "portable"'
            )
    flat_grids = list(itertools.chain.from_iterable(grids))
    attended: Tensor = _attend(values_GPD, predicted_GQKLhNS, flat_grids, *query_grid)
    return attended


@torch.library.custom_op("gopstream::attend_points", mutates_args=())
def _attend(
    values: Tensor,
    predicted: Tensor,
    grids: Sequence[int],
    query_height: int,
    query_width: int,
) -> Tensor:
    from gopstream.models.dvt.triton_point_kernels import forward_kernel

    values, predicted = _with_contiguous_channels(values), predicted.contiguous()
    attended = values.new_empty(_shape_of_result(values, predicted))
    _launch(
        forward_kernel,
        (values, predicted, attended),
        sizes=values.stride()[:2],
        grids=grids,
        query_grid=(query_height, query_width),
        elements=_FORWARD_ELEMENTS,
        chunks_apart=True,
    )
    return attended


@torch.library.custom_op("gopstream::attend_points_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    values: Tensor,
    predicted: Tensor,
    grids: Sequence[int],
    query_height: int,
    query_width: int,
) -> tuple[Tensor, Tensor]:
    from gopstream.models.dvt.triton_point_kernels import backward_kernel

    alert_to_changing_order("attend_points")
    values, predicted = _with_contiguous_channels(values), predicted.contiguous()
    # Many points add to one cell: a sum in half precision would lose the small ones.
    grad_values = torch.zeros(values.shape, dtype=_sum_dtype(values, predicted), device=grad.device)
    grad_predicted = torch.empty_like(predicted)
    _launch(
        backward_kernel,
        (values, predicted, grad.contiguous(), grad_values, grad_predicted),
        sizes=(*values.stride()[:2], values.shape[1]),
        grids=grids,
        query_grid=(query_height, query_width),
        elements=_BACKWARD_ELEMENTS,
        chunks_apart=False,
    )
    return grad_values.to(values.dtype), grad_predicted


@_attend.register_fake
def _(
    values: Tensor, predicted: Tensor, grids: Sequence[int], query_height: int, query_width: int
) -> Tensor:
    return values.new_empty(_shape_of_result(values, predicted))


@_attend_backward.register_fake
def _(
    grad: Tensor,
    values: Tensor,
    predicted: Tensor,
    grids: Sequence[int],
    query_height: int,
    query_width: int,
) -> tuple[Tensor, Tensor]:
    return values.new_empty(values.shape), predicted.new_empty(predicted.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    values, predicted, *ctx.sizes = inputs
    ctx.save_for_backward(values, predicted)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    grad_values, grad_predicted = _attend_backward(grad, *ctx.saved_tensors, *ctx.sizes)
    return grad_values, grad_predicted, None, None, None


_attend.register_autograd(_backward, setup_context=_keep_inputs)


def _launch(
    kernel: Any,  # noqa: ANN401  a kernel of Triton's
    tensors: tuple[Tensor, ...],
    *,
    sizes: tuple[int, ...],
    grids: Sequence[int],
    query_grid: tuple[int, int],
    elements: int,
    chunks_apart: bool,
) -> None:
    """Run a kernel on values, prediction and whatever else it takes, all contiguous but values.

    `sizes` are what it takes after them. A program has `elements` places
    times channels at once, and all channels of a head one chunk after the other; or one chunk,
    if chunks are apart.
    """
    import triton

    values, predicted = tensors[:2]
    if not values.is_cuda and isinstance(kernel, triton.runtime.JITFunction):
        raise ValueError(
            f'implementation="triton" needs tensors on a CUDA device, got {values.device}; '
            'take "auto" or "portable" there'
        )
    groups, num_queries, num_maps, num_places, num_heads, num_points, _ = predicted.shape
    if not predicted.numel():
        return
    head_width = values.shape[2] // num_heads
    chunk = _find_chunk(head_width)
    tile_places = elements // chunk
    programs = groups * num_queries * num_heads * triton.cdiv(num_places, tile_places)
    if chunks_apart:
        programs *= triton.cdiv(head_width, chunk)
    in_double = _sum_dtype(values, predicted) == torch.float64
    with torch.cuda.device(values.get_device()):
        kernel[(programs,)](
            *tensors,
            *sizes,
            runs=_find_runs(grids),
            num_maps=num_maps,
            query_height=query_grid[0],
            query_width=query_grid[1],
            num_queries=num_queries,
            num_heads=num_heads,
            head_width=head_width,
            num_points=num_points,
            tile_places=tile_places,
            tile_points=triton.next_power_of_2(num_maps * num_points),
            chunk=chunk,
            sum_type=triton.language.float64 if in_double else triton.language.float32,
            enable_fp_fusion=True,
            num_warps=4,
        )


def _find_chunk(head_width: int) -> int:
    """Return how many channels of a head go together.

    A power of two that divides them, so that no thread is idle: 96 go as three times 32.
    """
    chunk = head_width & -head_width
    if chunk < _SMALLEST_CHUNK:
        chunk = 1 << (head_width - 1).bit_length()
    return min(max(chunk, _SMALLEST_CHUNK), _LARGEST_CHUNK)


def _find_runs(grids: Sequence[int]) -> tuple[int, ...]:
    """Return rows, columns, first cell, first map and length of each run of equal maps."""
    runs: list[int] = []
    cell = index = 0
    for (rows, columns), maps in itertools.groupby(zip(grids[::2], grids[1::2], strict=True)):
        length = len(list(maps))
        runs += [rows, columns, cell, index, length]
        cell, index = cell + length * rows * columns, index + length
    return tuple(runs)


def _shape_of_result(values: Tensor, predicted: Tensor) -> tuple[int, ...]:
    return values.shape[0], predicted.shape[1], predicted.shape[3], values.shape[2]


def _sum_dtype(values: Tensor, predicted: Tensor) -> torch.dtype:
    wide = torch.promote_types(values.dtype, predicted.dtype)
    return torch.promote_types(wide, torch.float32)


def _with_contiguous_channels(values: Tensor) -> Tensor:
    return values if values.stride(2) == 1 else values.contiguous()
