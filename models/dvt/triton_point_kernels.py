# mypy: disable-error-code="import-untyped, untyped-decorator"
# Triton has no type information: tl.tensor is what a tracer passes through.
"""The kernels of attention over sampled points: no sample and no weight is ever stored.

One program handles a tile of places of one query frame and head. Forward it samples, weighs and
adds up in registers; backward it samples again. The weights' softmax is taken twice: once for its
peak and total, once at each point.

Wang and Torresani, "Deformable Video Transformer", CVPR 2022, equations 10 to 16. The plan of
work is that of the sampling kernel of Deformable DETR (Zhu et al., ICLR 2021).

Dimensions: as in `gopstream.models.dvt.portable_points`. `runs` holds five numbers for each run
of equal maps: rows, columns, first cell, first map, how many maps (the frames of a sub-clip are
one run: code is made for it once). A chunk is a part of a head's channels. Sizes of a group fit
32 bits, those of a batch need 64. Functions take all arguments by position, as Triton wants it.
"""

import triton
import triton.language as tl


@triton.jit
def _find_query(
    program: tl.tensor,
    num_queries: tl.constexpr,
    num_heads: tl.constexpr,
    num_places: tl.constexpr,
    tile_places: tl.constexpr,
) -> tl.tensor:
    """Return the group, query frame, head and (tile,) places of a program.

    Programs that share maps are neighbours, so that the maps stay in the L2 cache.
    """
    num_tiles: tl.constexpr = tl.cdiv(num_places, tile_places)
    places = (program % num_tiles) * tile_places + tl.arange(0, tile_places)
    frame_of_head = program // num_tiles
    query = frame_of_head % num_queries
    head_of_group = frame_of_head // num_queries
    return (head_of_group // num_heads).to(tl.int64), query, head_of_group % num_heads, places


@triton.jit
def _weigh(
    predicted_ptr: tl.tensor,
    places: tl.tensor,
    num_maps: tl.constexpr,
    num_places: tl.constexpr,
    num_heads: tl.constexpr,
    num_points: tl.constexpr,
    tile_points: tl.constexpr,
    sum_type: tl.constexpr,
) -> tl.tensor:
    """Return the exponentials of (tile, points of all maps) logits, their peak and total.

    Columns past the last point are 0. Also where the logits are, and which there are.
    """
    columns = tl.arange(0, tile_points)[None, :]
    rows = (columns // num_points) * num_places + places[:, None]
    indices = (rows * (num_heads * num_points) + columns % num_points) * 3 + 2
    is_point = columns < num_maps * num_points
    present = is_point & (places[:, None] < num_places)
    logits = tl.load(predicted_ptr + indices, mask=present, other=0.0).to(sum_type)
    logits = tl.where(is_point, logits, float("-inf"))
    peak = tl.max(logits, axis=1)
    exponentials = tl.exp(logits - peak[:, None])
    return exponentials, peak, tl.sum(exponentials, axis=1), indices, present


@triton.jit
def _locate(
    index: tl.tensor, offset: tl.tensor, num_indices: tl.constexpr, num_cells: tl.constexpr
) -> tl.tensor:
    """Return the cell before a point along one axis, and how far past its centre the point is."""
    # The ratio is 1 or 2 in the papers' geometries: exact, where a division is not on a GPU.
    ratio: tl.constexpr = num_cells / num_indices
    place = (index.to(offset.dtype) + 0.5) * ratio - 0.5 + offset
    # What lies far outside is brought near, since a cell must fit 32 bits. NaN stays NaN.
    place = tl.where(place < -2.0, -2.0, place)
    place = tl.where(place > num_cells + 1.0, num_cells + 1.0, place)
    before = tl.floor(place)
    return before.to(tl.int32), place - before


@triton.jit
def _find_point(
    row_ptr: tl.tensor,
    places: tl.tensor,
    present: tl.tensor,
    query_height: tl.constexpr,
    query_width: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    sum_type: tl.constexpr,
) -> tl.tensor:
    """Return (tile,) top row, left column, shares of the next row and column, and logit."""
    dx = tl.load(row_ptr, mask=present, other=0.0).to(sum_type)
    dy = tl.load(row_ptr + 1, mask=present, other=0.0).to(sum_type)
    logit = tl.load(row_ptr + 2, mask=present, other=0.0).to(sum_type)
    left, x_share = _locate(places % query_width, dx, query_width, width)
    top, y_share = _locate(places // query_width, dy, query_height, height)
    return top, left, y_share, x_share, logit


@triton.jit
def _find_cell(
    row: tl.tensor, column: tl.tensor, height: tl.constexpr, width: tl.constexpr
) -> tl.tensor:
    """Return the index of a cell in its map, and whether it is inside."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row * width + column, inside


@triton.jit
def forward_kernel(
    values_ptr: tl.tensor,
    predicted_ptr: tl.tensor,
    attended_ptr: tl.tensor,
    group_stride: tl.tensor,
    cell_stride: tl.tensor,
    runs: tl.constexpr,
    num_maps: tl.constexpr,
    query_height: tl.constexpr,
    query_width: tl.constexpr,
    num_queries: tl.constexpr,
    num_heads: tl.constexpr,
    head_width: tl.constexpr,
    num_points: tl.constexpr,
    tile_places: tl.constexpr,
    tile_points: tl.constexpr,
    chunk: tl.constexpr,
    sum_type: tl.constexpr,
) -> None:
    """Attend from a tile of places, for one chunk of the channels of a head."""
    num_places: tl.constexpr = query_height * query_width
    num_chunks: tl.constexpr = tl.cdiv(head_width, chunk)
    width_of_all: tl.constexpr = num_heads * head_width
    program = tl.program_id(0)
    channels = (program % num_chunks) * chunk + tl.arange(0, chunk)
    in_head = (channels < head_width)[None, :]
    group, query, head, places = _find_query(
        program // num_chunks, num_queries, num_heads, num_places, tile_places
    )
    present = places < num_places
    frame = group * num_queries + query
    values_ptr += group * group_stride + head * head_width
    predicted_ptr += (frame * (num_maps * num_places * num_heads) + head) * (num_points * 3)
    attended_ptr += frame * (num_places * width_of_all) + head * head_width
    _, peak, total, _, _ = _weigh(
        predicted_ptr, places, num_maps, num_places, num_heads, num_points, tile_points, sum_type
    )
    attended = tl.zeros((tile_places, chunk), sum_type)
    for run in tl.static_range(0, len(runs), 5):
        for step in range(runs[run + 4] * num_points):
            index, point = step // num_points, step % num_points
            map_ptr = values_ptr + (runs[run + 2] + index * runs[run] * runs[run + 1]) * cell_stride
            row = (runs[run + 3] + index) * num_places + places
            top, left, y_share, x_share, logit = _find_point(
                predicted_ptr + (row * num_heads * num_points + point) * 3, places, present,
                query_height, query_width, runs[run], runs[run + 1], sum_type,
            )  # fmt: skip
            weight = tl.exp(logit - peak) / total
            for corner in tl.static_range(4):
                cells, inside = _find_cell(
                    top + corner // 2, left + corner % 2, runs[run], runs[run + 1]
                )
                y_part = y_share if corner // 2 else 1 - y_share
                x_part = x_share if corner % 2 else 1 - x_share
                values = tl.load(
                    map_ptr + cells[:, None] * cell_stride + channels[None, :],
                    mask=inside[:, None] & in_head,
                    other=0.0,
                )
                attended += (weight * y_part * x_part)[:, None] * values.to(sum_type)
    tl.store(
        attended_ptr + places[:, None] * width_of_all + channels[None, :],
        attended.to(attended_ptr.dtype.element_ty),
        mask=present[:, None] & in_head,
    )


@triton.jit
def _backpropagate_sample(
    map_ptr: tl.tensor,
    grad_map_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    cell_stride: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    y_share: tl.tensor,
    x_share: tl.tensor,
    weight: tl.tensor,
    present: tl.tensor,
    height: tl.constexpr,
    width: tl.constexpr,
    head_width: tl.constexpr,
    width_of_all: tl.constexpr,
    tile_places: tl.constexpr,
    chunk: tl.constexpr,
    sum_type: tl.constexpr,
) -> tl.tensor:
    """Add to the gradient of the values that one point of each place was made of.

    Returns:
        (tile,) products of the gradient with the sample and with its slopes along x and y.
    """
    product = tl.zeros((tile_places, chunk), sum_type)
    along_x = tl.zeros((tile_places, chunk), sum_type)
    along_y = tl.zeros((tile_places, chunk), sum_type)
    for first in tl.static_range(0, head_width, chunk):
        channels = first + tl.arange(0, chunk)[None, :]
        in_head = channels < head_width
        mask = present[:, None] & in_head
        grad = tl.load(grad_ptr[:, None] + channels, mask=mask, other=0.0).to(sum_type)
        for corner in tl.static_range(4):
            cells, inside = _find_cell(top + corner // 2, left + corner % 2, height, width)
            y_part = y_share if corner // 2 else 1 - y_share
            x_part = x_share if corner % 2 else 1 - x_share
            mask = (inside & present)[:, None] & in_head
            tl.atomic_add(
                grad_map_ptr + cells[:, None] * width_of_all + channels,
                grad * (weight * y_part * x_part)[:, None],
                mask=mask,
                sem="relaxed",
            )
            value_ptr = map_ptr + cells[:, None] * cell_stride + channels
            term = grad * tl.load(value_ptr, mask=mask, other=0.0).to(sum_type)
            product += term * (y_part * x_part)[:, None]
            along_x += term * (y_part if corner % 2 else -y_part)[:, None]
            along_y += term * (x_part if corner // 2 else -x_part)[:, None]
    return tl.sum(product, axis=1), tl.sum(along_x, axis=1), tl.sum(along_y, axis=1)


@triton.jit
def backward_kernel(
    values_ptr: tl.tensor,
    predicted_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    grad_values_ptr: tl.tensor,
    grad_predicted_ptr: tl.tensor,
    group_stride: tl.tensor,
    cell_stride: tl.tensor,
    num_cells: tl.tensor,
    runs: tl.constexpr,
    num_maps: tl.constexpr,
    query_height: tl.constexpr,
    query_width: tl.constexpr,
    num_queries: tl.constexpr,
    num_heads: tl.constexpr,
    head_width: tl.constexpr,
    num_points: tl.constexpr,
    tile_places: tl.constexpr,
    tile_points: tl.constexpr,
    chunk: tl.constexpr,
    sum_type: tl.constexpr,
) -> None:
    """Turn the gradient at a tile of places into that of values, offsets and logits."""
    num_places: tl.constexpr = query_height * query_width
    width_of_all: tl.constexpr = num_heads * head_width
    stored: tl.constexpr = grad_predicted_ptr.dtype.element_ty
    group, query, head, places = _find_query(
        tl.program_id(0), num_queries, num_heads, num_places, tile_places
    )
    present = places < num_places
    frame = group * num_queries + query
    values_ptr += group * group_stride + head * head_width
    grad_values_ptr += group * (num_cells * width_of_all) + head * head_width
    grad_ptr += frame * (num_places * width_of_all) + head * head_width
    predicted_start = (frame * (num_maps * num_places * num_heads) + head) * (num_points * 3)
    predicted_ptr += predicted_start
    grad_predicted_ptr += predicted_start
    exponentials, peak, total, logit_indices, logits_present = _weigh(
        predicted_ptr, places, num_maps, num_places, num_heads, num_points, tile_points, sum_type
    )
    products = tl.zeros((tile_places, tile_points), sum_type)
    for run in tl.static_range(0, len(runs), 5):
        for step in range(runs[run + 4] * num_points):
            index, point = step // num_points, step % num_points
            first_cell = runs[run + 2] + index * runs[run] * runs[run + 1]
            row = (runs[run + 3] + index) * num_places + places
            offsets = (row * num_heads * num_points + point) * 3
            top, left, y_share, x_share, logit = _find_point(
                predicted_ptr + offsets, places, present,
                query_height, query_width, runs[run], runs[run + 1], sum_type,
            )  # fmt: skip
            weight = tl.exp(logit - peak) / total
            product, along_x, along_y = _backpropagate_sample(
                values_ptr + first_cell * cell_stride,
                grad_values_ptr + first_cell * width_of_all,
                grad_ptr + places * width_of_all,
                cell_stride, top, left, y_share, x_share, weight, present,
                runs[run], runs[run + 1], head_width, width_of_all,
                tile_places, chunk, sum_type,
            )  # fmt: skip
            written_ptr = grad_predicted_ptr + offsets
            tl.store(written_ptr, (weight * along_x).to(stored), mask=present)
            tl.store(written_ptr + 1, (weight * along_y).to(stored), mask=present)
            column = runs[run + 3] * num_points + step
            here = tl.arange(0, tile_points)[None, :] == column
            products = tl.where(here, product[:, None], products)
    # The gradient of a softmax: weight * (product - sum over points of weight * product).
    weights = exponentials / total[:, None]
    grad_logits = weights * (products - tl.sum(weights * products, axis=1)[:, None])
    tl.store(grad_predicted_ptr + logit_indices, grad_logits.to(stored), mask=logits_present)
