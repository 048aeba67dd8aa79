"""Which views there are, and how calls and processes share them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluation.views import own_samples, parse_views, views_per_call
from gopstream.shards import View


def test_views_of_a_clip_follow_each_other():
    assert parse_views("2x3") == [View(c, 2, k, 3) for c in (0, 1) for k in (0, 1, 2)]


@pytest.mark.parametrize("text", ["", "3", "0x1", "1x0", "-1x1", "axb", "1x2x3", "1 x 2"])
def test_malformed_views(text):
    with pytest.raises(UserError, match="clips x crops, such as 4x3"):
        parse_views(text)


@pytest.mark.parametrize(
    ("batch_size", "num_views", "expected"),
    [
        (64, 1, 64),
        (512, 1, 64),  # enough for any GPU
        (64, 12, 60),  # five whole samples
        (64, 30, 60),
        (16, 30, 15),  # half a sample
        (8, 5, 5),
        (4, 5, 1),
        (0, 1, 1),
    ],
)
def test_a_call_takes_whole_samples_or_an_even_part_of_one(batch_size, num_views, expected):
    assert views_per_call(batch_size, num_views=num_views) == expected


@given(num_samples=st.integers(1, 200), at_once=st.integers(1, 64), world_size=st.integers(1, 9))
def test_processes_share_all_samples_once_and_no_call_is_divided(num_samples, at_once, world_size):
    shares = [
        own_samples(num_samples, at_once=at_once, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert [sample for share in shares for sample in share] == list(range(num_samples))
    assert all(share.start % at_once == 0 for share in shares if share)
    calls = [-(-len(share) // at_once) for share in shares]
    assert max(calls) - min(calls) <= 1
