"""Sizes that cannot be are refused by the name of their option."""

import pytest

from gopstream.models.layers.sizes import require_hidden_width, require_positive


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1, "depth": 0}, "^depth must be at least 1, got 0$"),
        ({"depths": (2, 0)}, r"^depths must be at least 1, got \(2, 0\)$"),
        ({"depths": [-1]}, r"depths must be at least 1, got \[-1\]"),
        ({"depths": ()}, "depths must be at least 1"),
    ],
)
def test_a_number_below_1_is_refused_wherever_it_stands(options, message):
    with pytest.raises(ValueError, match=message):
        require_positive(options)


def test_numbers_of_1_and_more_pass():
    require_positive({"size": 1, "depths": (1, 2), "kernels": [3]})


def test_an_mlp_keeps_at_least_one_hidden_channel():
    require_hidden_width(0.25, width=4)
    with pytest.raises(ValueError, match=r"mlp_ratio must .* 4 channels a hidden one, got 0.24"):
        require_hidden_width(0.24, width=4)
