"""Our models give what the authors' code gave, through the same command that checks any case."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from gopstream.models.pst.model import PatchShiftTransformer
from gopstream.models.video_focalnet.model import VideoFocalNet

golden = runpy.run_path(str(Path(__file__).with_name("golden.py")))
compare_file = golden["compare_file"]
families = runpy.run_path(str(Path(__file__).with_name("golden_families.py")))


@pytest.fixture(autouse=True)
def compute_in_one_thread():
    """For tensors this small, a second thread costs time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CASES = {
    "videofocalnet_1": ("authors of Video-FocalNet", {"logits", "acts"}),
    "pst_1": ("authors of PST", {"logits", "features", "probes"}),
    "pst_channel_only": ("authors of PST", {"logits", "features", "probes"}),
    "sifa_resnet_1": (
        "authors of SIFA-Net",
        {"logits", "dual logits", "probabilities", "acts"},
    ),
    "sifa_op_1": ("no network", {"sums", "products"}),
    "sifa_swin_1": ("authors of SIFA-Transformer", {"logits", "acts"}),
}


@pytest.mark.parametrize("name", CASES)
def test_output_is_that_of_the_authors(golden_folder, name):
    layout, kinds = CASES[name]
    comparison = compare_file(golden_folder / f"{name}.npz")
    assert comparison.passed, comparison.line()
    assert comparison.layout == layout
    assert set(comparison.differences) == kinds


def change(source, target, *, edit):
    """Write a golden file anew after `edit` changed its arrays and its configuration."""
    with np.load(source) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = json.loads(str(arrays["config"]))
    edit(arrays, config)
    np.savez(target, **{**arrays, "config": json.dumps(config)})
    return target


def test_command_prints_a_line_for_each_file_and_fails_if_any_differs(
    golden_folder, tmp_path, capsys
):
    def wrong_output(arrays, config):
        arrays["y"][1, 2] += 2e-4

    good = golden_folder / "videofocalnet_1.npz"
    bad = change(good, tmp_path / "bad.npz", edit=wrong_output)
    assert golden["main"]([str(good)]) == 0
    assert golden["main"]([str(good), str(bad), str(tmp_path / "none.npz")]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "ok   videofocalnet_1",
        "FAIL bad",
        "FAIL none",
    ]


@pytest.mark.parametrize(
    "prefix", ["y", "y64", "act/layers.2", "sd/head.bias", "sd/layers.1.blocks.0.modulation.h.bias"]
)
def test_every_part_of_a_file_counts(golden_folder, tmp_path, prefix):
    def wrong(arrays, config):
        arrays[prefix].flat[0] += 0.1

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "bad.npz", edit=wrong)
    assert not compare_file(path).passed


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *(("sifa_op_1", name) for name in ("x", "offset", "weight", "cor", "cor64", "agg64")),
        *(("sifa_resnet_1", name) for name in ("y", "y64_dual", "prob", "act/layer4_dual")),
        ("sifa_resnet_1", "sd/layer3.1.def_cor.weight"),
        ("sifa_resnet_1", "sd/layer4_dual.1.conv_offset.weight"),
        *(("sifa_swin_1", name) for name in ("y", "y64", "act/patch_embed", "act/layers.0")),
        ("sifa_swin_1", "sd/layers.0.blocks.0.def_cor.weight"),
        ("sifa_swin_1", "sd/layers.0.blocks.1.conv.weight"),
        ("sifa_swin_1", "sd/layers.1.blocks.1.tda_norm.bias"),
    ],
)
def test_every_part_of_a_file_of_sifa_counts(golden_folder, tmp_path, case, name):
    def wrong(arrays, config):
        arrays[name].flat[-1] += 0.5

    path = change(golden_folder / f"{case}.npz", tmp_path / "bad.npz", edit=wrong)
    assert not compare_file(path).passed


@pytest.mark.parametrize(
    ("case", "key", "value", "problem"),
    [
        ("sifa_op_1", "pad", 2, "pad must be 1, got 2"),
        ("sifa_op_1", "groups", 2, "not understood in its config: 'groups'"),
        ("sifa_resnet_1", "clip_length", 32, "clip_length must be 16, got 32"),
        ("sifa_resnet_1", "base_width", 8, "nothing was loaded"),
        ("sifa_resnet_1", "region_size_per_stage", [1, 3, 3, 5], "nothing was loaded"),
        ("sifa_resnet_1", "global_context", False, "nothing was loaded"),
        ("sifa_swin_1", "temporal_shift", "propagating", "temporal_shift must be 'clean', got"),
        ("sifa_swin_1", "clip_length", 32, "clip_length must be 16, got 32"),
        ("sifa_swin_1", "patch_size", 2, "patch_size must be 4, got 2"),
        ("sifa_swin_1", "region_size", 5, "nothing was loaded"),
        ("sifa_swin_1", "tubelet_frames", 2, "nothing was loaded"),
        ("sifa_swin_1", "patch_norm", True, "nothing was loaded"),
        ("sifa_swin_1", "shift", "clean", "not understood in its config: 'shift'"),
    ],
)
def test_configuration_of_sifa_is_that_of_its_network(
    golden_folder, tmp_path, case, key, value, problem
):
    def other(arrays, config):
        config[key] = value

    path = change(golden_folder / f"{case}.npz", tmp_path / "other.npz", edit=other)
    with pytest.raises(ValueError, match=problem):
        compare_file(path)


