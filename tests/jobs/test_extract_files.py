"""The files of one video are its clip: arrays that NumPy opens, JPEGs, and a JSON written last."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gopstream.jobs.errors import UserError
from gopstream.jobs.extract_files import CLIP_FILE, extract_to_folder
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.errors import BitstreamError, NotAVideoError
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import default_ffmpeg

NATIVE = ExtractionOptions(mode="native", segment_frames=12)
CANONICAL = ExtractionOptions(segment_frames=12)
RESIDUAL_FILES = ["residual_cb.npy", "residual_cr.npy", "residual_y.npy"]


def extract(video, folder, options, on_frames=lambda count: None):
    return extract_to_folder(
        video, folder, options=options, ffmpeg_binary=default_ffmpeg(), on_frames=on_frames
    )


def load(folder, name):
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def assert_files_are_the_clip(folder, clip):
    for name in ("motion", "coverage", "pts"):
        array = load(folder, name)
        np.testing.assert_array_equal(array, getattr(clip, name))
        assert array.dtype == getattr(clip, name).dtype
    frames = sorted(path.name for path in (folder / "frames").iterdir())
    assert frames == [f"{frame:06d}.jpg" for frame in clip.frame_index_of_jpeg.tolist()]
    jpegs = [(folder / "frames" / name).read_bytes() for name in frames]
    assert jpegs == clip.jpegs
    content = json.loads((folder / CLIP_FILE).read_text())
    assert content["frames"] == clip.num_frames
    assert content["frame_types"] == clip.kinds
    assert content["time_base"] == [clip.time_base.numerator, clip.time_base.denominator]
    assert content["coded_size"] == list(clip.coded_size)
    assert content["display_rect"] == list(clip.display_rect)
    assert content["frame_size"] == list(clip.frame_size)
    assert content["frame_index_of_jpeg"] == clip.frame_index_of_jpeg.tolist()
    assert content["exactness"] == clip.exactness
    assert content["damaged_frames"] == list(clip.damaged_frames)
    return content


def test_native_files_are_the_clip_however_it_was_cut(small_video, tmp_path):
    """Read in three segments; the whole in one."""
    content = extract(small_video, tmp_path / "out", NATIVE)
    clip = extract_clip(small_video, options=NATIVE)
    assert assert_files_are_the_clip(tmp_path / "out", clip) == content
    assert load(tmp_path / "out", "motion").shape == (30, 2, 8, 12, 2)
    assert content["files"] == ["coverage.npy", "motion.npy", "pts.npy"]
    assert content["video"] == "small.mp4"
    assert (content["mode"], content["backend"]) == ("native", "pyav")
    assert content["fps"] == pytest.approx(25)
    assert content["warnings"] == list(clip.warnings)


def test_canonical_files_hold_the_signed_residual(odd_video, tmp_path):
    """Frames come back by plain addition, without any modulo."""
    folder = tmp_path / "out"
    content = extract(odd_video, folder, CANONICAL)
    clip = extract_clip(odd_video, options=CANONICAL)
    assert_files_are_the_clip(folder, clip)
    assert set(RESIDUAL_FILES) < set(content["files"])
    residual = [load(folder, f"residual_{name}") for name in ("y", "cb", "cr")]
    assert [plane.dtype for plane in residual] == [np.int16] * 3
    assert [plane.shape for plane in residual] == [(14, 64, 96), (14, 32, 48), (14, 32, 48)]
    wrapped = np.concatenate([p.reshape(14, -1) for p in residual], axis=1).astype(np.uint8)
    np.testing.assert_array_equal(wrapped, clip.residual.planes)
    motion, coverage = load(folder, "motion"), load(folder, "coverage")
    reference = None
    for frame in range(14):
        signed = [plane[frame] for plane in residual]
        blank = Planes(*(np.zeros(plane.shape, np.uint8) for plane in signed))
        predicted = predict_planes(reference or blank, motion[frame, 0], coverage[frame, 0])
        sums = [p.astype(int) + r for p, r in zip(predicted, signed, strict=True)]
        assert all(plane.min() >= 0 and plane.max() <= 255 for plane in sums)
        reference = Planes(*(plane.astype(np.uint8) for plane in sums))


def test_values_outside_of_int8_are_whole_in_the_files(small_video, tmp_path):
    """A square of the small video blinks between black and white."""
    extract(small_video, tmp_path / "out", CANONICAL)
    exceptions = extract_clip(small_video, options=CANONICAL).residual.exceptions
    assert len(exceptions)
    planes = [load(tmp_path / "out", f"residual_{name}") for name in ("y", "cb", "cr")]
    for frame, plane, y, x, value in exceptions.tolist():
        assert planes[plane][frame, y, x] == value
    outside = sum(int(((plane < -128) | (plane > 127)).sum()) for plane in planes)
    assert outside == len(exceptions)


def test_frames_open_as_pictures(small_video, tmp_path):
    extract(small_video, tmp_path / "out", NATIVE)
    with Image.open(BytesIO((tmp_path / "out/frames/000029.jpg").read_bytes())) as picture:
        assert picture.size == (96, 64)


@pytest.mark.parametrize("stride", [7, 40])
def test_stored_frames_keep_their_numbers_in_the_video(small_video, tmp_path, stride):
    content = extract(small_video, tmp_path / "out", replace(NATIVE, frame_stride=stride))
    names = sorted(path.name for path in (tmp_path / "out" / "frames").iterdir())
    assert names == [f"{frame:06d}.jpg" for frame in range(0, 30, stride)]
    assert content["frame_index_of_jpeg"] == list(range(0, 30, stride))


def test_motion_alone_makes_no_frames_and_no_residual(odd_video, tmp_path):
    content = extract(odd_video, tmp_path / "out", replace(CANONICAL, planes=("motion",)))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"motion.npy", "coverage.npy", "pts.npy", CLIP_FILE}
    assert content["frame_index_of_jpeg"] == []


def test_progress_counts_frames(small_video, tmp_path):
    counts = []
    extract(small_video, tmp_path / "out", NATIVE, counts.append)
    assert counts == [12, 24, 30]


def test_headers_are_right_however_many_frames_there_are(tmp_path, write_video):
    """The length is written last, into room that the header left."""
    for num_frames in (1, 9, 10, 101):
        video = write_video(tmp_path / f"{num_frames}.mp4", num_frames, width=32, height=32)
        extract(video, tmp_path / str(num_frames), replace(NATIVE, planes=("motion",)))
        path = tmp_path / str(num_frames) / "motion.npy"
        array = np.load(path)
        assert len(array) == num_frames
        assert (path.stat().st_size - array.nbytes) % 64 == 0


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(small_video, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        extract(small_video, tmp_path, NATIVE)
    with pytest.raises(UserError, match="is not empty"):
        extract(small_video, tmp_path / "note.txt", NATIVE)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_folder_will_do(small_video, tmp_path):
    (tmp_path / "out").mkdir()
    extract(small_video, tmp_path / "out", NATIVE)
    assert (tmp_path / "out" / CLIP_FILE).exists()


def test_what_is_no_video_leaves_no_folder(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("words")
    with pytest.raises(NotAVideoError):
        extract(path, tmp_path / "out", NATIVE)
    assert not (tmp_path / "out").exists()


def test_a_video_that_fails_on_the_way_has_no_json(resized_video, tmp_path):
    """Readers look for it: without it a folder is not whole. The size changes at frame 30."""
    with pytest.raises((BitstreamError, ValueError)):
        extract(resized_video, tmp_path / "out", NATIVE)
    assert not (tmp_path / "out" / CLIP_FILE).exists()
