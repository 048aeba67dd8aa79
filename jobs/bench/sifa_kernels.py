"""Check the fused kernels of the SIFA operator, and measure them beside the portable form.

``python -m gopstream.jobs.bench.sifa_kernels --json FILE``; with ``--device cpu`` the kernels
are interpreted, which shows that they are right and nothing about their speed.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from gopstream.jobs.bench.kernel_check import (
    KernelCase,
    check_case,
    copy_bandwidth,
    measure_case,
    parse_arguments,
    write_check,
)
from gopstream.models.sifa.aggregation import Implementation, attend_neighbours


class Shape(NamedTuple):
    """Of one call."""

    batch: int
    num_pairs: int
    height: int
    width: int
    channels: int
    region: int = 3
    dilation: int = 1
    has_offsets: bool = True


_NUM_RANDOM: Final = 24
_NUM_RANDOM_INTERPRETED: Final = 4
_CHANNELS: Final = (1, 3, 32, 96, 100, 256, 512, 1024)
_CHANNELS_INTERPRETED: Final = (1, 3, 20)

MEASURED: Final = {
    "SIFA-Net res3, 16 frames": Shape(8, 3, 28, 28, 128),
    "SIFA-Net res4, 16 frames": Shape(8, 3, 14, 14, 256),
    "SIFA-Net res5, 16 frames": Shape(8, 3, 7, 7, 512),
    "SIFA-Net res4, 64 frames": Shape(8, 15, 14, 14, 256),
    "SIFA-Net res4, 64 frames, region 9": Shape(8, 15, 14, 14, 256, region=9),
    "SIFA-Net res4, 64 frames, no offsets": Shape(8, 15, 14, 14, 256, has_offsets=False),
    "Swin-B stage 1, 64 frames": Shape(4, 15, 56, 56, 128),
    "Swin-B stage 1, 64 frames, no offsets": Shape(4, 15, 56, 56, 128, has_offsets=False),
    "Swin-B stage 4, 64 frames, no offsets": Shape(4, 15, 7, 7, 1024, has_offsets=False),
}
"""What the networks of the paper call the operator with."""


def draw_shapes(count: int, *, channels: Sequence[int], largest: int) -> list[Shape]:
    """Draw shapes, the same each time; the first half has offsets."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    return [
        Shape(
            batch=draw(1, 2),
            num_pairs=draw(1, 3),
            height=draw(2, largest),
            width=draw(2, largest),
            channels=channels[draw(0, len(channels) - 1)],
            region=2 * draw(0, 2) + 1,
            dilation=draw(1, 2),
            has_offsets=2 * number < count,
        )
        for number in range(count)
    ]


def make_case(name: str, shape: Shape, *, seed: int) -> KernelCase:
    """Draw frames, which give both query and keys, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(
        (shape.batch, shape.num_pairs + 1, *shape[2:5]), generator=generator, dtype=torch.float64
    )
    tensors = [frames]
    if shape.has_offsets:
        places = (shape.batch, *shape[1:4], shape.region**2, 2)
        offsets = 2 * torch.randn(places, generator=generator, dtype=torch.float64)
        # On a pixel the derivative has two sides, and rounding decides which.
        tensors.append(torch.where(offsets.frac().abs() < 0.1, offsets.trunc() + 0.25, offsets))
    return KernelCase(
        name,
        shape._asdict(),
        tuple(tensors),
        {
            "fused": partial(attend, shape=shape, implementation="triton"),
            "portable": partial(attend, shape=shape, implementation="portable"),
        },
        partial(attend, shape=shape, implementation="portable"),
    )


def attend(tensors: Sequence[Tensor], *, shape: Shape, implementation: Implementation) -> Tensor:
    """Let each frame but the last attend the next one."""
    frames = tensors[0]
    return attend_neighbours(
        frames[:, :-1],
        frames[:, 1:],
        offsets_BPHWK2=tensors[1] if shape.has_offsets else None,
        region=shape.region,
        dilation=shape.dilation,
        implementation=implementation,
    )


def main() -> int:
    """Check, measure, write; returns the exit status."""
    arguments = parse_arguments("sifa_kernels", "Check and measure the SIFA operator's kernels.")
    is_gpu = arguments.device.type == "cuda"
    shapes = draw_shapes(
        _NUM_RANDOM if is_gpu else _NUM_RANDOM_INTERPRETED,
        channels=_CHANNELS if is_gpu else _CHANNELS_INTERPRETED,
        largest=30 if is_gpu else 4,
    )
    errors: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes):
        case = make_case(f"random {number}", shape, seed=number)
        errors += check_case(case, device=arguments.device)
    speed: list[dict[str, Any]] = []
    bandwidth = None
    if is_gpu:
        bandwidth = copy_bandwidth(arguments.device, rounds=arguments.rounds)
        for name, shape in MEASURED.items():
            case = make_case(name, shape, seed=0)
            errors += check_case(case, device=arguments.device)
            speed += [
                measure_case(
                    case,
                    dtype=dtype,
                    device=arguments.device,
                    rounds=arguments.rounds,
                    bandwidth=bandwidth,
                )
                for dtype in ("float32", "bfloat16")
            ]
    return write_check(
        arguments.json_file,
        name="sifa_kernels",
        arguments=arguments,
        errors=errors,
        speed=speed,
        bandwidth=bandwidth,
    )


if __name__ == "__main__":
    sys.exit(main())
