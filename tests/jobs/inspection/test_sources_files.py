import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

from gopstream.jobs.inspection.dump_clip import DumpClip
from gopstream.jobs.inspection.folder_clip import FolderClip
from gopstream.jobs.inspection.video_clip import VideoClip
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.mvextractor_backend import TABLE_COLUMNS
from gopstream.pipeline.mvextractor_dump import DumpFrame, write_dump
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.sample_parts import signed_residual
from inspection_cases import (
    make_dump,
    make_exact_video,
    make_extract_folder,
    make_video,
    same_parts,
)

CANONICAL = CanonicalFormat(short_side=64)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        "b_frames": make_video(folder, b_frames=True),
        "p_only": make_video(folder),
        "exact": make_exact_video(folder),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, videos):
    """A canonical extraction of which every third picture is stored."""
    options = ExtractionOptions(canonical=CANONICAL, frame_stride=3)
    target = tmp_path_factory.mktemp("extract") / "folder"
    return make_extract_folder(videos["b_frames"], target, options=options)


def table(*rows):
    """A table of vectors: (source, w, h, dst_x, dst_y, motion_x, motion_y) each."""
    made = np.zeros((len(rows), len(TABLE_COLUMNS)), np.int32)
    chosen = [0, 1, 2, 5, 6, 7, 8]
    made[:, chosen] = np.array(rows, np.int32).reshape(-1, len(chosen))
    made[:, 9] = 4
    return made


# Folders of gopstream extract


def test_folder_shows_what_was_extracted(folder, videos):
    clip = FolderClip(folder)
    options = ExtractionOptions(canonical=CANONICAL, frame_stride=3)
    extracted = extract_clip(videos["b_frames"], options=options)
    facts, frames = clip.facts, list(clip.frames())
    assert (facts.source, facts.mode, facts.name) == ("folder", "canonical", "b_frames.mp4")
    assert (facts.kinds, facts.exactness) == (extracted.kinds, "exact")
    assert facts.planes == {"frames", "motion", "residual"}
    np.testing.assert_allclose(facts.times, np.arange(12) / 25, atol=1e-9)
    np.testing.assert_array_equal([f.motion.motion for f in frames], extracted.motion)
    np.testing.assert_array_equal([f.motion.coverage for f in frames], extracted.coverage)
    expected = signed_residual(
        extracted.residual.planes,
        extracted.residual.exceptions.astype(np.int64),
        first_frame=0,
        frames=np.arange(12),
        coded_size=extracted.coded_size,
    )
    for number in range(3):
        np.testing.assert_array_equal([f.residual[number] for f in frames], expected[number])
    assert np.abs(expected[0]).max() > 10


def test_folder_shows_the_stored_picture_before_a_frame(folder):
    clip = FolderClip(folder)
    frames = list(clip.frames(4, 8))
    assert [frame.picture_of for frame in frames] == [3, 3, 6, 6]
    for frame in frames:
        stored = simplejpeg.decode_jpeg(
            (folder / f"frames/{frame.picture_of:06d}.jpg").read_bytes()
        )
        np.testing.assert_array_equal(frame.picture, stored)


