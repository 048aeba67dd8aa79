"""The SIFA operator pixel by pixel and tap by tap, as slow and as plain as it can be."""

import math

import torch


def attend_by_loops(query, keys, offsets, *, region, dilation, tap_weights):
    """Do as `attend_neighbours`; autograd makes the gradients. `tap_weights` is (P, K, C)."""
    batch, num_pairs, height, width, _ = query.shape
    margin = (dilation * (region - 1) + 1) // 2
    result = torch.zeros_like(query)
    for b, p, h, w in torch.cartesian_prod(
        *map(torch.arange, (batch, num_pairs, height, width))
    ).tolist():
        for tap in range(region**2):
            y = torch.tensor(h - margin + tap // region * dilation, dtype=query.dtype)
            x = torch.tensor(w - margin + tap % region * dilation, dtype=query.dtype)
            if offsets is not None:
                y, x = y + offsets[b, p, h, w, tap, 0], x + offsets[b, p, h, w, tap, 1]
            read = read_between(keys[b, p], y, x)
            product = (tap_weights[p, tap] * query[b, p, h, w] * read).sum()
            result = result.index_put(
                tuple(map(torch.tensor, (b, p, h, w))), product * read, accumulate=True
            )
    return result


def read_between(frame, y, x):
    """Read a place of a (H, W, C) frame: bilinear, zero outside, zero a pixel outside."""
    height, width, channels = frame.shape
    read = torch.zeros(channels, dtype=frame.dtype)
    if not (-1 < y < height and -1 < x < width):
        return read
    top, left = math.floor(y.item()), math.floor(x.item())
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                read = read + down * right * frame[row, column]
    return read


def draw_inputs(
    seed, *, channels, region, has_offsets, has_weights, height=4, width=5, dtype=torch.float64
):
    """Draw a clip of 3 frames, offsets, weights and a gradient, rounded to `dtype`.

    Values are float64 again. No tap lies on a pixel, where the derivative has two sides.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    frames = draw(1, 3, height, width, channels)
    offsets = 1.5 * draw(1, 2, height, width, region**2, 2)
    offsets = offsets.to(dtype).double()
    offsets = torch.where(offsets.frac().abs() < 1e-2, offsets + 0.25, offsets)
    weights = (draw(2, region**2, channels) + 1) / channels
    gradient = draw(1, 2, height, width, channels)
    return {
        "frames": frames.to(dtype).double(),
        "offsets": offsets.to(dtype).double() if has_offsets else None,
        "weights": weights.to(dtype).double() if has_weights else None,
        "gradient": gradient.to(dtype).double(),
    }


def run(attend, inputs, *, dtype=torch.float64):
    """Return the result, the gradient of the frames and, if there are any, of the offsets.

    `attend` takes query, keys, offsets and weights: frames 0 and 1 ask frames 1 and 2.
    """
    frames = inputs["frames"].to(dtype).clone().requires_grad_()
    wanted = [frames]
    offsets, weights = inputs["offsets"], inputs["weights"]
    if offsets is not None:
        offsets = offsets.to(dtype).clone().requires_grad_()
        wanted.append(offsets)
    if weights is not None:
        weights = weights.to(dtype)
    result = attend(frames[:, :-1], frames[:, 1:], offsets, weights)
    return [result.detach(), *torch.autograd.grad(result, wanted, inputs["gradient"].to(dtype))]


def run_loops(inputs, *, region, dilation):
    """Return what `run` returns, by the loops."""
    channels = inputs["frames"].shape[-1]
    even = torch.full((2, region**2, channels), 1 / channels, dtype=torch.float64)

    def attend(query, keys, offsets, weights):
        return attend_by_loops(
            query,
            keys,
            offsets,
            region=region,
            dilation=dilation,
            tap_weights=even if weights is None else weights,
        )

    return run(attend, inputs)
