"""An unknown name is answered with the one that was meant, and with none that was not."""

import pytest

from gopstream.pipeline.nearest_name import did_you_mean

NAMES = ("frames", "frame_size", "Label", "fps")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("frmes", "frames"), ("framesize", "frame_size"), ("FRAMES", "frames"), ("label", "Label")],
)
def test_the_most_similar_is_named(name, meant):
    assert did_you_mean(name, NAMES) == f" (did you mean {meant!r}?)"


def test_of_equally_similar_ones_the_first_is_named():
    assert did_you_mean("ab", ["abc", "abd"]) == did_you_mean("ab", iter(["abc", "abd"]))
    assert did_you_mean("ab", ["abd", "abc"]) == " (did you mean 'abd'?)"


def test_what_is_not_similar_is_not_named():
    assert did_you_mean("xyz", NAMES) == ""
    assert did_you_mean("f", NAMES) == " (did you mean 'fps'?)"
    assert did_you_mean("f", NAMES, cutoff=0.6) == ""


def test_without_a_cutoff_there_is_always_a_nearest_one():
    assert did_you_mean("xyz", NAMES, cutoff=0.0) == " (did you mean 'frame_size'?)"
    assert did_you_mean("xyz", [], cutoff=0.0) == did_you_mean("xyz", []) == ""