def change(path, **values):
    """Give entries of a JSON file other values."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "motion.npy").unlink(), r"motion.npy: is missing"),
        (
            lambda f: np.save(f / "motion.npy", np.zeros(3, np.int16)),
            r"motion.npy: expected \(12, ",
        ),
        (lambda f: np.save(f / "pts.npy", np.array([{}])), r"pts.npy: not a whole NumPy file"),
        (lambda f: (f / "coverage.npy").write_bytes(b"\x93NUM"), r"coverage.npy: not a whole"),
        (lambda f: (f / "clip.json").write_text("{}"), r"clip.json: not that of an extraction"),
        (lambda f: (f / "clip.json").write_text("["), r"clip.json: not valid JSON"),
        (
            lambda f: change(f / "clip.json", display_rect=[0, 0, 64, 66]),
            r"clip.json: not .*display_rect \[0, 0, 64, 66\] outside of \(64, 64\)",
        ),
    ],
)
def test_broken_folder_is_refused_by_file(folder, tmp_path, break_it, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    break_it(copy)
    with pytest.raises(BitstreamError, match=message):
        FolderClip(copy)


def test_missing_picture_of_a_folder_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "frames/000003.jpg").unlink()
    clip = FolderClip(copy)
    assert next(clip.frames(2)).picture_of == 0
    with pytest.raises(BitstreamError, match=r"000003.jpg: is missing"):
        list(clip.frames())


# Dumps of mvextractor


def test_dump_of_a_video_shows_its_vectors_and_motion(videos, tmp_path):
    video = VideoClip(videos["b_frames"])
    dump = DumpClip(make_dump(videos["b_frames"], tmp_path / "dump"))
    assert dump.facts.kinds == video.facts.kinds
    assert (dump.facts.coded_size, dump.facts.num_lists) == (video.facts.coded_size, 2)
    assert dump.facts.planes == {"frames", "motion", "vectors"}
    for ours, theirs in zip(dump.frames(), video.frames(), strict=True):
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
        assert np.abs(ours.picture.astype(int) - theirs.picture).mean() < 8  # JPEG
    same_parts(dump.frames(3, 9), video.frames(3, 9), parts=("motion",))


def test_what_is_written_as_a_dump_is_read_the_same(videos, tmp_path):
    first = DumpClip(make_dump(videos["b_frames"], tmp_path / "first", with_pictures=False))
    again = (DumpFrame(frame.kind, frame.vectors) for frame in first.frames())
    assert write_dump(tmp_path / "second", again) == 12
    second = DumpClip(tmp_path / "second")
    assert second.facts.kinds == first.facts.kinds
    for ours, theirs in zip(second.frames(), first.frames(), strict=True):
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    for path in (tmp_path / "first").rglob("*.*"):
        same = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert same.read_bytes() == path.read_bytes()


def test_dump_by_mvextractor_itself_is_the_video(videos, tmp_path):
    pytest.importorskip("mvextractor.videocap", reason="mvextractor is not installed")
    command = [sys.executable, "-m", "mvextractor", videos["p_only"], "--dump", tmp_path / "dump"]
    subprocess.run(command, check=True, capture_output=True)
    dump, video = DumpClip(tmp_path / "dump"), VideoClip(videos["p_only"])
    assert dump.facts.kinds == video.facts.kinds
    assert dump.facts.display_rect == video.facts.display_rect
    same_parts(dump.frames(), video.frames(), parts=("motion",))
    for ours, theirs in zip(dump.frames(), video.frames(), strict=True):
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
        assert ours.picture.shape == theirs.picture.shape


def test_dump_without_pictures_has_the_size_that_its_blocks_reach(tmp_path):
    frames = [
        DumpFrame("I", table()),
        DumpFrame("?", table((-1, 16, 16, 40, 8, 4, -8))),
        DumpFrame("P", table((-1, 8, 8, 4, 36, 4, 0))),
    ]
    write_dump(tmp_path / "dump", frames)
    facts = DumpClip(tmp_path / "dump").facts
    assert (facts.coded_size, facts.display_rect) == ((48, 48), (0, 0, 48, 48))
    assert (facts.kinds, facts.num_lists) == ("I?P", 1)
    assert "the kind of 1 frames is not known" in facts.warnings
    motion = [frame.motion for frame in DumpClip(tmp_path / "dump").frames()]
    assert motion[1].motion[0, 1, 5].tolist() == [4, -8]
    assert motion[1].coverage.sum() == 4
    assert motion[2].coverage[0, 4, 0] == motion[2].coverage.sum() == 1


def test_vectors_that_make_no_field_are_kept_without_one(tmp_path):
    odd = table((-1, 8, 8, 7, 4, 0, 0))
    good = table((-1, 8, 8, 4, 4, 1, 1))
    write_dump(tmp_path / "dump", [DumpFrame("P", odd), DumpFrame("P", good)])
    clip = DumpClip(tmp_path / "dump")
    assert (
        "1 of 2 frames have no motion field: a predicted block does not lie on the 8x8 grid"
    ) in clip.facts.warnings
    first, second = clip.frames()
    assert first.motion is None
    np.testing.assert_array_equal(first.vectors, odd)
    assert second.motion.coverage.any()


@pytest.mark.parametrize(("width", "height"), [(16, 32), (-8, 8), (8, 0), (1 << 20, 1 << 20)])
def test_dump_with_blocks_that_no_decoder_exports_is_refused(tmp_path, width, height):
    good = (-1, 8, 8, 4, 4, 1, 1)
    frames = [table(good), table(good, (-1, width, height, 8, 8, 0, 0))]
    write_dump(tmp_path / "dump", [DumpFrame("P", frame) for frame in frames])
    with pytest.raises(BitstreamError, match=rf"frame 1: a block of {width} x {height} pixels"):
        DumpClip(tmp_path / "dump")


def test_dump_whose_blocks_reach_nowhere_is_refused(tmp_path):
    write_dump(tmp_path / "dump", [DumpFrame("P", table((-1, 16, 16, 2_000_000, 8, 0, 0)))])
    with pytest.raises(BitstreamError, match=r"a block of frame 0 ends at \(2000008, 16\)"):
        DumpClip(tmp_path / "dump")
