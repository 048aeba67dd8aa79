"""Check the fused kernels of DVT's operator, and measure them beside the portable form.

``python -m gopstream.jobs.bench.dvt_kernels --json FILE``; with ``--device cpu`` the kernels
are interpreted, which shows that they are right and nothing about their speed.
"""

import random
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
from gopstream.models.dvt.point_attention import Implementation, attend_points


class Shape(NamedTuple):
    """Of one call."""

    groups: int
    queries: int
    heads: int
    head_width: int
    points: int
    query_grid: tuple[int, int]
    grids: tuple[tuple[int, int], ...]


_NUM_RANDOM: Final = 24
_NUM_RANDOM_INTERPRETED: Final = 4
_HEAD_WIDTHS: Final = (1, 24, 32, 48, 64, 96, 200, 256)
_HEAD_WIDTHS_INTERPRETED: Final = (1, 16, 24)
_MARGIN: Final = 0.1
"""How far points stay from rows and columns of cells: there the derivative has two sides."""

MEASURED: Final = {
    "MViT-B block 0, space and time": Shape(8, 4, 1, 96, 8, (56, 56), ((56, 56),) * 4),
    "MViT-B block 1, space and time": Shape(8, 4, 2, 96, 8, (28, 28), ((56, 56),) * 4),
    "MViT-B block 4, space and time": Shape(8, 4, 4, 96, 8, (14, 14), ((14, 14),) * 4),
    "MViT-B block 15, space and time": Shape(8, 4, 8, 96, 8, (7, 7), ((7, 7),) * 4),
    "MViT-B block 0, two scales": Shape(32, 1, 1, 96, 8, (56, 56), ((56, 56), (7, 7))),
    "MViT-B block 4, two scales": Shape(32, 1, 4, 96, 8, (14, 14), ((14, 14), (7, 7))),
    "ViT-B at 224, space and time": Shape(8, 4, 12, 64, 8, (14, 14), ((14, 14),) * 4),
    "ViT-B at 448, space and time": Shape(8, 4, 12, 64, 8, (28, 28), ((28, 28),) * 4),
}
"""What the paper's networks call the operator with, for four clips of eight token frames."""


def draw_shapes(count: int, *, head_widths: Sequence[int], largest: int) -> list[Shape]:
    """Draw shapes, the same each time; in every second one all maps are equal."""
    choice = random.Random(0)

    def draw_grid() -> tuple[int, int]:
        return choice.randint(1, largest), choice.randint(1, largest)

    shapes = []
    for number in range(count):
        grids = tuple(draw_grid() for _ in range(choice.randint(1, 3)))
        shapes.append(
            Shape(
                groups=choice.randint(1, 3),
                queries=choice.randint(1, 2),
                heads=choice.randint(1, 3),
                head_width=choice.choice(head_widths),
                points=choice.randint(1, 3),
                query_grid=draw_grid(),
                grids=grids[:1] * len(grids) if number % 2 else grids,
            )
        )
    return shapes


def make_case(name: str, shape: Shape, *, seed: int) -> KernelCase:
    """Draw values, and predictions whose points lie up to three cells away."""
    generator = torch.Generator().manual_seed(seed)
    num_cells = sum(height * width for height, width in shape.grids)
    rows, columns = shape.query_grid
    values = torch.randn(
        (shape.groups, num_cells, shape.heads * shape.head_width),
        generator=generator,
        dtype=torch.float64,
    )
    predicted = torch.randn(
        (shape.groups, shape.queries, len(shape.grids), rows * columns)
        + (shape.heads, shape.points, 3),
        generator=generator,
        dtype=torch.float64,
    )
    for index, (height, width) in enumerate(shape.grids):
        x = ((torch.arange(columns) + 0.5) * width / columns - 0.5).repeat(rows)
        y = ((torch.arange(rows) + 0.5) * height / rows - 0.5).repeat_interleave(columns)
        starts = torch.stack([x, y], dim=-1)[:, None, None].double()
        places = starts + 2 * predicted[:, :, index, ..., :2].clamp(-1.5, 1.5)
        inner = places.floor() + _MARGIN + (1 - 2 * _MARGIN) * (places - places.floor())
        predicted[:, :, index, ..., :2] = inner - starts
    return KernelCase(
        name,
        shape._asdict(),
        (values, predicted),
        {
            "fused": partial(attend, shape=shape, implementation="triton"),
            "portable": partial(attend, shape=shape, implementation="portable"),
        },
        partial(attend, shape=shape, implementation="portable"),
    )


def attend(tensors: Sequence[Tensor], *, shape: Shape, implementation: Implementation) -> Tensor:
    """Call the operator with values and prediction."""
    values, predicted = tensors
    return attend_points(
        values,
        predicted,
        grids=shape.grids,
        query_grid=shape.query_grid,
        implementation=implementation,
    )


def main() -> int:
    """Check, measure, write; returns the exit status."""
    arguments = parse_arguments("dvt_kernels", "Check and measure the DVT operator's kernels.")
    is_gpu = arguments.device.type == "cuda"
    shapes = draw_shapes(
        _NUM_RANDOM if is_gpu else _NUM_RANDOM_INTERPRETED,
        head_widths=_HEAD_WIDTHS if is_gpu else _HEAD_WIDTHS_INTERPRETED,
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
        name="dvt_kernels",
        arguments=arguments,
        errors=errors,
        speed=speed,
        bandwidth=bandwidth,
    )


if __name__ == "__main__":
    sys.exit(main())
