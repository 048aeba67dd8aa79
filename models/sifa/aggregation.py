"""The SIFA operator: each pixel attends a deformed neighbourhood in another frame.

A pixel's query meets the taps of a region around its own place in the other frame. Each tap
reads one vector there, between pixels if it has an offset, and counts as much as its product
with the query says: there is no softmax, and keys are values.

Long et al., "Stand-Alone Inter-Frame Attention in Video Models", CVPR 2022, equations 3 to 6.
By default products are divided by the width, as in the authors' code; the paper's are not
(`scale` of 1), and its sum, of the third order in the features, grows with the width too.

Dimensions: B batch, P pairs of frames, H, W a grid, C width; K taps, the square of the region.
"""

import importlib.util
from typing import Final, Literal, get_args

from torch import Tensor

from gopstream.models.layers.choices import require_choice
from gopstream.models.sifa.portable_aggregation import (
    TapOptions,
    attend_deformable,
    attend_regular,
)
from gopstream.models.sifa.triton_aggregation import attend_fused

Implementation = Literal["auto", "portable", "triton"]

_HAS_TRITON: Final = importlib.util.find_spec("triton") is not None


def attend_neighbours(
    query_BPHWC: Tensor,
    keys_BPHWC: Tensor,
    *,
    offsets_BPHWK2: Tensor | None,
    region: int,
    dilation: int = 1,
    scale: float | None = None,
    tap_weights: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Sum what the taps of a region read, each times its product with the query.

    At each pixel: the sum over taps k of ``scale * <query, s_k> * s_k``. Tap k = i * region + j
    of the pixel (h, w) reads s_k from the keys at
    ``(h - m + i * dilation + dy_k, w - m + j * dilation + dx_k)``, where m is half the extent
    of the region, by bilinear interpolation; outside the keys everything is 0, and a tap whose
    place is a pixel or more outside (or not a number) reads 0. On a pixel the derivative by an
    offset is the one towards the larger coordinate.

    Query and keys may have any strides: consecutive frames of one tensor need no copy, as long
    as its channels are the last axis in memory. Sums are float32, or float64 for float64.

    Args:
        query_BPHWC: (B, P, H, W, C) what is compared, float32, float64, bfloat16 or float16.
        keys_BPHWC: (B, P, H, W, C) what is read, of the same dtype and device.
        offsets_BPHWK2: (B, P, H, W, K, 2) as (dy, dx), in pixels, of any floating dtype; None
            for a regular grid of taps.
        region: Side of the square of taps, odd.
        dilation: Pixels from tap to tap, at least 1.
        scale: Factor of every product; None for 1 / C.
        tap_weights: (P, K, C) constants in place of `scale`: products are sums of
            ``weight * query * key``. No gradient is made for them.
        implementation: "triton" for fused kernels, on CUDA devices only; "portable" for
            operations that every device has; "auto" for the first where it can run.

    Returns:
        (B, P, H, W, C), contiguous, of the query's dtype.

    Raises:
        ValueError: If an option or a shape does not fit, or "triton" cannot run.
    """
    require_choice("implementation", implementation, choices=get_args(Implementation))
    _require_options(region, dilation=dilation, scale=scale, tap_weights=tap_weights)
    _require_shapes(
        query_BPHWC,
        keys_BPHWC,
        offsets=offsets_BPHWK2,
        tap_weights=tap_weights,
        num_taps=region**2,
    )
    factor = 1 / query_BPHWC.shape[-1] if scale is None else float(scale)
    options = TapOptions(region, dilation, factor)
    if implementation == "auto":
        implementation = "triton" if query_BPHWC.is_cuda and _HAS_TRITON else "portable"
    if implementation == "triton":
        if not _HAS_TRITON:
            raise ValueError('implementation "triton" needs the package triton; use "auto"')
        fused: Tensor = attend_fused(query_BPHWC, keys_BPHWC, offsets_BPHWK2, tap_weights, *options)
        return fused
    if offsets_BPHWK2 is None:
        return attend_regular(query_BPHWC, keys_BPHWC, tap_weights=tap_weights, options=options)
    return attend_deformable(
        query_BPHWC,
        keys_BPHWC,
        offsets_BPHWK2=offsets_BPHWK2,
        tap_weights=tap_weights,
        options=options,
    )


def _require_options(
    region: int, *, dilation: int, scale: float | None, tap_weights: Tensor | None
) -> None:
    if region < 1 or region % 2 == 0:
        raise ValueError(f"region must be odd and at least 1, got {region}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    if tap_weights is not None:
        if scale is not None:
            raise ValueError("scale and tap_weights exclude each other, got both")
        if tap_weights.requires_grad:
            raise ValueError("tap_weights are constants, got a tensor that requires a gradient")


def _require_shapes(
    query: Tensor,
    keys: Tensor,
    *,
    offsets: Tensor | None,
    tap_weights: Tensor | None,
    num_taps: int,
) -> None:
    if query.ndim != 5 or keys.shape != query.shape or keys.dtype != query.dtype:
        raise ValueError(
            "query and keys must both be (B, P, H, W, C) of one dtype, got "
            f"{tuple(query.shape)} {query.dtype} and {tuple(keys.shape)} {keys.dtype}"
        )
    if not query.is_floating_point():
        raise ValueError(f"query and keys must be floating-point, got {query.dtype}")
    if offsets is not None and offsets.shape != (*query.shape[:4], num_taps, 2):
        raise ValueError(
            f"offsets must be {(*query.shape[:4], num_taps, 2)}, got {tuple(offsets.shape)}"
        )
    if tap_weights is not None and tap_weights.shape != (
        query.shape[1],
        num_taps,
        query.shape[4],
    ):
        raise ValueError(
            f"tap_weights must be {(query.shape[1], num_taps, query.shape[4])}, "
            f"got {tuple(tap_weights.shape)}"
        )
