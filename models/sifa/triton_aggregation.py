"""The SIFA operator as one fused operation, forwards and backwards, for CUDA devices.

To torch.compile and torch.export it is a single operation. Neither products nor samples are
kept for the way back: both are made again from the inputs. Triton is imported by the first call:
the rest of the package does without it.

Dimensions: B batch, P pairs of frames, H, W a grid, C width; K taps, the square of the region.
"""

from typing import Any

import torch
from torch import Tensor

from gopstream.models.layers.atomic_sums import alert_to_changing_order

_TILE = 2048
"""Pixels times channels of a program: 16 registers of a thread for each float32 tile."""
_THREADS_OF_WARP = 32


@torch.library.custom_op("gopstream::attend_neighbours", mutates_args=())
def attend_fused(
    query_BPHWC: Tensor,
    keys_BPHWC: Tensor,
    offsets_BPHWK2: Tensor | None,
    tap_weights_PKC: Tensor | None,
    region: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """Do as `attend_neighbours`.

    Raises:
        ValueError: If the tensors are not on a CUDA device (and kernels are not interpreted).
    """
    return _attend(
        query_BPHWC,
        keys_BPHWC,
        offsets=offsets_BPHWK2,
        tap_weights=tap_weights_PKC,
        options=_tap_options(region, dilation, scale),
        weighs_sum=False,
    )


@torch.library.custom_op("gopstream::attend_neighbours_backward", mutates_args=())
def attend_fused_backward(
    gradient_BPHWC: Tensor,
    query_BPHWC: Tensor,
    keys_BPHWC: Tensor,
    offsets_BPHWK2: Tensor | None,
    tap_weights_PKC: Tensor | None,
    region: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, keys and offsets; the last is empty without offsets."""
    options = _tap_options(region, dilation, scale)
    if offsets_BPHWK2 is not None:
        return _deformable_gradients(
            gradient_BPHWC,
            query_BPHWC,
            keys_BPHWC,
            offsets=offsets_BPHWK2,
            tap_weights=tap_weights_PKC,
            options=options,
        )
    of_query = _attend(
        gradient_BPHWC,
        keys_BPHWC,
        offsets=None,
        tap_weights=tap_weights_PKC,
        options=options,
        weighs_sum=True,
    )
    of_keys = _regular_keys_gradient(
        gradient_BPHWC, query_BPHWC, keys_BPHWC, tap_weights=tap_weights_PKC, options=options
    )
    return of_query, of_keys, query_BPHWC.new_empty(0)


@attend_fused.register_fake
def _fake(query: Tensor, *_others: object) -> Tensor:
    return query.new_empty(query.shape)


@attend_fused_backward.register_fake
def _fake_backward(
    _gradient: Tensor, query: Tensor, keys: Tensor, offsets: Tensor | None, *_others: object
) -> tuple[Tensor, Tensor, Tensor]:
    of_offsets = query.new_empty(0) if offsets is None else offsets.new_empty(offsets.shape)
    return query.new_empty(query.shape), keys.new_empty(keys.shape), of_offsets


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    query, keys, offsets, tap_weights = ctx.saved_tensors
    of_query, of_keys, of_offsets = attend_fused_backward(
        gradient, query, keys, offsets, tap_weights, *ctx.options
    )
    return of_query, of_keys, None if offsets is None else of_offsets, None, None, None, None


attend_fused.register_autograd(_differentiate, setup_context=_keep_inputs)


def _tap_options(region: int, dilation: int, scale: float) -> dict[str, Any]:
    margin = (dilation * (region - 1) + 1) // 2
    return {"SCALE": scale, "SIDE": region, "DILATION": dilation, "MARGIN": margin}


def _attend(
    query: Tensor,
    keys: Tensor,
    *,
    offsets: Tensor | None,
    tap_weights: Tensor | None,
    options: dict[str, Any],
    weighs_sum: bool,
) -> Tensor:
    from gopstream.models.sifa.forward_kernels import attend_kernel

    query, keys = _channels_last(query), _channels_last(keys)
    result = query.new_empty(query.shape)
    _launch(
        attend_kernel,
        (
            result,
            query,
            keys,
            query if offsets is None else offsets.contiguous(),
            query if tap_weights is None else tap_weights.contiguous(),
        ),
        strided=(query, keys),
        options=options
        | {
            "HAS_OFFSETS": offsets is not None,
            "HAS_WEIGHTS": tap_weights is not None,
            "WEIGHS_SUM": weighs_sum,
        },
    )
    return result


def _regular_keys_gradient(
    gradient: Tensor,
    query: Tensor,
    keys: Tensor,
    *,
    tap_weights: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    from gopstream.models.sifa.backward_kernels import keys_gradient_kernel

    query, keys, gradient = map(_channels_last, (query, keys, gradient))
    of_keys = keys.new_empty(keys.shape)
    weights = query if tap_weights is None else tap_weights.contiguous()
    _launch(
        keys_gradient_kernel,
        (of_keys, query, keys, gradient, weights),
        strided=(query, keys, gradient),
        options=options | {"HAS_WEIGHTS": tap_weights is not None},
    )
    return of_keys


def _deformable_gradients(
    gradient: Tensor,
    query: Tensor,
    keys: Tensor,
    *,
    offsets: Tensor,
    tap_weights: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    from gopstream.models.sifa.backward_kernels import deformable_gradient_kernel

    alert_to_changing_order("attend_neighbours with offsets")
    query, keys, gradient = map(_channels_last, (query, keys, gradient))
    of_query = query.new_empty(query.shape)
    # Many queries add to one pixel: a half-precision sum would lose the small ones.
    of_keys = keys.new_zeros(keys.shape, dtype=_sum_dtype(keys))
    of_offsets = offsets.new_empty(offsets.shape)
    weights = query if tap_weights is None else tap_weights.contiguous()
    _launch(
        deformable_gradient_kernel,
        (of_query, of_keys, of_offsets, query, keys, offsets.contiguous(), weights, gradient),
        strided=(query, keys, gradient),
        options=options | {"HAS_WEIGHTS": tap_weights is not None},
    )
    return of_query, of_keys.to(keys.dtype), of_offsets


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _launch(
    kernel: Any,  # noqa: ANN401  a kernel of Triton's
    tensors: tuple[Tensor, ...],
    *,
    strided: tuple[Tensor, ...],
    options: dict[str, Any],
) -> None:
    """Run a kernel over the pixels of the first of the strided tensors, (B, P, H, W, C)."""
    import triton

    like = strided[0]
    if like.device.type != "cuda" and isinstance(kernel, triton.runtime.JITFunction):
        raise ValueError(
            f'implementation "triton" needs tensors on a CUDA device, got them on {like.device}; '
            'use "portable", or "auto"'
        )
    batch, num_frames, height, width, channels = like.shape
    if like.numel() == 0:
        return
    block_channels = triton.next_power_of_2(channels)
    block_pixels = max(1, _TILE // block_channels)
    strides = [stride for tensor in strided for stride in tensor.stride()[:4]]
    with torch.cuda.device(like.get_device()):
        kernel[(batch * num_frames * triton.cdiv(height * width, block_pixels),)](
            *tensors,
            num_frames,
            height,
            width,
            *strides,
            **options,
            WIDTH=channels,
            BLOCK_P=block_pixels,
            BLOCK_C=block_channels,
            ACC=triton.language.float64 if like.dtype == torch.float64 else triton.language.float32,
            enable_fp_fusion=True,
            num_warps=max(4, min(16, block_channels * block_pixels // (_THREADS_OF_WARP * 16))),
        )
