"""The whole Video-FocalNet: how clips, frames and places may change what it says."""

import pytest
import torch

from gopstream.models.layers.time_convolution import TimeConvolution
from gopstream.models.video_focalnet.focal_modulation import (
    FocalModulation,
    SpatialConvolution,
)
from gopstream.models.video_focalnet.model import VideoFocalNet

DESIGNS = ["spatial", "factorized_convolution", "factorized_encoder", "divided", "parallel"]
OPTIONS = [
    *({"design": design} for design in DESIGNS),
    {"fusion": "average"},
    {"fusion": "projection"},
    {"temporal_convolution": "pointwise"},
    {"temporal_convolution": "depthwise"},
    {"tubelet_size": 2},
    {"patches": "overlapping"},
    {"patch_norm": False, "norm_position": "after", "layer_scale": 0.5},
    {"normalize_modulator": True, "modulated_norm": True, "mlp_ratio": 2.0},
    {"focal_levels": (1, 3), "focal_windows": (5, 3)},
]


def make_model(seed=0, **options):
    """Make a small model in float64 of which every weight matters."""
    shape = {"embed_dim": 6, "depths": (1, 2), "focal_levels": (2, 2), "focal_windows": (3, 3)}
    quiet = {"num_frames": 4, "drop_path_rate": 0.0}
    if options.get("design") == "factorized_encoder":
        quiet["temporal_depth"] = 1
    model = VideoFocalNet(3, **(shape | quiet | options)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = max(parameter.shape[1:].numel(), 1) ** -0.5
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + noise * scale)
    return model


def make_frames(batch=2, *, num_frames=4, height=16, width=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, num_frames, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, tolerance=1e-11):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def differs(actual, expected):
    return (actual - expected).abs().max().item() > 1e-4


def mean_of_single_frames(model, frames):
    return torch.stack([model(frames[:, :, [t]]) for t in range(frames.shape[2])]).mean(0)


