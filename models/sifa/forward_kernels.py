# mypy: disable-error-code="import-untyped, untyped-decorator"
# Triton has no type information: tl.tensor and tl.tuple are what a tracer passes through.
"""The kernel that sums the taps of the SIFA operator.

A tap is read once and used while it is in registers; no correlation volume is ever stored.

WEIGHS_SUM: the weight stands at the summed tap, not in its product with the query. Where there
are no offsets, the same kernels so make the gradient of the query out of that of the result.
"""

import triton
import triton.language as tl

from gopstream.models.sifa.kernel_tiles import (
    find_field,
    find_pixels,
    load_pixels,
    load_weight,
    read_tap,
    store_pixels,
)


@triton.jit
def attend_kernel(
    result_ptr: tl.tensor,
    query_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    num_frames: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    query_b: tl.tensor,
    query_p: tl.tensor,
    query_h: tl.tensor,
    query_w: tl.tensor,
    keys_b: tl.tensor,
    keys_p: tl.tensor,
    keys_h: tl.tensor,
    keys_w: tl.tensor,
    SCALE: tl.constexpr,
    SIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    WEIGHS_SUM: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """Sum the taps of BLOCK_P pixels."""
    pair, pixels = find_pixels(height, width, BLOCK_P)
    flat, row, column, live = pixels
    query_field = find_field(
        query_ptr, pair, num_frames, height, width, query_b, query_p, query_h, query_w
    )
    keys = find_field(keys_ptr, pair, num_frames, height, width, keys_b, keys_p, keys_h, keys_w)
    pointers = (offsets_ptr, weights_ptr)
    frame = pair % num_frames
    channels = tl.arange(0, BLOCK_C)
    query = load_pixels(query_field, row, column, channels, live, WIDTH, ACC)
    summed = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for tap in range(SIDE * SIDE):
        read = read_tap(
            keys, pointers, pixels, tap, channels, SIDE, DILATION, MARGIN, WIDTH, HAS_OFFSETS, ACC
        )
        weight = load_weight(pointers, frame, tap, channels, SCALE, SIDE, WIDTH, HAS_WEIGHTS, ACC)
        if WEIGHS_SUM:
            summed += tl.sum(query * read, axis=1)[:, None] * (weight * read)
        else:
            summed += tl.sum(query * weight * read, axis=1)[:, None] * read
    store_pixels(result_ptr, summed, flat, channels, live, WIDTH)
