"""Cues made of frames, against loops over queries and frames."""

import pytest
import torch

from gopstream.models.dvt.cues import average_cue, difference_cue

SHAPES = pytest.mark.parametrize(
    ("num_frames", "query_stride", "subclip_frames"), [(8, 2, 4), (8, 2, 8), (6, 3, 6), (4, 1, 2)]
)


def make_frames(num_frames):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, num_frames, 2, 3, generator=generator, dtype=torch.float64)


def pairs(num_frames, *, query_stride, subclip_frames):
    """Yield (query, place in the sub-clip, sampled frame of each)."""
    for query in range(num_frames // query_stride):
        t = query * query_stride
        first = t // subclip_frames * subclip_frames
        for place in range(subclip_frames):
            yield query, place, t, first + place


@SHAPES
def test_rgb_differences_are_the_querys_frame_less_the_other(
    num_frames, query_stride, subclip_frames
):
    frames = make_frames(num_frames)
    sizes = {"query_stride": query_stride, "subclip_frames": subclip_frames}
    cue = difference_cue(frames, **sizes)
    assert cue.shape == (2, num_frames // query_stride, 3, subclip_frames, 2, 3)
    for query, place, t, other in pairs(num_frames, **sizes):
        assert torch.equal(cue[:, query, :, place], frames[:, :, t] - frames[:, :, other])


@SHAPES
def test_averages_are_over_the_frames_from_the_querys_to_the_other(
    num_frames, query_stride, subclip_frames
):
    frames = make_frames(num_frames)
    sizes = {"query_stride": query_stride, "subclip_frames": subclip_frames}
    cue = average_cue(frames, **sizes)
    assert cue.shape == (2, num_frames // query_stride, 3, subclip_frames, 2, 3)
    for query, place, t, other in pairs(num_frames, **sizes):
        expected = frames[:, :, min(t, other) : max(t, other) + 1].mean(dim=2)
        torch.testing.assert_close(cue[:, query, :, place], expected, rtol=0, atol=1e-14)
