"""Every kind of network of the catalogue is one graph: for torch.compile and for torch.export.

Names whose shrunk options make the same network (T and B of a family) are tried once.
"""

import pytest
import torch

from shrunk_models import kinds, make_inputs, make_shrunk


@pytest.fixture(autouse=True)
def forget_graphs():
    yield
    torch.compiler.reset()


def gradients_of(function, model, frames):
    model.zero_grad()
    torch.manual_seed(2)
    loss = function(frames).square().sum()
    loss.backward()
    return [loss.detach()] + [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", kinds())
def test_forward_and_backward_compile_as_one_graph(name):
    # Without random rows and dropout, which a compiled graph draws in another order.
    model = make_shrunk(name).eval()
    frames = make_inputs(name)["frames"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = gradients_of(model, model, frames)
    for got, wanted in zip(gradients_of(compiled, model, frames), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", kinds())
@torch.no_grad()
def test_export_gives_a_program_for_any_batch(name):
    model = make_shrunk(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model,
        (),
        {"frames": make_inputs(name)["frames"]},
        dynamic_shapes={"frames": {0: batch}},
    )
    frames = make_inputs(name, batch=3)["frames"]
    got = program.module()(frames=frames)
    torch.testing.assert_close(got, model(frames), rtol=1e-5, atol=1e-5)
