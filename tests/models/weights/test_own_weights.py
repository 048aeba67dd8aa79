"""A model made here goes on at another size, clip length or number of classes."""

import pytest
import torch

from gopstream.models import create_model
from gopstream.models.catalogue import MODELS
from gopstream.models.weights.loading import load_weights


def moved(name, before, after, *, classes=(5, 5)):
    """Load the weights of one model into another; returns both and the report."""
    old = create_model(name, num_classes=classes[0], **before)
    new = create_model(name, num_classes=classes[1], **after)
    report = load_weights(new, old.state_dict(), layouts=MODELS[name].layouts)
    return old.state_dict(), new.state_dict(), report


@pytest.mark.parametrize(
    ("name", "before", "after", "fitted"),
    [
        ("dvt_tiny", {}, {"size": 64}, {"patch_embedding.space"}),
        ("dvt_tiny", {}, {"num_frames": 16}, {"patch_embedding.time"}),
        ("mvit_tiny", {}, {"size": 64}, None),
        ("deit_tiny_tps", {}, {"size": 64}, {"positions"}),
        ("deit_tiny_tps", {}, {"num_frames": 16}, {"positions"}),
        ("sifa_net_tiny", {}, {"num_frames": 16}, set()),
        ("video_focalnet_tiny", {}, {"num_frames": 16}, set()),
    ],
)
def test_positions_are_fitted_and_all_else_is_taken(name, before, after, fitted):
    old, new, report = moved(name, before, after)
    assert report.layout == "gopstream"
    assert report.loaded.keys() == new.keys()
    assert not report.left_random and not report.unused
    changed = {key for key in new if old[key].shape != new[key].shape}
    assert report.resized.keys() | report.inflated.keys() == changed
    assert fitted is None or changed == fitted
    for key in new.keys() - changed:
        assert torch.equal(old[key], new[key]), key


def test_tables_of_a_longer_clip_keep_the_differences_that_there_were():
    old, new, report = moved("pst_tiny", {"num_frames": 8}, {"num_frames": 40})
    assert report.resized
    for key in report.resized:
        assert key.endswith("position_table")
        assert len(new[key]) > len(old[key])
    for key in new.keys() - report.resized.keys():
        assert torch.equal(old[key], new[key]), key


def test_each_head_of_other_classes_stays_as_it_was():
    *_, report = moved("sifa_net_tiny", *[{"style": "released"}] * 2, classes=(5, 3))
    heads = {"head.weight", "head.bias", "dual_head.weight", "dual_head.bias"}
    assert report.left_random.keys() == heads


def test_weights_that_nothing_can_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"nothing was loaded:\n  .*weight"):
        moved("video_focalnet_tiny", {}, {"embed_dim": 16})


def test_an_error_names_the_file(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "strange.pth")
    with pytest.raises(ValueError, match=r"strange\.pth: .*names of no known layout"):
        create_model("pst_tiny", num_classes=2, weights=tmp_path / "strange.pth")
