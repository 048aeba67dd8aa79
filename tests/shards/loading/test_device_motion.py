"""Motion of batches made on the device, and of clips in the worker, against all pairs of one."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

torch = pytest.importorskip("torch", reason="loading needs torch")

from gopstream.pipeline.accumulation import accumulate, step_motion  # noqa: E402
from gopstream.pipeline.extract import extract_clip  # noqa: E402
from gopstream.pipeline.options import ExtractionOptions  # noqa: E402
from gopstream.shards.loading.device_motion import (  # noqa: E402
    accumulated_clip,
    accumulated_motion,
    clip_motion,
    collate_motion,
)
from gopstream.shards.sample_parts import MotionWindow  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of torch wait for each other, for long where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_window(rng, *, gop=5, longest=48):
    """Whole GOPs of a video of any size, with intra blocks, scene cuts and I-frames."""
    num_frames, rows, columns = rng.integers((10, 2, 2), (24, 7, 7)).tolist()
    shape = (num_frames, 1, rows, columns)
    motion = rng.integers(-longest, longest + 1, (*shape, 2)).astype(np.int16)
    coverage = (rng.random(shape) < 0.85).astype(np.uint8)
    coverage[rng.integers(num_frames)] &= rng.random(shape[1:]) < 0.5
    is_intra = (np.arange(num_frames) + rng.integers(gop)) % gop == 0
    is_intra |= rng.random(num_frames) < 0.1
    coverage[is_intra] = 0
    motion[coverage == 0] = 0
    return MotionWindow(
        first_frame=int(rng.integers(0, 50)),
        motion=motion,
        coverage=coverage,
        is_intra_frame=is_intra,
        is_bidirectional=np.zeros(num_frames, bool),
        is_scene_cut=rng.random(num_frames) < 0.1,
    )


def random_crop(rng, window, *, side=4):
    rows, columns = window.coverage.shape[2:]
    return {
        "display_size": (columns * 8 - int(rng.integers(12)), rows * 8 - int(rng.integers(12))),
        "cells": rng.integers(-2, rows * columns, (side, side)),
        "linear": np.diag(rng.uniform(-3, 3, 2)).astype(np.float32),
    }


def random_clip(rng, *, subclip_frames=4, **drawing):
    """Return a window and what a clip of two sub-clips asks of it."""
    window = random_window(rng, **drawing)
    sampled = np.sort(rng.integers(0, len(window.motion), 2 * subclip_frames))
    crop = random_crop(rng, window)
    return window, {
        "sampled": sampled + window.first_frame,
        "subclip_frames": subclip_frames,
    } | crop


def make(window, asked):
    return clip_motion(
        window, asked["sampled"], **{k: v for k, v in asked.items() if k != "sampled"}
    )


def expected(window, asked, *, query_stride):
    """The whole window, all pairs, all blocks; then what the clip shows of them."""
    steps = step_motion(
        window.motion[:, 0],
        window.coverage[:, 0],
        window.is_intra_frame,
        scene_cuts=window.is_scene_cut,
    )
    samples = asked["sampled"].reshape(-1, asked["subclip_frames"]) - window.first_frame
    pairs = accumulate(steps, samples, display_size=asked["display_size"])
    rows, columns = np.divmod(np.maximum(asked["cells"], 0), window.motion.shape[3])
    moved = pairs.displacement[:, ::query_stride][:, :, :, rows, columns]
    valid = pairs.valid[:, ::query_stride][:, :, :, rows, columns] & (asked["cells"] >= 0)
    moved = np.where(valid[..., None], moved * np.diag(asked["linear"]), np.float32(0))
    shape = (-1, samples.shape[1], *rows.shape)
    return np.moveaxis(moved.reshape(*shape, 2), -1, 1), valid.reshape(shape)


def assert_right(clips, *, query_stride, run=accumulated_motion):
    batch = collate_motion([make(*clip) for clip in clips])
    motion, valid = run(batch, query_stride=query_stride)
    assert (motion.dtype, valid.dtype) == (torch.float32, torch.bool)
    assert motion.is_contiguous()
    assert valid.is_contiguous()
    for number, clip in enumerate(clips):
        wanted = expected(*clip, query_stride=query_stride)
        alone = accumulated_clip(make(*clip), query_stride=query_stride)
        for found in ((motion[number].numpy(), valid[number].numpy()), alone):
            np.testing.assert_array_equal(found[0], wanted[0])
            np.testing.assert_array_equal(found[1], wanted[1])
    return batch, motion, valid


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_clips=st.integers(1, 4),
    subclip_frames=st.integers(1, 5),
    query_stride=st.integers(1, 3),
    longest=st.sampled_from([3, 32, 96, 3000]),
    gop=st.sampled_from([1, 2, 5, 40]),
)
def test_clips_of_all_sizes_and_lengths_get_their_own_motion(
    seed, num_clips, subclip_frames, query_stride, longest, gop
):
    rng = np.random.default_rng(seed)
    clips = [
        random_clip(rng, subclip_frames=subclip_frames, longest=longest, gop=gop)
        for _ in range(num_clips)
    ]
    assert_right(clips, query_stride=query_stride)


def test_blocks_of_equal_motion_that_meet_are_ranked_as_in_numpy():
    """Whole cells: many land in one place with the same length."""
    rng = np.random.default_rng(4)
    clips = []
    for _ in range(6):
        window, asked = random_clip(rng)
        whole = rng.integers(-1, 2, window.motion.shape).astype(np.int16) * 32
        clips.append((window._replace(motion=whole * window.coverage[..., None]), asked))
    _, motion, valid = assert_right(clips, query_stride=1)
    assert valid.any()
    assert motion.any()


@pytest.fixture(scope="module")
def real_windows(real_videos):
    """Ninety frames and more of two real videos of two shapes, as canonical shards hold them."""
    options = ExtractionOptions(planes=("motion",))
    windows = []
    for name in ("h264_10bit.mp4", "goat_256.mp4"):
        clip = extract_clip(real_videos[name], options=options)
        kinds = np.array(list(clip.kinds))
        cuts = np.isin(np.arange(len(kinds)), clip.scene_cuts)
        window = MotionWindow(0, clip.motion, clip.coverage, kinds == "I", kinds == "B", cuts)
        windows.append((window, clip.display_rect[2:]))
    return windows


def test_clips_of_real_videos(real_windows):
    rng = np.random.default_rng(0)
    clips = []
    for window, display_size in real_windows:
        stride = min(4, (len(window.motion) - 1) // 15)
        crop = random_crop(rng, window, side=28) | {"display_size": display_size}
        sampled = int(rng.integers(len(window.motion) - 15 * stride)) + np.arange(16) * stride
        clips.append((window, {"sampled": sampled, "subclip_frames": 8} | crop))
    _, motion, valid = assert_right(clips, query_stride=2)
    assert 0.2 < valid.float().mean() < 1
    assert motion.any()


def test_a_small_clip_beside_a_large_one_keeps_its_own_border():
    """Inversion looks beyond the border and comes back: what it finds there is the border."""
    rng = np.random.default_rng(1)
    clips = [random_clip(rng, longest=80) for _ in range(60)]
    for window, _ in clips:
        window.coverage[~window.is_intra_frame] = 1
        window.is_scene_cut[:] = False
    assert_right(clips, query_stride=1)


def test_padding_plays_no_part():
    """Neither its blocks, which would count as predicted, nor its frames."""
    rng = np.random.default_rng(2)
    clips = [random_clip(rng) for _ in range(12)]
    for window, _ in clips:
        window.coverage[::3] &= rng.random(window.coverage[::3].shape) < 0.4
    batch, motion, valid = assert_right(clips, query_stride=2)
    for number, (window, _) in enumerate(clips):
        frames, (rows, columns) = int(batch.num_frames[number]), window.coverage.shape[2:]
        for plane in (batch.motion, batch.coverage):
            kept = plane[number, :frames, :rows, :columns].clone()
            plane[number] = 77
            plane[number, :frames, :rows, :columns] = kept
        batch.is_scene_cut[number, frames:] = True
    again = accumulated_motion(batch, query_stride=2)
    assert torch.equal(again[0], motion)
    assert torch.equal(again[1], valid)


def test_an_intra_frame_at_the_end_takes_the_motion_after_the_clip():
    window = random_window(np.random.default_rng(1), gop=40, longest=8)
    window.is_intra_frame[:] = False
    window.is_scene_cut[:] = False
    window.coverage[:] = 1
    window.is_intra_frame[4] = True
    window.coverage[4], window.motion[4] = 0, 0
    window.motion[5] = (8, 0)
    rows, columns = window.coverage.shape[2:]
    asked = {
        "sampled": window.first_frame + np.array([3, 4]),
        "subclip_frames": 2,
        "display_size": (columns * 8, rows * 8),
        "cells": np.array([[0]]),
        "linear": np.eye(2, dtype=np.float32),
    }
    clip = make(window, asked)
    assert len(clip.motion) == 3
    _, motion, valid = assert_right([(window, asked)], query_stride=1)
    assert motion[0, 1, :, 0, 0, 0].tolist() == [2.0, 0.0]
    assert valid[0, 1].all()


def test_vectors_are_turned_by_a_map_that_is_not_diagonal():
    window, asked = random_clip(np.random.default_rng(8))
    straight = collate_motion([make(window, asked | {"linear": np.eye(2, dtype=np.float32)})])
    motion, valid = accumulated_motion(straight, query_stride=1)
    turn = np.array([[0.5, -2.0], [1.5, 0.25]], np.float32)
    clip = make(window, asked | {"linear": turn})
    turned, same = accumulated_motion(collate_motion([clip]), query_stride=1)
    assert torch.equal(valid, same)
    assert motion.any()
    wanted = torch.einsum("ab,zqbjyx->zqajyx", torch.from_numpy(turn), motion)
    torch.testing.assert_close(turned, wanted)
    alone = accumulated_clip(clip, query_stride=1)
    np.testing.assert_allclose(alone.motion, turned[0].numpy(), rtol=1e-5, atol=1e-4)


def test_it_compiles_to_one_graph():
    rng = np.random.default_rng(5)
    clips = [random_clip(rng, subclip_frames=3) for _ in range(2)]
    compiled = torch.compile(accumulated_motion, fullgraph=True, backend="eager")
    assert_right(clips, query_stride=2, run=compiled)


def test_inputs_are_left_as_they_are():
    clips = [random_clip(np.random.default_rng(6))]
    batch = collate_motion([make(*clip) for clip in clips])
    before = pickle.dumps(batch)
    accumulated_motion(batch, query_stride=1)
    assert pickle.dumps(batch) == before


def test_a_batch_travels_whole():
    batch = collate_motion([make(*random_clip(np.random.default_rng(9)))])
    for other in (batch.to("cpu"), pickle.loads(pickle.dumps(batch))):
        assert other.gaps == batch.gaps
        assert all(map(torch.equal, other._tensors(), batch._tensors()))
    assert batch.num_bytes > batch.motion.nbytes + batch.coverage.nbytes
    assert batch.to("meta").motion.device.type == "meta"


def test_b_frames_are_refused():
    window, asked = random_clip(np.random.default_rng(0))
    window.is_bidirectional[2] = True
    with pytest.raises(ValueError, match="B-frames.*--mode canonical"):
        make(window, asked)


def test_samples_that_the_window_does_not_hold_are_refused():
    window, asked = random_clip(np.random.default_rng(0))
    for wrong in (window.first_frame - 1, window.first_frame + len(window.motion)):
        with pytest.raises(ValueError, match="of the window"):
            make(window, asked | {"sampled": np.full(8, wrong)})
    falling = window.first_frame + np.array([1, 0, 2, 3, 4, 5, 6, 7])
    with pytest.raises(ValueError, match="must not fall"):
        make(window, asked | {"sampled": falling})


def test_the_rules_are_those_of_numpy_at_the_limit_of_a_scene_cut():
    """A P-frame of exactly 60 % intra blocks goes on, one block more starts a scene."""
    shape = (3, 1, 5, 6)
    window = MotionWindow(
        0,
        np.zeros((*shape, 2), np.int16),
        np.ones(shape, np.uint8),
        *(np.zeros(3, bool) for _ in range(3)),
    )
    window.coverage[1].reshape(-1)[:18] = 0
    window.coverage[2].reshape(-1)[:19] = 0
    asked = {
        "sampled": np.array([0, 1, 2]),
        "subclip_frames": 3,
        "display_size": (48, 40),
        "cells": np.arange(-6, 30).reshape(6, 6),
        "linear": np.eye(2, dtype=np.float32),
    }
    _, _, valid = assert_right([(window, asked)], query_stride=1)
    assert valid[0, 1, 0].sum() == 12
    assert not valid[0, 2, :2].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_every_time():
    rng = np.random.default_rng(7)
    batch = collate_motion([make(*random_clip(rng)) for _ in range(8)])
    motion, valid = accumulated_motion(batch, query_stride=2)
    for _ in range(3):
        moved = batch.pin_memory().to("cuda", non_blocking=True)
        found = accumulated_motion(moved, query_stride=2)
        assert torch.equal(found[0].cpu(), motion)
        assert torch.equal(found[1].cpu(), valid)
