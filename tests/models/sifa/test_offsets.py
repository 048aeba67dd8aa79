"""Which frames are paired, and what moves the taps of a pair."""

import math

import pytest
import torch
from torch.nn import functional

from gopstream.models.sifa.offsets import OffsetEstimator, motion_saliency, pair_frames

SOURCES = ["frame", "clip", "difference", "motion"]


def make_clip(batch=2, *, num_frames=4, height=5, width=6, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_frames, height, width, channels)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_estimator(source, *, region=3, saliency_residual=False, channels=3, seed=1):
    torch.manual_seed(seed)
    return OffsetEstimator(
        channels, source=source, region=region, saliency_residual=saliency_residual
    ).double()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("direction", "ends", "query", "keys"),
    [
        ("next", "self", [0, 1, 2, 3], [1, 2, 3, 3]),
        ("next", "zero", [0, 1, 2], [1, 2, 3]),
        ("previous", "self", [0, 1, 2, 3], [0, 0, 1, 2]),
        ("previous", "zero", [1, 2, 3], [0, 1, 2]),
    ],
)
def test_each_frame_is_paired_with_its_neighbour(direction, ends, query, keys):
    clip = make_clip()
    pairs = pair_frames(clip, direction=direction, ends=ends)
    assert torch.equal(pairs.query_BPHWC, clip[:, query])
    assert torch.equal(pairs.keys_BPHWC, clip[:, keys])
    assert pairs.of_keys(torch.arange(4)[None]).tolist() == [keys]


@pytest.mark.parametrize("residual", [False, True])
def test_saliency_gates_the_attended_frame_by_its_growth(residual):
    clip = make_clip(1, num_frames=2, height=2, width=2, channels=2)
    pairs = pair_frames(clip, direction="next", ends="zero")
    salient = motion_saliency(pairs, residual=residual)
    for place in torch.cartesian_prod(*[torch.arange(2)] * 3):
        before, after = clip[0, 0][tuple(place)].item(), clip[0, 1][tuple(place)].item()
        gate = 1 / (1 + math.exp(before - after))
        expected = (gate + residual) * after
        assert salient[0, 0][tuple(place)].item() == pytest.approx(expected, abs=1e-12)


# Property 26: in the paper and in the authors' code.
@pytest.mark.parametrize(("residual", "share"), [(False, 0.5), (True, 1.5)])
def test_a_clip_that_stands_still_is_salient_by_its_own_features(residual, share):
    still = make_clip(num_frames=1).expand(-1, 3, -1, -1, -1)
    for direction in ("next", "previous"):
        pairs = pair_frames(still, direction=direction, ends="self")
        close(motion_saliency(pairs, residual=residual), share * still)


@pytest.mark.parametrize("ends", ["zero", "self"])
@pytest.mark.parametrize("direction", ["next", "previous"])
@pytest.mark.parametrize("source", SOURCES)
def test_offsets_are_a_convolution_of_what_the_source_says(source, direction, ends):
    estimator, clip = make_estimator(source), make_clip()
    pairs = pair_frames(clip, direction=direction, ends=ends)
    offsets = estimator(pairs)
    weight = estimator.convolution.weight
    if source == "clip":
        of_frames = functional.conv3d(clip.permute(0, 4, 1, 2, 3), weight, padding=1)
        expected = pairs.of_keys(of_frames.transpose(1, 2))
    else:
        keys, query = pairs.keys_BPHWC, pairs.query_BPHWC
        given = {
            "frame": keys,
            "difference": keys - query,
            "motion": torch.sigmoid(keys - query) * keys,
        }[source]
        expected = torch.stack(
            [
                functional.conv2d(given[:, pair].permute(0, 3, 1, 2), weight, padding=1)
                for pair in range(given.shape[1])
            ],
            dim=1,
        )
    assert offsets.shape == (*pairs.query_BPHWC.shape[:-1], 9, 2)
    for tap in range(9):
        close(offsets[..., tap, 0], expected[:, :, 2 * tap])
        close(offsets[..., tap, 1], expected[:, :, 2 * tap + 1])


def test_residual_saliency_reaches_the_estimate():
    pairs = pair_frames(make_clip(), direction="next", ends="zero")
    with_residual = make_estimator("motion", saliency_residual=True)
    without = make_estimator("motion")
    saliency = motion_saliency(pairs, residual=True).flatten(0, 1).permute(0, 3, 1, 2)
    expected = functional.conv2d(saliency, with_residual.convolution.weight, padding=1)
    close(with_residual(pairs).flatten(0, 1).flatten(-2), expected.permute(0, 2, 3, 1))
    assert not torch.equal(with_residual(pairs), without(pairs))


@pytest.mark.parametrize("region", [1, 5])
def test_the_kernel_is_three_by_three_whatever_the_region(region):
    for source in SOURCES:
        estimator = make_estimator(source, region=region)
        assert estimator.convolution.kernel_size[-2:] == (3, 3)
        pairs = pair_frames(make_clip(), direction="next", ends="self")
        assert estimator(pairs).shape == (2, 4, 5, 6, region**2, 2)


def test_difference_of_a_clip_that_stands_still_moves_nothing():
    still = make_clip(num_frames=1).expand(-1, 3, -1, -1, -1)
    pairs = pair_frames(still, direction="next", ends="self")
    close(make_estimator("difference")(pairs), torch.zeros(2, 3, 5, 6, 9, 2, dtype=still.dtype))