def time_convolutions(model):
    return [module for module in model.modules() if isinstance(module, TimeConvolution)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_classifies_and_reaches_every_weight(options):
    model = make_model(**options)
    frames = make_frames()
    logits = model(frames)
    logits.square().sum().backward()
    assert logits.shape == (2, 3)
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    # Property 11: a clip does not see the others of its batch.
    close(model(frames[:1]), logits[:1])
    close(model(frames.flip(0)), logits.flip(0))
    # Property 11: without drop path and dropout, training and evaluation are the same.
    close(model.eval()(frames), logits)


@torch.no_grad()
@pytest.mark.parametrize("design", DESIGNS)
def test_forward_is_classify_of_channels_first_features(design):
    model = make_model(design=design)
    frames = make_frames()
    features = model.forward_features(frames)
    assert features.shape == (2, 12, 4, 2, 3)
    close(model.classify(features), model(frames))
    if design != "factorized_encoder":
        close(model(frames), features.mean((2, 3, 4)) @ model.head.weight.T + model.head.bias)


# Property 1.
@torch.no_grad()
@pytest.mark.parametrize("design", DESIGNS)
def test_reversed_time_with_reversed_kernels_gives_the_same_logits(design):
    model = make_model(design=design)
    frames = make_frames()
    before = model(frames)
    assert differs(model(frames.flip(2)), before) == (design != "spatial")
    for convolution in time_convolutions(model):
        convolution.weight.copy_(convolution.weight.flip(-1))
    close(model(frames.flip(2)), before)


# Property 2.
@torch.no_grad()
def test_temporal_modulator_of_one_averages_the_frames():
    model = make_model()
    for module in model.modules():
        if isinstance(module, FocalModulation):
            module.time.mixing.weight.zero_()
            module.time.mixing.bias.fill_(1)
    frames = make_frames(num_frames=5)
    logits = model(frames)
    close(logits, mean_of_single_frames(model, frames))
    close(model(frames[:, :, [3, 0, 4, 1, 2]]), logits)


@torch.no_grad()
def test_identity_start_makes_fresh_temporal_modulators_one():
    torch.manual_seed(0)
    shape = {"embed_dim": 8, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}
    model = VideoFocalNet(3, temporal_start="identity", **shape)
    frames = make_frames(num_frames=3, height=32, width=32).float()
    close(model(frames), mean_of_single_frames(model, frames), tolerance=1e-6)
    image_model = VideoFocalNet(3, design="spatial", **shape)
    image_model.load_state_dict({key: model.state_dict()[key] for key in image_model.state_dict()})
    close(model(frames), image_model(frames), tolerance=1e-6)


# Property 3.
@torch.no_grad()
@pytest.mark.parametrize("design", ["factorized_convolution", "divided", "parallel"])
def test_centre_taps_alone_know_no_order_and_a_still_clip_is_one_frame(design):
    model = make_model(design=design)
    frames = make_frames(num_frames=5)
    still = frames[:, :, :1].expand(-1, -1, 7, -1, -1)
    order = [3, 0, 4, 1, 2]
    assert differs(model(frames[:, :, order]), model(frames))
    assert differs(model(still), model(still[:, :, :1]))
    for convolution in time_convolutions(model):
        middle = convolution.weight.shape[-1] // 2
        kept = convolution.weight[..., middle].clone()
        convolution.weight.zero_()
        convolution.weight[..., middle] = kept
    close(model(frames[:, :, order]), model(frames))
    close(model(still), model(still[:, :, :1]))


# Property 4.
@torch.no_grad()
def test_mirrored_frames_with_mirrored_kernels_give_the_same_logits():
    model = make_model()
    frames = make_frames()
    before = model(frames)
    mirrored = [m for m in model.modules() if isinstance(m, SpatialConvolution)]
    mirrored += [model.patch_embedding.projection, model.stages[0].downsampling.projection]
    assert differs(model(frames.flip(-1)), before)
    for convolution in mirrored:
        convolution.weight.copy_(convolution.weight.flip(-1))
    close(model(frames.flip(-1)), before)


# Property 6.
@torch.no_grad()
def test_layer_scales_of_zero_leave_no_trace_of_the_blocks():
    model = make_model(layer_scale=1e-4)
    for name, parameter in model.named_parameters():
        if name.endswith(".scale"):
            parameter.zero_()
    frames = make_frames()
    before = model(frames)
    close(before, mean_of_single_frames(model, frames))
    for name, parameter in model.named_parameters():
        if "branch" in name:
            parameter.add_(1)
    close(model(frames), before)


# Property 7.
@torch.no_grad()
def test_normalized_modulators_are_mixings_divided_by_the_number_of_gates():
    normalised, plain = make_model(normalize_modulator=True), make_model()
    frames = make_frames()
    assert differs(normalised(frames), plain(frames))
    for module in plain.modules():
        if isinstance(module, FocalModulation):
            module.space.mixing.weight.div_(3)
            module.time.mixing.weight.div_(3)
    close(normalised(frames), plain(frames))


# Property 8.
@torch.no_grad()
@pytest.mark.parametrize("size", [2, 3])
def test_tubelets_of_repeated_frames_are_the_frames(size):
    single, tubelets = make_model(), make_model(tubelet_size=size, num_frames=4 * size)
    state = single.state_dict()
    key = "patch_embedding.projection.weight"
    state[key] = torch.stack([state[key] / size] * size, dim=2)
    tubelets.load_state_dict(state)
    frames = make_frames()
    close(tubelets(frames.repeat_interleave(size, dim=2)), single(frames))


@torch.no_grad()
def test_tubelets_are_a_convolution_in_three_dimensions():
    embedding = make_model(tubelet_size=2).patch_embedding
    frames = make_frames(num_frames=6, height=18, width=21)
    projection = embedding.projection
    expected = torch.nn.functional.conv3d(
        frames, projection.weight, projection.bias, stride=(2, 4, 4)
    )
    close(embedding(frames), embedding.norm(expected.permute(0, 2, 3, 4, 1)))


@torch.no_grad()
@pytest.mark.parametrize("patches", ["separate", "overlapping"])
def test_any_length_and_size_is_taken(patches):
    model = make_model(patches=patches)
    sizes = {"separate": (2, 3), "overlapping": (3, 4)}
    for num_frames, height, width in [(1, 16, 24), (7, 22, 31), (2, 8, 8)]:
        frames = make_frames(1, num_frames=num_frames, height=height, width=width)
        assert model(frames).shape == (1, 3)
    features = model.forward_features(make_frames(height=22, width=31))
    assert tuple(features.shape[-2:]) == sizes[patches]


@torch.no_grad()
def test_overlapping_patches_are_padded_as_in_the_authors_code():
    model = make_model(patches="overlapping")
    frames = make_frames(num_frames=1)
    projection = model.patch_embedding.projection
    expected = torch.nn.functional.conv2d(
        frames[:, :, 0], projection.weight, projection.bias, stride=4, padding=2
    )
    close(model.patch_embedding(frames)[:, 0], model.patch_embedding.norm(expected.movedim(1, -1)))


def test_each_stage_has_its_own_levels_and_window():
    model = make_model(focal_levels=(1, 3), focal_windows=(5, 3))
    sizes = [
        [level.kernel_size[0] for level in stage.blocks[0].modulation.branch.space.levels]
        for stage in model.stages
    ]
    assert sizes == [[5], [3, 5, 7]]


def test_dropout_is_after_embedding_and_modulations_and_in_mlps():
    model = make_model(dropout=0.5).train()
    frames = make_frames()
    assert (model._embed(frames) == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    block = model.stages[0].blocks[0]
    rates = [m.p for m in block.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.5, 0.5, 0.5]
    modulated = block.modulation.branch(torch.randn(2, 4, 8, 8, 6, dtype=torch.float64))
    assert (modulated == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)


@torch.no_grad()
def test_norm_after_a_branch_is_on_what_is_added():
    block = make_model(norm_position="after").stages[0].blocks[0]
    tokens = torch.randn(1, 3, 4, 4, 6, dtype=torch.float64)
    modulation, mlp = block.modulation, block.mlp
    middle = tokens + modulation.norm(modulation.branch(tokens))
    close(block(tokens), middle + mlp.norm(mlp.branch(middle)))


@torch.no_grad()
def test_divided_block_modulates_time_then_space_then_mixes():
    block = make_model(design="divided").stages[0].blocks[0]
    tokens = torch.randn(1, 3, 4, 4, 6, dtype=torch.float64)
    assert block.time_modulation.branch.space is None
    assert block.modulation.branch.time is None
    expected = tokens
    for part in (block.time_modulation, block.modulation, block.mlp):
        expected = expected + part.branch(part.norm(expected))
    close(block(tokens), expected)


@torch.no_grad()
def test_factorized_encoder_mixes_frames_after_their_places_are_averaged():
    model = make_model(design="factorized_encoder", temporal_depth=2)
    frames = make_frames()
    features = model.forward_features(frames)
    changed = frames.clone()
    changed[:, :, 2] += 1
    same = model.forward_features(changed)
    close(same[:, :, [0, 1, 3]], features[:, :, [0, 1, 3]])
    assert len(model.temporal_encoder.blocks) == 2
    moved = features.roll(1, dims=-1)
    close(model.classify(moved), model.classify(features))
    assert differs(model.classify(features.roll(1, dims=2)), model.classify(features))


@pytest.mark.parametrize(("rows", "alike"), [("frame", False), ("clip", True)])
def test_stochastic_depth_drops_single_frames_or_whole_clips(rows, alike):
    block = make_model(drop_path_rate=0.5, drop_path_rows=rows).train().stages[1].blocks[-1]
    part = block.modulation
    tokens = torch.zeros(40, 6, 1, 1, 12, dtype=torch.float64)
    torch.manual_seed(0)
    kept = part.add(tokens, branch_output=torch.ones_like(tokens))[..., 0, 0, 0] > 0
    assert 0.3 < kept.double().mean() < 0.7
    assert (kept == kept[:, :1]).all().item() is alike


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = VideoFocalNet(2, embed_dim=8, depths=(2, 1, 1, 1), drop_path_rate=0.4)
    rates = [block.mlp.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("design", ["parallel", "factorized_encoder"])
def test_checkpointing_changes_neither_logits_nor_gradients(design):
    frames = make_frames()
    gradients = []
    for checkpointing in (False, True):
        options = {"drop_path_rate": 0.5, "checkpointing": checkpointing, "dropout": 0.1}
        model = make_model(design=design, **options)
        torch.manual_seed(0)
        logits = model(frames)
        logits.square().sum().backward()
        gradients.append([logits.detach(), *(p.grad for p in model.parameters())])
    for without, with_checkpoints in zip(*gradients, strict=True):
        close(with_checkpoints, without)


def test_checkpointing_keeps_fewer_activations():
    sizes = {}
    for checkpointing in (False, True):
        model = make_model(checkpointing=checkpointing)
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(make_frames())
        sizes[checkpointing] = sum(kept)
    assert sizes[True] < 0.3 * sizes[False]


@torch.no_grad()
@pytest.mark.parametrize("design", DESIGNS)
def test_modulators_are_returned_on_request(design):
    model = make_model(design=design)
    frames = make_frames()
    maps = model.forward_with_modulators(frames)
    assert torch.equal(maps.logits, model(frames))
    assert len(maps.blocks) == 3
    shapes = [(2, 4, 4, 6, 6), (2, 4, 2, 3, 12), (2, 4, 2, 3, 12)]
    has_time = design in ("divided", "parallel")
    for block, shape in zip(maps.blocks, shapes, strict=True):
        assert block.space.shape == shape
        assert block.space_gates.shape == (*shape[:-1], 3)
        assert (block.time is not None) is (block.time_gates is not None) is has_time
        if has_time:
            assert block.time.shape == shape
            assert block.time_gates.shape == (*shape[:-1], 3)


@torch.no_grad()
def test_modulators_are_those_of_the_block_they_stand_for():
    model = make_model()
    frames = make_frames()
    maps = model.forward_with_modulators(frames)
    stage = model.stages[1]
    tokens = stage.blocks[0](model.stages[0](model.patch_embedding(frames)))
    modulation = stage.blocks[1].modulation
    parts = modulation.branch.modulate(modulation.norm(tokens))
    close(maps.blocks[2].space, parts.space.modulator)
    close(maps.blocks[2].time, parts.time.modulator)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 4, 3, 16, 16), r"\(B, 3, F, Y, X\), got \(1, 4, 3, 16, 16\)"),
        (torch.zeros(1, 3, 4, 16), r"\(B, 3, F, Y, X\)"),
        (torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), "floating point, got torch.uint8"),
        (torch.zeros(1, 3, 3, 16, 16), "multiple of tubelet_size 2, got 3"),
        (torch.zeros(1, 3, 4, 7, 16), "at least 8 pixels high and wide, got 7 x 16"),
    ],
)
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        make_model(tubelet_size=2)(frames)
