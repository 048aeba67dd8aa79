"""The checks of fused kernels find what is wrong, and run where there is no GPU."""

import json
import subprocess
import sys

import pytest
import torch

from gopstream.jobs.bench.kernel_check import KernelCase, check_case, measure_case
from gopstream.jobs.bench.sifa_kernels import MEASURED, draw_shapes, make_case

CPU = torch.device("cpu")


def square_case(fused):
    numbers = torch.linspace(-2, 2, 30, dtype=torch.float64)
    return KernelCase("square", {}, (numbers,), {"fused": fused}, lambda given: given[0].square())


class WrongWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, given):
        ctx.save_for_backward(given)
        return given.square()

    @staticmethod
    def backward(ctx, above):
        return 2.05 * ctx.saved_tensors[0] * above


@pytest.mark.parametrize(
    ("fused", "holds"),
    [
        (lambda given: given[0] * given[0], True),
        (lambda given: given[0] * given[0] * 1.02, False),
        (lambda given: WrongWayBack.apply(given[0]), False),
        (lambda given: given[0] * given[0] * float("nan"), False),
    ],
)
def test_form_holds_if_it_is_right_both_ways(fused, holds):
    rows = check_case(square_case(fused), device=CPU)
    assert [(row["dtype"], row["holds"]) for row in rows] == [
        ("float32", holds),
        ("bfloat16", holds),
    ]


def test_nothing_but_zeros_is_right_if_it_is_exact():
    numbers = torch.ones(4, dtype=torch.float64)
    for fused, holds in ((lambda given: 0 * given[0], True), (lambda given: given[0], False)):
        case = KernelCase("zeros", {}, (numbers,), {"fused": fused}, lambda given: 0 * given[0])
        assert {row["holds"] for row in check_case(case, device=CPU)} == {holds}


def test_shapes_are_drawn_with_offsets_and_without():
    shapes = draw_shapes(8, channels=(1, 3), largest=5)
    assert shapes == draw_shapes(8, channels=(1, 3), largest=5)
    assert [shape.has_offsets for shape in shapes] == [True] * 4 + [False] * 4
    assert {shape.channels for shape in shapes} == {1, 3}
    assert len({shape.region for shape in shapes}) > 1


def test_portable_form_is_within_tolerance_of_itself_in_float64():
    shape = MEASURED["SIFA-Net res5, 16 frames"]._replace(batch=1, num_pairs=1)
    case = make_case("small", shape, seed=1)
    case = case._replace(forms={"fused": case.forms["portable"]})
    rows = check_case(case, device=CPU)
    assert all(row["holds"] for row in rows)
    assert 0 < rows[0]["forward_error"]["fused"] < 1e-5 < rows[1]["forward_error"]["fused"]


def test_floor_is_every_byte_once():
    """30 numbers in, 30 out; back: both read again, as many gradients written."""
    case = square_case(lambda given: given[0].square())
    row = measure_case(case, dtype="bfloat16", device=CPU, rounds=1, bandwidth=6000.0)
    assert row["forward"]["floor_ms"] == pytest.approx(1e3 * 2 * 60 / 6000)
    assert row["both_ways"]["floor_ms"] == pytest.approx(1e3 * 5 * 60 / 6000)
    taken = row["forward"]["ms"]["fused"]
    assert row["forward"]["over_floor"]["fused"] == pytest.approx(taken / 20)


def test_command_checks_the_kernels_without_a_gpu(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "gopstream.jobs.bench.sifa_kernels", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["kernels"] == "interpreted on the CPU"
    assert content["speed"] == []
    assert {row["has_offsets"] for row in content["errors"]} == {False, True}
    assert all(row["holds"] for row in content["errors"])
