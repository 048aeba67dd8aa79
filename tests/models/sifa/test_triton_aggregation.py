"""The fused kernels give what loops give: in Triton's interpreter, which needs no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gopstream.models.sifa.aggregation import attend_neighbours

triton = pytest.importorskip("triton")

PROGRAM = Path(__file__).with_name("interpreted_aggregation.py")
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2}


def case(dtype, *, channels=5, region=3, dilation=1, offsets=True, weights=False):
    return {
        "dtype": dtype,
        "channels": channels,
        "region": region,
        "dilation": dilation,
        "offsets": offsets,
        "weights": weights,
    }


CASES = {
    "deformable": case("float32"),
    "deformable in bfloat16": case("bfloat16"),
    "deformable in float64, dilated, weighted": case("float64", dilation=2, weights=True),
    "deformable, several programs for a frame": case("float32", channels=130, region=1),
    "regular": case("float32", offsets=False),
    "regular in bfloat16, weighted": case("bfloat16", offsets=False, weights=True),
    "regular in float64, dilated": case("float64", dilation=2, offsets=False),
    "regular of 5, weighted": case("float32", channels=3, region=5, offsets=False, weights=True),
}


@pytest.fixture(scope="module")
def interpreted():
    command = [sys.executable, str(PROGRAM), json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_kernels_give_what_loops_give_forwards_and_backwards(interpreted, name):
    distances = interpreted[name]
    assert len(distances) == 2 + CASES[name]["offsets"]
    assert max(distances) < TOLERANCES[CASES[name]["dtype"]], distances


def test_taps_far_outside_or_nowhere_read_nothing(interpreted):
    assert interpreted["far"] == 0


def test_torch_finds_the_operation_as_it_is_declared(interpreted):
    assert interpreted["operation"] == "ok"


@pytest.mark.parametrize("has_offsets", [False, True])
def test_graph_has_the_fused_form_as_one_operation(has_offsets):
    class Attention(torch.nn.Module):
        def forward(self, frames, offsets):
            return attend_neighbours(
                frames[:, :-1],
                frames[:, 1:],
                offsets_BPHWK2=offsets if has_offsets else None,
                region=1,
                implementation="triton",
            )

    given = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 2, 4, 5, 1, 2)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Attention(), given, dynamic_shapes=({0: batch}, {0: batch}), strict=False
    )
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names.count("gopstream.attend_neighbours.default") == 1
    assert {name.split(".")[1] for name in names} == {"slice", "attend_neighbours"}


def test_fused_form_is_refused_where_it_cannot_run():
    frames = torch.randn(1, 2, 3, 3, 4)
    with pytest.raises(ValueError, match='needs tensors on a CUDA device, got them on cpu; use "p'):
        attend_neighbours(frames, frames, offsets_BPHWK2=None, region=1, implementation="triton")


def test_fused_form_is_chosen_on_a_gpu_and_nowhere_else():
    for device, is_fused in (("cuda", True), ("cpu", False)):
        called = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None, called=called):
                called.append(str(function))
                return function(*args, **(kwargs or {}))

        with torch._subclasses.FakeTensorMode():
            frames = torch.empty(1, 2, 3, 3, 4, device=device)
            with Watch():
                attend_neighbours(frames, frames, offsets_BPHWK2=None, region=1)
        assert ("gopstream.attend_neighbours.default" in called) == is_fused


@pytest.mark.parametrize(
    ("module", "kernel", "options"),
    [
        ("forward_kernels", "attend_kernel", {"HAS_OFFSETS": True, "WEIGHS_SUM": False}),
        ("forward_kernels", "attend_kernel", {"HAS_OFFSETS": False, "WEIGHS_SUM": True}),
        ("backward_kernels", "keys_gradient_kernel", {}),
        ("backward_kernels", "deformable_gradient_kernel", {}),
    ],
)
def test_kernels_compile_for_cuda(monkeypatch, tmp_path, module, kernel, options):
    """The interpreter takes Python that the compiler does not; no GPU is needed to compile."""
    from importlib import import_module

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(import_module(f"gopstream.models.sifa.{module}"), kernel)
    constants = {
        "SCALE": 0.05, "SIDE": 3, "DILATION": 1, "MARGIN": 1, "WIDTH": 20, "BLOCK_P": 8,
        "BLOCK_C": 32, "HAS_WEIGHTS": True, "ACC": triton.language.float32, **options,
    }  # fmt: skip
    kinds = {
        name: "constexpr" if name in constants else "*bf16" if name.endswith("_ptr") else "i32"
        for name in function.arg_names
    }
    if "keys_gradient_ptr" in kinds:
        kinds["keys_gradient_ptr"] = "*fp32"
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(
        ASTSource(function, kinds, places),
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": True},
    )
    assert ".entry " + kernel in compiled.asm["ptx"]
