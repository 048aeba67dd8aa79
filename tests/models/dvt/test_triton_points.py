"""The fused form: what its kernels compute, that they compile, that it is one operator.

No GPU is needed: the kernels run in Triton's interpreter, and are compiled for a device that is
not there. What only a GPU can tell is measured by ``jobs/bench/dvt_kernels.py``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gopstream.models.dvt import triton_points
from gopstream.models.dvt.point_attention import attend_points
from sampled_points import PointCase

triton = pytest.importorskip("triton")

SCALES = PointCase(
    groups=2, queries=1, heads=2, head_width=32, points=4, query_grid=(6, 8), grids=((6, 8), (3, 4))
)
SIZES = {"grids": SCALES.grids, "query_grid": SCALES.query_grid}
POINTER = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}


class LaunchRecorder:
    """Stands for a kernel where there is no device: keeps what it was to be launched with."""

    def __getitem__(self, programs):
        return self.keep

    def keep(self, *arguments, **options):
        self.arguments, self.options = arguments, options

    def compile(self, kernel, *, target):
        """Compile a kernel for what was kept."""
        names = kernel.arg_names
        constants = {name: value for name, value in self.options.items() if name in names}
        signature = {
            name: POINTER[argument.dtype] if isinstance(argument, torch.Tensor) else "i32"
            for name, argument in zip(names, self.arguments, strict=False)
        }
        assert [*signature, *constants] == names
        source = triton.compiler.ASTSource(
            kernel,
            signature=signature | dict.fromkeys(constants, "constexpr"),
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        options = {name: value for name, value in self.options.items() if name not in names}
        return triton.compile(source, target=target, options=options)


def test_kernels_equal_plain_loops_in_the_interpreter():
    file = Path(__file__).with_name("interpreted_points.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_kernels_compile_for_a_gpu_as_they_are_launched(tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget

    from gopstream.models.dvt import triton_point_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    values, predicted = (tensor.bfloat16().requires_grad_() for tensor in SCALES.draw(0))
    kernels = {
        name: getattr(triton_point_kernels, name) for name in ("forward_kernel", "backward_kernel")
    }
    launches = {name: LaunchRecorder() for name in kernels}
    for name, launch in launches.items():
        monkeypatch.setattr(triton_point_kernels, name, launch)
    attend_points(values, predicted, **SIZES, implementation="triton").sum().backward()
    for name, launch in launches.items():
        compiled = launch.compile(kernels[name], target=GPUTarget("cuda", 90, 32))
        assert len(compiled.asm["cubin"]) > 1000


class OperatorNames(TorchDispatchMode):
    """Notes which operators of ours are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "gopstream":
            self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def test_on_cuda_it_is_one_operator():
    with FakeTensorMode(), OperatorNames() as operators:
        values = torch.empty(2, 60, 64, device="cuda", dtype=torch.bfloat16)
        predicted = torch.empty(2, 1, 2, 48, 2, 4, 3, device="cuda")
        attended = attend_points(values, predicted, **SIZES)
    assert operators.seen == ["gopstream::attend_points"]
    assert (attended.shape, attended.dtype) == ((2, 1, 48, 64), torch.bfloat16)


def test_exports_as_one_operator():
    class Attention(torch.nn.Module):
        def forward(self, values, predicted):
            return attend_points(values, predicted, **SIZES, implementation="triton")

    inputs = tuple(tensor.float() for tensor in SCALES.draw(1))
    graph = torch.export.export(Attention(), inputs).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert called == ["gopstream.attend_points.default"]


def test_tensors_on_a_cpu_are_refused():
    values, predicted = SCALES.draw(2)
    with pytest.raises(ValueError, match=r"needs tensors on a CUDA device, got cpu; take \"auto\""):
        attend_points(values, predicted, **SIZES, implementation="triton")


def test_groups_that_32_bits_cannot_count_are_refused():
    with FakeTensorMode():
        side = 2**14
        values = torch.empty(1, side * side, 8, device="cuda")
        predicted = torch.empty(1, 1, 1, 1, 1, 1, 3, device="cuda")
        with pytest.raises(ValueError, match=r"less than 2\^31 elements of values in a group"):
            attend_points(values, predicted, grids=((side, side),), query_grid=(1, 1))


@pytest.mark.parametrize(
    ("head_width", "chunk"),
    [(96, 32), (64, 64), (24, 32), (5, 16), (80, 16), (200, 128), (256, 128), (1, 16)],
)
def test_channels_of_a_head_go_in_chunks_that_leave_few_threads_idle(head_width, chunk):
    assert triton_points._find_chunk(head_width) == chunk


def test_equal_maps_in_a_row_are_one_run():
    assert triton_points._find_runs([4, 6, 4, 6, 4, 6]) == (4, 6, 0, 0, 3)
    assert triton_points._find_runs([4, 6, 2, 3, 2, 3, 4, 6]) == (
        *(4, 6, 0, 0, 1),
        *(2, 3, 24, 1, 2),
        *(4, 6, 36, 3, 1),
    )
