# mypy: disable-error-code="import-untyped, untyped-decorator"
# Triton has no type information: tl.tensor and tl.tuple are what a tracer passes through.
"""What the kernels of the fused SIFA operator are made of.

A program has BLOCK_P pixels of one pair of frames with all their channels: BLOCK_C is no less
than their number, so that a product over channels is complete when a tap has been read once.
Arithmetic is in ACC, float32 or float64, whatever is stored. Tuples that go through:

pixels: (flat, row, column, live), each (P,): place in the result, row and column in the frame,
    and whether there is such a pixel.
field: (pointer, height, width, stride_h, stride_w) of one frame of a tensor.
pointers: (offsets, weights), each of any tensor where there are none.

Dimensions: P pixels of a program, C channels, BLOCK_C of them.
"""

import triton
import triton.language as tl

OUTSIDE = tl.constexpr(-2.0)
"""A coordinate whose neighbours are all outside, for whatever lies a pixel or more outside."""


@triton.jit
def find_pixels(height: tl.tensor, width: tl.tensor, BLOCK_P: tl.constexpr) -> tl.tuple:
    """Return which pair of frames and which of its pixels this program has."""
    blocks = tl.cdiv(height * width, BLOCK_P)
    pair = tl.program_id(0) // blocks
    pixel = tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    flat = pair.to(tl.int64) * height * width + pixel
    return pair.to(tl.int64), (flat, pixel // width, pixel % width, pixel < height * width)


@triton.jit
def find_field(
    pointer: tl.tensor,
    pair: tl.tensor,
    num_frames: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    stride_b: tl.tensor,
    stride_p: tl.tensor,
    stride_h: tl.tensor,
    stride_w: tl.tensor,
) -> tl.tuple:
    """Return the frame that a pair has of a (B, P, H, W, C) tensor, as a field."""
    frame = pointer + pair // num_frames * stride_b + pair % num_frames * stride_p
    return frame, height, width, stride_h, stride_w


@triton.jit
def load_pixels(
    field: tl.tuple,
    y: tl.tensor,
    x: tl.tensor,
    channels: tl.tensor,
    live: tl.tensor,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tensor:
    """Load a (P, C) tile at whole pixels; zeros outside the frame and where not `live`."""
    pointer, height, width, stride_h, stride_w = field
    inside = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    rows = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    mask = inside[:, None] & (channels < WIDTH)[None, :]
    return tl.load(pointer + rows[:, None] + channels[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def load_weight(
    pointers: tl.tuple,
    frame: tl.tensor,
    tap: tl.tensor,
    channels: tl.tensor,
    SCALE: tl.constexpr,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tensor:
    """Return what a tap's products are multiplied with, (1, C)."""
    if HAS_WEIGHTS:
        row = pointers[1] + (frame * (SIDE * SIDE) + tap) * WIDTH
        weight = tl.load(row + channels, mask=channels < WIDTH, other=0.0).to(ACC)
    else:
        weight = tl.full([channels.shape[0]], SCALE, ACC)
    return weight[None, :]


@triton.jit
def find_place(
    offsets_ptr: tl.tensor,
    pixels: tl.tuple,
    tap: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    SIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MARGIN: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tuple:
    """Return where a deformed tap lies, y and x of (P,) in pixels."""
    flat, row, column, live = pixels
    place = offsets_ptr + (flat * (SIDE * SIDE) + tap) * 2
    dy = tl.load(place, mask=live, other=0.0).to(ACC)
    dx = tl.load(place + 1, mask=live, other=0.0).to(ACC)
    y = (row - MARGIN + tap // SIDE * DILATION).to(ACC) + dy
    x = (column - MARGIN + tap % SIDE * DILATION).to(ACC) + dx
    # What is not a number goes outside too: no address is ever made of it.
    y = tl.where((y > -1) & (y < height), y, OUTSIDE)
    x = tl.where((x > -1) & (x < width), x, OUTSIDE)
    return y, x


@triton.jit
def load_corners(
    field: tl.tuple,
    y: tl.tensor,
    x: tl.tensor,
    channels: tl.tensor,
    live: tl.tensor,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tuple:
    """Load the four (P, C) neighbours of places between pixels, row by row."""
    top = tl.floor(y).to(tl.int32)
    left = tl.floor(x).to(tl.int32)
    upper_left = load_pixels(field, top, left, channels, live, WIDTH, ACC)
    upper_right = load_pixels(field, top, left + 1, channels, live, WIDTH, ACC)
    lower_left = load_pixels(field, top + 1, left, channels, live, WIDTH, ACC)
    lower_right = load_pixels(field, top + 1, left + 1, channels, live, WIDTH, ACC)
    return upper_left, upper_right, lower_left, lower_right


@triton.jit
def blend(corners: tl.tuple, y: tl.tensor, x: tl.tensor) -> tl.tensor:
    """Interpolate between four neighbours, (P, C)."""
    upper_left, upper_right, lower_left, lower_right = corners
    down = (y - tl.floor(y))[:, None]
    right = (x - tl.floor(x))[:, None]
    upper = (1 - right) * upper_left + right * upper_right
    lower = (1 - right) * lower_left + right * lower_right
    return (1 - down) * upper + down * lower


@triton.jit
def read_tap(
    keys: tl.tuple,
    pointers: tl.tuple,
    pixels: tl.tuple,
    tap: tl.tensor,
    channels: tl.tensor,
    SIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MARGIN: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tensor:
    """Return what a tap reads from the keys, (P, C)."""
    _, row, column, live = pixels
    _, height, width, _, _ = keys
    if HAS_OFFSETS:
        y, x = find_place(pointers[0], pixels, tap, height, width, SIDE, DILATION, MARGIN, ACC)
        read = blend(load_corners(keys, y, x, channels, live, WIDTH, ACC), y, x)
    else:
        y = row - MARGIN + tap // SIDE * DILATION
        x = column - MARGIN + tap % SIDE * DILATION
        read = load_pixels(keys, y, x, channels, live, WIDTH, ACC)
    return read


@triton.jit
def store_pixels(
    pointer: tl.tensor,
    values: tl.tensor,
    flat: tl.tensor,
    channels: tl.tensor,
    live: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """Store a (P, C) tile in a contiguous tensor."""
    mask = live[:, None] & (channels < WIDTH)[None, :]
    place = pointer + flat[:, None] * WIDTH + channels[None, :]
    tl.store(place, values.to(pointer.dtype.element_ty), mask=mask)