def test_options_of_sifa_change_what_is_computed(golden_folder, tmp_path):
    for case, key, value in (
        ("sifa_resnet_1", "saliency_residual", False),
        ("sifa_resnet_1", "last", "self"),
        ("sifa_swin_1", "last", "self"),
        ("sifa_swin_1", "motion_input", "attention"),
        # The second block of the second stage then convolves, and does not attend.
        ("sifa_swin_1", "img_size", 224),
    ):

        def other(arrays, config, key=key, value=value):
            config[key] = value

        path = change(golden_folder / f"{case}.npz", tmp_path / "other.npz", edit=other)
        assert not compare_file(path).passed


def test_not_a_number_is_no_match(golden_folder, tmp_path):
    def wrong(arrays, config):
        arrays["y"][0, 0] = np.nan

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "bad.npz", edit=wrong)
    assert not compare_file(path).passed


def test_file_without_an_output_proves_nothing(golden_folder, tmp_path):
    def without_output(arrays, config):
        del arrays["y"], arrays["y64"]

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "bad.npz", edit=without_output)
    assert not compare_file(path).passed


def test_option_that_is_not_understood_is_refused_and_a_sentence_is_none(golden_folder, tmp_path):
    def more(arrays, config):
        config |= {"use_something": True, "why": "to see a sentence", "how": "word"}

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "more.npz", edit=more)
    with pytest.raises(ValueError, match="^not understood in its config: 'how', 'use_something'$"):
        compare_file(path)


def test_option_changes_the_network_that_is_built(golden_folder, tmp_path):
    """The weights are then not those of the network, which strict loading says."""

    def with_scale(arrays, config):
        config["use_layerscale"] = True

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "more.npz", edit=with_scale)
    with pytest.raises(ValueError, match="scale of the model: the weights do not have it"):
        compare_file(path)


def test_missing_or_extra_weight_is_refused(golden_folder, tmp_path):
    def missing(arrays, config):
        del arrays["sd/norm.bias"]

    def extra(arrays, config):
        arrays["sd/norm.scale"] = arrays["sd/norm.bias"]

    good = golden_folder / "videofocalnet_1.npz"
    with pytest.raises(ValueError, match="norm.bias of the model: the weights do not have it"):
        compare_file(change(good, tmp_path / "missing.npz", edit=missing))
    with pytest.raises(ValueError, match="norm.scale of the weights: no rule"):
        compare_file(change(good, tmp_path / "extra.npz", edit=extra))


def test_pattern_of_the_file_is_the_pattern_of_the_network(golden_folder, tmp_path):
    def other_pattern(arrays, config):
        config["pattern"][0][0] = -3

    path = change(golden_folder / "pst_1.npz", tmp_path / "other.npz", edit=other_pattern)
    comparison = compare_file(path)
    assert comparison.differences["features"] > 1e-2
    assert not comparison.passed


VIDEO_FOCALNET = {
    "num_classes": 3,
    "embed_dim": 8,
    "depths": [1, 1],
    "focal_levels": [2, 1],
    "focal_windows": [3, 5],
}
PST = {
    "num_classes": 3,
    "embed_dim": 16,
    "depths": [2, 1],
    "num_heads": [2, 2],
    "patch_size": [2, 4, 4],
    "window_size": [1, 4, 4],
    "temporal_table_length": 16,
    "block_kinds": ["tcs", "tps"],
    "pattern": [[-1, 0], [0, 2]],
}
OURS_OF_PST = {"window_size": 4, "table_frames": 16, "pattern": ((-1, 0), (0, 2))}


