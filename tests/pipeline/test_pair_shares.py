"""Shares of valid pairs, against counts made by hand and a loop over clips."""

import numpy as np
import pytest

from gopstream.pipeline.accumulation import accumulate, step_motion
from gopstream.pipeline.pair_shares import ClipShape, valid_pair_share


def still(num_frames, *, gop, rows=4, columns=6):
    """A still video: nothing moves, nothing leaves."""
    coverage = np.ones((num_frames, rows, columns), np.uint8)
    is_intra = np.arange(num_frames) % gop == 0
    coverage[is_intra] = 0
    return np.zeros((num_frames, rows, columns, 2), np.int16), coverage, is_intra


def shares(stream, shape, *, display_size=(48, 32), **options):
    motion, coverage, is_intra = stream
    return valid_pair_share(
        motion,
        coverage,
        is_intra_frame=is_intra,
        display_size=display_size,
        shape=ClipShape(*shape),
        **options,
    )


def test_a_still_video_is_all_valid():
    result = shares(still(70, gop=100), (16, 4, 8), num_clips=5)
    assert result.num_pairs == 5 * 2 * 8 * 7 * 24
    assert result.valid == 1.0


def test_pairs_are_counted_by_hand_for_one_clip():
    """Frames 0, 4, 8, 12 with an I-frame at 6: 2 x 2 x 2 of the 12 ordered pairs cross it."""
    motion, coverage, is_intra = still(13, gop=100)
    is_intra[6], coverage[6] = True, 0
    result = shares((motion, coverage, is_intra), (4, 4, 4))
    assert result.num_pairs == 12 * 24
    assert result.valid == 1.0
    assert result.extrapolated == pytest.approx(8 / 12)


def test_a_cut_takes_the_pairs_across_it():
    cuts = np.arange(13) == 5
    result = shares(still(13, gop=100), (4, 4, 4), scene_cuts=cuts)
    assert result.valid == pytest.approx(4 / 12)


def test_blocks_outside_of_the_picture_do_not_count():
    """The last column's centre lies outside of 43 pixels, the last row's within 29."""
    result = shares(still(13, gop=100), (4, 4, 4), display_size=(43, 29))
    assert result.num_pairs == 12 * 4 * 5
    assert result.valid == 1.0


def random_stream(num_frames=60):
    rng = np.random.default_rng(0)
    motion, coverage, is_intra = still(num_frames, gop=7)
    motion[:] = rng.integers(-20, 21, motion.shape)
    coverage[rng.random(coverage.shape) < 0.05] = 0
    motion[coverage == 0] = 0
    return motion, coverage, is_intra


@pytest.mark.parametrize(("num_clips", "starts"), [(1, [14]), (3, [0, 14, 29]), (2, [0, 29])])
def test_shares_equal_those_of_whole_clips(num_clips, starts):
    """Clips from the first to the last, each read whole, not sub-clip by sub-clip."""
    stream = random_stream()
    cuts = np.arange(60) == 17
    step = step_motion(*stream, scene_cuts=cuts)
    counts = np.zeros(3)
    for start in starts:
        samples = (start + 2 * np.arange(16)).reshape(2, 8)
        pairs = accumulate(step, samples, display_size=(48, 32))
        for group, query, key in np.ndindex(2, 8, 8):
            if query != key:
                valid = pairs.valid[group, query, key].sum()
                counts += (24, valid, valid * pairs.extrapolated[group, query, key])
    result = shares(stream, (16, 2, 8), num_clips=num_clips, scene_cuts=cuts)
    assert result == (counts[0], counts[1] / counts[0], counts[2] / counts[1])
    assert 0.1 < result.valid < 0.9


def test_a_short_video_repeats_its_last_frame():
    """Frames 0, 4, 5, 5 of six: there is one clip, however many are asked for."""
    result = shares(still(6, gop=100), (4, 4, 4))
    assert result.num_pairs == 12 * 24
    assert result.valid == 1.0


def test_with_nothing_valid_nothing_is_extrapolated():
    result = shares(still(13, gop=1), (4, 4, 4))
    assert result[1:] == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(0, 4, 8), (16, 0, 8)])
def test_clips_without_frames_are_refused(shape):
    with pytest.raises(ValueError, match="frames and stride must be at least 1"):
        ClipShape(*shape)


@pytest.mark.parametrize("subclip_frames", [1, 5])
def test_subclips_that_do_not_divide_the_clip_are_refused(subclip_frames):
    with pytest.raises(ValueError, match="must divide into sub-clips of at least 2"):
        ClipShape(16, 4, subclip_frames)


def test_no_frames_and_no_clips_are_refused():
    with pytest.raises(ValueError, match="expected frames and clips"):
        shares(still(0, gop=1), (4, 4, 4))
    with pytest.raises(ValueError, match="expected frames and clips"):
        shares(still(9, gop=1), (4, 4, 4), num_clips=0)
