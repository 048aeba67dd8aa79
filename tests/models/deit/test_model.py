"""DeiT on frames: against a reference in plain loops, and what the shifts let a frame see."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from gopstream.models.deit import deit_s_2d, deit_s_tps, deit_s_tsm, deit_tiny_tps
from gopstream.models.layers.patterns import TILES

SMALL = {"size": 12, "patch_size": 4, "embed_dim": 16, "num_heads": 2}
FOLDS = 4
VARIANTS = {"2d": deit_s_2d, "tsm": deit_s_tsm, "tps": deit_s_tps}


def make_model(variant, *, num_frames=5, depth=2, seed=0, **options):
    """Random everywhere, so that positions differ from frame to frame and no bias is 0."""
    folds = {"channel_folds": FOLDS} if variant == "tsm" else {}
    options = SMALL | folds | options
    model = VARIANTS[variant](3, num_frames=num_frames, depth=depth, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 + ("norm.weight" in key))
    return model.eval().double()


def make_frames(num_frames=5, *, size=12, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, num_frames, size, size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def reference_channels(values, boundary):
    """Shift (T, N, C) of one head as the definition says, channel by channel."""
    moved, fold = values.clone(), values.shape[-1] // FOLDS
    last = len(values) - 1
    for frame in range(len(values)):
        for channel in range(2 * fold):
            source = frame - 1 if channel < fold else frame + 1
            if 0 <= source <= last:
                moved[frame, :, channel] = values[source, :, channel]
            elif boundary == "zero":
                moved[frame, :, channel] = 0
            elif boundary == "cyclic":
                moved[frame, :, channel] = values[source % len(values), :, channel]
    return moved


def reference_patches(values, *, side, direction):
    """Shift (T, N, D) by pattern C, one patch after the other."""
    moved, tile = values.clone(), TILES["C"]
    for frame in range(len(values)):
        for row in range(side):
            for column in range(side):
                source = (frame - direction * tile[row % 3][column % 3]) % len(values)
                patch = 1 + row * side + column
                moved[frame, patch] = values[source, patch]
    return moved


def reference_attention(state, tokens, *, variant, boundary, side, shifts):
    """Attention of one clip, (T, N, D), as the appendix has it: shifts after the projection."""
    width, heads = tokens.shape[-1], SMALL["num_heads"]
    qkv = tokens @ state["qkv.weight"].T + state["qkv.bias"]
    mixed = []
    for head in range(heads):
        columns = [slice(part * width + head * width // heads, None) for part in range(3)]
        query, key, value = (qkv[..., each][..., : width // heads] for each in columns)
        if shifts and variant == "tsm":
            query, key, value = (reference_channels(x, boundary) for x in (query, key, value))
        if shifts and variant == "tps":
            query, key, value = (
                reference_patches(x, side=side, direction=1) for x in (query, key, value)
            )
        weights = (query @ key.transpose(1, 2) / math.sqrt(width // heads)).softmax(-1)
        attended = weights @ value
        if shifts and variant == "tps":
            attended = reference_patches(attended, side=side, direction=-1)
        mixed.append(attended)
    return torch.cat(mixed, -1) @ state["projection.weight"].T + state["projection.bias"]


def reference_logits(model, clip, *, variant, boundary="keep"):
    """Logits of one clip (3, T, S, S) in loops over frames and patches."""
    state = {key: value.detach() for key, value in model.state_dict().items()}
    width, patch = SMALL["embed_dim"], SMALL["patch_size"]
    side = clip.shape[-1] // patch
    kernel = state["patch_embedding.weight"].flatten(1)
    tokens = torch.zeros(clip.shape[1], 1 + side * side, width, dtype=torch.float64)
    tokens[:, 0] = state["class_token"][0, 0]
    for frame in range(clip.shape[1]):
        for row in range(side):
            for column in range(side):
                rows = slice(row * patch, (row + 1) * patch)
                columns = slice(column * patch, (column + 1) * patch)
                pixels = clip[:, frame, rows, columns].flatten()
                place = 1 + row * side + column
                tokens[frame, place] = kernel @ pixels + state["patch_embedding.bias"]
    tokens = tokens + state["positions"]
    for index in range(len(model.blocks)):
        prefix = f"blocks.{index}."
        block = {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
        attention = {key[10:]: block[key] for key in block if key.startswith("attention.")}
        norm = block["attention_norm.weight"], block["attention_norm.bias"]
        tokens = tokens + reference_attention(
            attention,
            layer_norm(tokens, (width,), *norm, eps=1e-6),
            variant=variant,
            boundary=boundary,
            side=side,
            shifts=index % 2 == 1,
        )
        norm = block["mlp_norm.weight"], block["mlp_norm.bias"]
        hidden = layer_norm(tokens, (width,), *norm, eps=1e-6) @ block["mlp.0.weight"].T
        hidden = gelu(hidden + block["mlp.0.bias"])
        tokens = tokens + hidden @ block["mlp.2.weight"].T + block["mlp.2.bias"]
    classes = layer_norm(tokens[:, 0], (width,), state["norm.weight"], state["norm.bias"], eps=1e-6)
    return classes.mean(0) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize(
    ("variant", "boundary"),
    [("2d", "keep"), ("tsm", "keep"), ("tsm", "zero"), ("tsm", "cyclic"), ("tps", "keep")],
)
@torch.no_grad()
def test_logits_are_those_of_the_reference_in_loops(variant, boundary):
    options = {"channel_boundary": boundary} if variant == "tsm" else {}
    model, frames = make_model(variant, depth=3, **options), make_frames()
    expected = [
        reference_logits(model, clip, variant=variant, boundary=boundary) for clip in frames
    ]
    torch.testing.assert_close(model(frames), torch.stack(expected), rtol=1e-9, atol=1e-9)


def frames_seen(model, *, frame, token):
    """Frames that a token depends on after the last block."""
    frames = make_frames(model.num_frames, batch=1).requires_grad_()
    outputs = []
    model.blocks[-1].register_forward_hook(lambda module, given, output: outputs.append(output))
    model(frames)
    outputs[0][0, frame, token].square().sum().backward()
    return frames.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()


def test_without_a_shift_a_frame_sees_itself():
    assert frames_seen(make_model("2d", num_frames=12), frame=6, token=5) == [6]


def test_channel_shift_shows_the_two_neighbours_to_every_token():
    for token in (0, 5):
        assert frames_seen(make_model("tsm", num_frames=12), frame=6, token=token) == [5, 6, 7]
    assert frames_seen(make_model("tsm", num_frames=12), frame=0, token=0) == [0, 1]


def test_patch_shift_shows_nine_frames():
    # Class token: t - 4 to t + 4. The patch at (0, 0) was moved by -4, so it sees t - 8 to t.
    assert frames_seen(make_model("tps", num_frames=12), frame=6, token=0) == list(range(2, 11))
    assert frames_seen(make_model("tps", num_frames=12), frame=8, token=1) == list(range(9))


def test_the_first_block_does_not_shift():
    for variant in VARIANTS:
        assert frames_seen(make_model(variant, num_frames=12, depth=1), frame=6, token=2) == [6]


@torch.no_grad()
def test_a_still_clip_gives_what_the_image_gives():
    image = make_model("2d", num_frames=1, depth=4)
    still = make_frames(1).expand(-1, -1, 5, -1, -1)
    for variant in ("tsm", "tps"):
        video = make_model(variant, depth=4)
        state = image.state_dict()
        state["positions"] = state["positions"].repeat(5, 1, 1)
        video.load_state_dict(state)
        torch.testing.assert_close(video(still), image(still[:, :, :1]), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_2d_does_not_know_the_order_of_frames_and_the_shifts_do():
    frames = make_frames()
    for variant, knows in (("2d", False), ("tsm", True), ("tps", True)):
        model = make_model(variant)
        model.positions.copy_(model.positions[:1].clone())
        turned = model(frames[:, :, [2, 0, 4, 1, 3]])
        assert torch.allclose(turned, model(frames), atol=1e-9) != knows


@torch.no_grad()
def test_features_are_the_class_tokens_and_make_the_logits():
    model, frames = make_model("tps"), make_frames()
    features = model.forward_features(frames)
    assert features.shape == (2, 16, 5, 1, 1)
    assert torch.equal(model.classify(features), model(frames))


def test_checkpointing_changes_no_gradient():
    frames, gradients = make_frames(), []
    for checkpointing in (False, True):
        model = make_model("tps", checkpointing=checkpointing, drop_path_rate=0.5).train()
        torch.manual_seed(4)
        model(frames).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-12, atol=1e-12)


def test_fresh_positions_are_those_of_one_frame_for_all():
    positions = deit_tiny_tps(2).positions
    assert positions.shape == (8, 17, 64)
    assert torch.equal(positions, positions[:1].expand_as(positions))
    assert 0.015 < positions.std() < 0.025


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temporal_shift": "both"},
            "temporal_shift must be one of 'none', 'channel', 'patch', got",
        ),
        ({"positions": "none"}, "positions must be one of 'shared', 'per_frame', got 'none'"),
        (
            {"channel_boundary": "wrap"},
            "channel_boundary must be one of 'keep', 'zero', 'cyclic', got 'wrap'",
        ),
        ({"pattern": "E"}, "pattern must be one of .* got 'E'"),
        ({"size": 13}, "size must be a positive multiple of 4, got 13"),
        ({"embed_dim": 15}, "embed_dim must be a positive multiple of 2, got 15"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"mlp_ratio": 0.01}, "mlp_ratio must give the MLP .* got 0.01"),
        ({"offset_sign": "+"}, r"offset_sign must be one of 'code', 'paper', got '\+'"),
        ({"pattern": "A"}, "pattern has no effect, as temporal_shift is 'none'"),
        ({"offset_sign": "paper"}, "offset_sign has no effect, as temporal_shift is 'none'"),
        ({"channel_folds": 4}, "channel_folds has no effect, as temporal_shift is 'none'"),
        ({"channel_boundary": "zero"}, "channel_boundary has no effect"),
        ({"drop_path_rate": 1.0}, "drop path rate is 1.0"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        make_model("2d", **options)


@pytest.mark.parametrize("folds", [1, 9])
def test_channel_folds_that_no_head_has_are_refused(folds):
    message = f"channel_folds must be from 2 to the 8 channels of a head, got {folds}"
    with pytest.raises(ValueError, match=message):
        make_model("tsm", channel_folds=folds)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("tps", {"channel_folds": 4}),
        ("tps", {"channel_boundary": "zero"}),
        ("tsm", {"pattern": "A"}),
        ("tsm", {"offset_sign": "paper"}),
    ],
)
def test_options_of_the_other_shift_are_refused(variant, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} has no effect"):
        make_model(variant, **options)


def test_heads_too_narrow_for_channels_to_shift_will_do_where_none_do():
    model = make_model("2d", embed_dim=8)
    assert model.forward(make_frames()).shape == (2, 3)


@torch.no_grad()
def test_sign_of_the_paper_takes_patches_from_the_other_side():
    frames = make_frames()
    ours, theirs = make_model("tps", pattern=[[1]]), make_model("tps", pattern=[[-1]])
    signed = make_model("tps", pattern=[[-1]], offset_sign="paper")
    assert torch.equal(signed(frames), ours(frames))
    assert not torch.allclose(signed(frames), theirs(frames))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_shared_positions_let_a_clip_be_of_any_length(variant):
    model = make_model(variant, positions="shared")
    longer = make_model(variant, positions="shared", num_frames=9)
    longer.load_state_dict(model.state_dict())
    frames = make_frames(9)
    assert torch.equal(model(frames), longer(frames))
    with pytest.raises(ValueError, match=r"\(B, 3, T > 0, 12, 12\), got \(2, 3, 0, 12, 12\)"):
        model(make_frames(0))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_model_made_without_memory_is_whole_once_it_has_its_weights(variant):
    model = make_model(variant)
    with torch.device("meta"):
        empty = make_model(variant)
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    frames = make_frames()
    assert torch.equal(empty(frames), model(frames))


def test_frames_of_another_shape_or_kind_are_refused():
    model = make_model("tps")
    with pytest.raises(ValueError, match=r"\(B, 3, 5, 12, 12\), got \(2, 3, 4, 12, 12\)"):
        model(make_frames(4))
    with pytest.raises(ValueError, match="normalised floating point, got torch.uint8"):
        model(make_frames().to(torch.uint8))
