"""Our models give what the authors' code gave, through the same command that checks any case."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

golden = runpy.run_path(str(Path(__file__).with_name("golden.py")))
compare_file = golden["compare_file"]

CASES = {
    "videofocalnet_1": ("authors of Video-FocalNet", {"logits", "acts"}),
    "pst_1": ("authors of PST", {"logits", "features", "probes"}),
    "pst_channel_only": ("authors of PST", {"logits", "features", "probes"}),
}


@pytest.mark.parametrize("name", CASES)
def test_output_is_that_of_the_authors(golden_folder, name):
    layout, kinds = CASES[name]
    comparison = compare_file(golden_folder / f"{name}.npz")
    assert comparison.passed, comparison.line()
    assert comparison.layout == layout
    assert set(comparison.differences) == kinds
    assert comparison.unused == ()


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


def test_option_that_is_not_understood_is_said(golden_folder, tmp_path):
    def more(arrays, config):
        config["use_something"] = True

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "more.npz", edit=more)
    assert "not understood in its config: use_something" in compare_file(path).line()


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


def test_tensor_that_is_compared_with_nothing_is_refused(golden_folder, tmp_path):
    def more(arrays, config):
        arrays["z"] = arrays["y"]

    path = change(golden_folder / "videofocalnet_1.npz", tmp_path / "more.npz", edit=more)
    with pytest.raises(ValueError, match="z of the file is compared with nothing"):
        compare_file(path)
