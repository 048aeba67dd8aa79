"""A recipe's mistakes are named, with what to write instead."""

import pickle

import pytest

from gopstream.shards.loading.transform_spec import TransformSpec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "short_sied"}, r"crop must be one of .*got 'short_sied' \(did you mean 'short"),
        ({"policy_on": "frames"}, r"policy_on .*did you mean 'frame'"),
        ({"erase_fill": "color"}, r"erase_fill .*did you mean 'colour'"),
        ({"policy": "rand-q3"}, "rand has no key 'q'"),
        ({"size": 0}, "size must be at least 1"),
        ({"flip": 1.5}, "flip must be from 0 to 1, got 1.5"),
        ({"hue": 0.6}, "hue must be from 0 to 0.5"),
        ({"brightness": -0.1}, "brightness must be from 0 to 10"),
        ({"jitter": 2.0}, "jitter must be from 0 to 1"),
        ({"erase_ratio": 0.0}, "erase_ratio must be from 0.01 to 1"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale must rise within \(0, 1\], got 0.0, 1.0"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must rise"),
        ({"blur_sigma": (2.0, 0.1)}, "blur_sigma must rise"),
        ({"erase_area": (0.1, 1.1)}, "erase_area must rise"),
        (
            {"crop": "short_side", "short_side": (200, 320)},
            "short_side must be at least size = 224, got 200",
        ),
        ({"view_short_side": 200}, "view_short_side must be at least size = 224, got 200"),
        ({"view_short_side": -1}, "view_short_side not negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransformSpec(**options)


def test_a_spec_travels_to_other_processes():
    spec = TransformSpec(policy="rand-m7-n4-mstd0.5-inc1", keep_direction=(86, 87))
    assert pickle.loads(pickle.dumps(spec)) == spec
