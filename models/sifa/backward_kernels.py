# mypy: disable-error-code="import-untyped, untyped-decorator"
# Triton has no type information: tl.tensor and tl.tuple are what a tracer passes through.
"""Kernels of the SIFA operator's gradients. What the taps read is read again, never stored.

With q the query, g the gradient of the result and m the weight, a tap that reads s adds to the
gradients: of q, <g, s> m s; of s, <m q, s> g + <g, s> m q.
"""

import triton
import triton.language as tl

from gopstream.models.sifa.kernel_tiles import (
    blend,
    find_field,
    find_pixels,
    find_place,
    load_corners,
    load_pixels,
    load_weight,
    store_pixels,
)


@triton.jit
def keys_gradient_kernel(
    gradient_ptr: tl.tensor,
    query_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    above_ptr: tl.tensor,
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
    above_b: tl.tensor,
    above_p: tl.tensor,
    above_h: tl.tensor,
    above_w: tl.tensor,
    SCALE: tl.constexpr,
    SIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """Gather, for BLOCK_P pixels of the keys, from the queries that read them; no offsets.

    `above` is the gradient of the result.
    """
    pair, pixels = find_pixels(height, width, BLOCK_P)
    flat, row, column, live = pixels
    queries = find_field(
        query_ptr, pair, num_frames, height, width, query_b, query_p, query_h, query_w
    )
    keys = find_field(keys_ptr, pair, num_frames, height, width, keys_b, keys_p, keys_h, keys_w)
    above = find_field(
        above_ptr, pair, num_frames, height, width, above_b, above_p, above_h, above_w
    )
    pointers = (weights_ptr, weights_ptr)
    frame = pair % num_frames
    channels = tl.arange(0, BLOCK_C)
    key = load_pixels(keys, row, column, channels, live, WIDTH, ACC)
    summed = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for tap in range(SIDE * SIDE):
        y = row + MARGIN - tap // SIDE * DILATION
        x = column + MARGIN - tap % SIDE * DILATION
        weight = load_weight(pointers, frame, tap, channels, SCALE, SIDE, WIDTH, HAS_WEIGHTS, ACC)
        query = weight * load_pixels(queries, y, x, channels, live, WIDTH, ACC)
        given = load_pixels(above, y, x, channels, live, WIDTH, ACC)
        summed += tl.sum(query * key, axis=1)[:, None] * given
        summed += tl.sum(given * key, axis=1)[:, None] * query
    store_pixels(gradient_ptr, summed, flat, channels, live, WIDTH)


@triton.jit
def slope_down(corners: tl.tuple, x: tl.tensor) -> tl.tensor:
    """Return the derivative of what is read by y, (P, C)."""
    upper_left, upper_right, lower_left, lower_right = corners
    right = (x - tl.floor(x))[:, None]
    return (1 - right) * (lower_left - upper_left) + right * (lower_right - upper_right)


@triton.jit
def slope_right(corners: tl.tuple, y: tl.tensor) -> tl.tensor:
    """Return the derivative of what is read by x, (P, C)."""
    upper_left, upper_right, lower_left, lower_right = corners
    down = (y - tl.floor(y))[:, None]
    return (1 - down) * (upper_right - upper_left) + down * (lower_right - lower_left)


@triton.jit
def add_to_pixels(
    field: tl.tuple,
    values: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    channels: tl.tensor,
    live: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """Add a (P, C) tile at whole pixels; nothing outside the frame and where not `live`."""
    pointer, height, width, stride_h, stride_w = field
    inside = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    mask = inside[:, None] & (channels < WIDTH)[None, :]
    tl.atomic_add(pointer + rows[:, None] + channels[None, :], values, mask=mask, sem="relaxed")


@triton.jit
def add_to_corners(
    field: tl.tuple,
    values: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    channels: tl.tensor,
    live: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """Spread a (P, C) tile over the four neighbours of places between pixels."""
    top = tl.floor(y).to(tl.int32)
    left = tl.floor(x).to(tl.int32)
    down = (y - tl.floor(y))[:, None]
    right = (x - tl.floor(x))[:, None]
    upper, lower = (1 - down) * values, down * values
    add_to_pixels(field, (1 - right) * upper, top, left, channels, live, WIDTH)
    add_to_pixels(field, right * upper, top, left + 1, channels, live, WIDTH)
    add_to_pixels(field, (1 - right) * lower, top + 1, left, channels, live, WIDTH)
    add_to_pixels(field, right * lower, top + 1, left + 1, channels, live, WIDTH)


@triton.jit
def deformable_gradient_kernel(
    query_gradient_ptr: tl.tensor,
    keys_gradient_ptr: tl.tensor,
    offsets_gradient_ptr: tl.tensor,
    query_ptr: tl.tensor,
    keys_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    above_ptr: tl.tensor,
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
    above_b: tl.tensor,
    above_p: tl.tensor,
    above_h: tl.tensor,
    above_w: tl.tensor,
    SCALE: tl.constexpr,
    SIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    ACC: tl.constexpr,
) -> None:
    """Make all gradients of BLOCK_P pixels of the query; those of the keys are added to zeros."""
    pair, pixels = find_pixels(height, width, BLOCK_P)
    flat, row, column, live = pixels
    queries = find_field(
        query_ptr, pair, num_frames, height, width, query_b, query_p, query_h, query_w
    )
    keys = find_field(keys_ptr, pair, num_frames, height, width, keys_b, keys_p, keys_h, keys_w)
    above = find_field(
        above_ptr, pair, num_frames, height, width, above_b, above_p, above_h, above_w
    )
    into = keys_gradient_ptr + pair * height * width * WIDTH
    keys_gradient = (into, height, width, width * WIDTH, WIDTH)
    pointers = (offsets_ptr, weights_ptr)
    frame = pair % num_frames
    channels = tl.arange(0, BLOCK_C)
    query = load_pixels(queries, row, column, channels, live, WIDTH, ACC)
    given = load_pixels(above, row, column, channels, live, WIDTH, ACC)
    summed = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for tap in range(SIDE * SIDE):
        weight = load_weight(pointers, frame, tap, channels, SCALE, SIDE, WIDTH, HAS_WEIGHTS, ACC)
        y, x = find_place(offsets_ptr, pixels, tap, height, width, SIDE, DILATION, MARGIN, ACC)
        corners = load_corners(keys, y, x, channels, live, WIDTH, ACC)
        read = blend(corners, y, x)
        of_query = tl.sum(weight * query * read, axis=1)[:, None]
        of_given = tl.sum(given * read, axis=1)[:, None]
        summed += of_given * (weight * read)
        read_gradient = of_query * given + of_given * (weight * query)
        add_to_corners(keys_gradient, read_gradient, y, x, channels, live, WIDTH)
        place = offsets_gradient_ptr + (flat * (SIDE * SIDE) + tap) * 2
        for_y = tl.sum(read_gradient * slope_down(corners, x), axis=1)
        for_x = tl.sum(read_gradient * slope_right(corners, y), axis=1)
        tl.store(place, for_y.to(offsets_gradient_ptr.dtype.element_ty), mask=live)
        tl.store(place + 1, for_x.to(offsets_gradient_ptr.dtype.element_ty), mask=live)
    store_pixels(query_gradient_ptr, summed, flat, channels, live, WIDTH)