def same_network(one, other, *, num_frames):
    """Whether two makers give the same output for weights drawn alike."""
    frames = torch.randn(1, 3, num_frames, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = []
    for make in (one, other):
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
        with torch.no_grad():
            outputs.append(model(frames))
    return outputs[0].shape == outputs[1].shape and torch.equal(*outputs)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"use_postln": True}, {"norm_position": "after"}),
        ({"use_postln_in_modulation": True}, {"modulated_norm": True}),
        ({"use_conv_embed": True}, {"patches": "overlapping"}),
        ({"use_layerscale": True}, {"layer_scale": 1e-4}),
        ({"normalize_modulator": True}, {"normalize_modulator": True}),
        ({"tubelet_size": 2}, {"tubelet_size": 2}),
        ({"patch_norm": False}, {"patch_norm": False}),
        ({"mlp_ratio": 2.0}, {"mlp_ratio": 2.0}),
        ({"design": "divided"}, {"design": "divided"}),
    ],
)
def test_options_of_video_focalnet_reach_the_network(theirs, ours):
    options = {key: value for key, value in VIDEO_FOCALNET.items() if key != "num_classes"}

    def of_config():
        return families["build_video_focalnet"](VIDEO_FOCALNET | theirs | {"num_frames": 4}, 4)

    def make(**more):
        return VideoFocalNet(3, num_frames=4, **options, **more)

    assert same_network(of_config, lambda: make(**ours), num_frames=4)
    assert ours == {} or not same_network(of_config, make, num_frames=4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"block_kinds": ["plain", "tps"]}, {"block_kinds": ("plain", "tps")}),
        ({"pattern": "D"}, {"pattern": "D"}),
        ({"pattern": None}, {"pattern": "none"}),
        (
            {"pattern": None, "block_kinds": ["tcs", "tcs"]},
            {"pattern": "C", "block_kinds": ("tcs", "tcs")},
        ),
        ({"window_size": [2, 4, 4]}, {"temporal_window": 2, "rpe": "paper"}),
        (
            {"window_size": [1, 4, 4], "temporal_table_length": 1, "block_kinds": ["plain"] * 2}
            | {"pattern": None},
            {"table_frames": 1, "rpe": "paper", "block_kinds": ("plain", "plain"), "pattern": "C"},
        ),
        ({"rpe": "paper"}, {"rpe": "paper"}),
        ({"shift_back": False}, {"shift_back": False}),
        ({"shift_positions": False}, {"shift_positions": False}),
        ({"shift_stages": [1]}, {"shift_stages": (1,)}),
        ({"channel_boundary": "zero"}, {"channel_boundary": "zero"}),
        ({"channel_folds": 4}, {"channel_folds": 4}),
        ({"offset_sign": "paper"}, {"offset_sign": "paper"}),
        ({"patch_size": [1, 4, 4]}, {"patch_size": (1, 4, 4)}),
        ({"qkv_bias": False}, {"qkv_bias": False}),
    ],
)
def test_options_of_pst_reach_the_network(theirs, ours):
    shared = ("embed_dim", "depths", "num_heads", "patch_size", "block_kinds")
    options = {key: PST[key] for key in shared} | OURS_OF_PST

    def make(**more):
        return PatchShiftTransformer(3, num_frames=8, **(options | more))

    def of_config():
        return families["build_pst"](PST | theirs, 8)

    assert same_network(of_config, lambda: make(**ours), num_frames=8)
    assert ours == {} or not same_network(of_config, make, num_frames=8)


@pytest.mark.parametrize(
    ("build", "config", "problem"),
    [
        ("build_video_focalnet", {"num_frames": 8}, "num_frames must be 4, got 8"),
        ("build_video_focalnet", VIDEO_FOCALNET | {"patch_size": 2}, "patch_size must be 4, got 2"),
        ("build_video_focalnet", {}, "its config lacks 'num_classes'"),
        ("build_pst", PST | {"window_size": [1, 4, 5]}, "windows must be square, got 4 x 5"),
        ("build_pst", {"window_size": [1, 7, 7]}, "its config lacks 'temporal_table_length'"),
        ("build_pst", PST | {"qk_scale": 0.1}, "qk_scale must be None, got 0.1"),
    ],
)
def test_configuration_that_cannot_be_built_is_said(build, config, problem):
    with pytest.raises(ValueError, match=problem):
        families[build](dict(config), 4)


def test_command_says_what_is_no_such_file(tmp_path, capsys):
    other = tmp_path / "notes.txt"
    other.write_text("no arrays")
    assert golden["main"]([str(other), str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "FAIL notes: it is no .npz file"
    assert "Is a directory" in second


def test_command_without_a_file_says_what_to_give(capsys):
    assert golden["main"]([]) == 2
    assert "../shared/golden/pst_*.npz" in capsys.readouterr().err


def test_tensor_that_is_compared_with_nothing_is_refused(golden_folder, tmp_path):
    def more(arrays, config):
        arrays["z"] = arrays["y"]

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "more.npz", edit=more)
    with pytest.raises(ValueError, match="z of the file is compared with nothing"):
        compare_file(path)
