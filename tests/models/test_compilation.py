"""Every kind of network of the catalogue is one graph: for torch.compile and for torch.export.

Names whose shrunk options make the same network (T and B of a family) are tried once.
`make prove-models` compiles with Inductor, also for a second size of every family.
"""

import pytest
import torch

from shrunk_models import kinds, make_inputs, make_shrunk

# A block takes seconds. One network of PST has two stages, the others have both kinds of blocks.
FEWER_BLOCKS = {
    "swin2d_b": {"depths": (1, 1)},
    **dict.fromkeys(("pst_b", "pst_b_dagger", "video_swin_b"), {"depths": (2,), "num_heads": (2,)}),
    "dvt_mvit_b": {"depth": 2},
    "dvt_vit_b": {"depth": 1},
}
# One of each family: the backward pass is traced as well, which takes as long again.
WITH_BACKWARD_GRAPHS = (
    "deit_s_tps",
    "dvt_tiny",
    "mvit_b",
    "pst_b",
    "sifa_net_r101",
    "sifa_swin_b",
    "video_focalnet_b",
)
# The tiny SIFA-Transformer has the blocks of the shrunk large one, and takes half a minute.
NAMES = [name for name in kinds() if name != "sifa_swin_tiny"]


@pytest.fixture(autouse=True)
def forget_graphs():
    yield
    torch.compiler.reset()


def gradients_of(function, model, frames):
    model.zero_grad()
    loss = function(frames).square().sum()
    loss.backward()
    return [loss.detach()] + [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_compile_as_one_graph(name):
    # Without random rows and dropout, which a compiled graph draws in another order.
    model = make_shrunk(name, **FEWER_BLOCKS.get(name, {})).eval()
    frames = make_inputs(name)["frames"]
    backend = "aot_eager" if name in WITH_BACKWARD_GRAPHS else "eager"
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    # Compiled first: tables that are kept by size must not be there before.
    found = gradients_of(compiled, model, frames)
    for got, wanted in zip(found, gradients_of(model, model, frames), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_compiled_pst_takes_clips_of_a_size_that_it_has_not_seen():
    """Tables are kept by size, and the second graph is traced with sizes left open."""
    one_block = {"depths": (1,), "num_heads": (2,), "block_kinds": ("tps", "plain")}
    model = make_shrunk("pst_b", **one_block).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(2)
    for shape in ((2, 3, 6, 32, 32), (2, 3, 6, 44, 36)):
        frames = torch.randn(shape, generator=generator)
        got = compiled(frames)
        torch.testing.assert_close(got, model(frames), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_export_gives_a_program_for_any_batch(name):
    model = make_shrunk(name, **FEWER_BLOCKS.get(name, {})).eval()
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
