import hashlib
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.probe import open_video
from gopstream.pipeline.transcode import (
    CanonicalFormat,
    canonical_matrix,
    canonical_size,
    default_ffmpeg,
    ffmpeg_version,
    transcode_frames,
)

# Runs FFmpeg as on a processor without any vector instructions.
PLAIN_FFMPEG = """#!/bin/sh
for argument do
  shift
  case $argument in weightp=*) argument=$argument:asm=0 ;; esac
  set -- "$@" "$argument"
done
exec '{binary}' -cpuflags 0 "$@"
"""


@pytest.fixture(scope="module")
def facts(small_video):
    return open_video(small_video)


def transcode(facts, stream_path, binary=None, **options):
    frames = hashlib.sha256()
    count = 0
    for picture in transcode_frames(
        facts,
        stream_path,
        canonical=CanonicalFormat(**options),
        binary=binary or default_ffmpeg(),
    ):
        frames.update(picture.tobytes())
        count += 1
    return count, frames.hexdigest(), hashlib.sha256(stream_path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("source", "short_side", "expected"),
    [
        ((1920, 1080), 256, (456, 256)),  # 455.1
        ((1280, 720), 256, (456, 256)),
        ((640, 480), 256, (342, 256)),  # 341.3
        ((340, 256), 256, (340, 256)),
        ((320, 180), 256, (320, 180)),  # never enlarged
        ((85, 49), 256, (84, 48)),  # odd sides become even: 48 * 85 / 49 = 83.3
        ((720, 1280), 256, (256, 456)),
        ((100, 100), 64, (64, 64)),
        ((1280, 720), 255, (452, 254)),  # 451.6
    ],
)
def test_the_short_side_is_limited_and_both_are_even(facts, source, short_side, expected):
    sized = replace(facts, width=source[0], height=source[1])
    assert canonical_size(sized, short_side) == expected


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [(0, (456, 256)), (90, (256, 456)), (180, (456, 256)), (270, (256, 456))],
)
def test_a_turned_video_stands_upright(facts, rotation, expected):
    turned = replace(facts, width=1280, height=720, rotation=rotation)
    assert canonical_size(turned, 256) == expected


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        ((352, 288), Fraction(16, 11), (456, 256)),  # 512x288 with square pixels
        ((720, 576), Fraction(16, 15), (342, 256)),  # 768x576
        ((352, 288), Fraction(1, 2), (176, 288)),  # 176x288: upright, not enlarged
    ],
)
def test_pixels_become_square(facts, size, aspect, expected):
    stored = replace(facts, width=size[0], height=size[1], sample_aspect_ratio=aspect)
    assert canonical_size(stored, 256) == expected


def test_a_picture_that_would_be_too_long_is_refused(facts):
    with pytest.raises(TranscodeError, match="16384"):
        canonical_size(replace(facts, width=40000, height=256), 256)


@pytest.mark.parametrize(
    ("matrix", "kept"),
    [("bt709", "bt709"), ("unspecified", "smpte170m"), ("gbr", "smpte170m")],
)
def test_a_known_matrix_is_kept_and_others_become_bt601(facts, matrix, kept):
    assert canonical_matrix(replace(facts, matrix=matrix)) == kept


@pytest.mark.parametrize("options", [{"crf": 0}, {"crf": 52}, {"gop": 0}, {"short_side": 15}])
def test_what_x264_would_change_silently_is_refused(options):
    with pytest.raises(ValueError, match="must be between"):
        CanonicalFormat(**options)


def test_the_stream_has_one_i_frame_per_gop_and_only_p_frames_between(facts, tmp_path):
    count, _, _ = transcode(facts, tmp_path / "a.nut")
    with open_coded(tmp_path / "a.nut") as stream:
        kinds = "".join(frame.kind for frame in stream.frames)
    assert count == 30
    assert kinds == ("I" + 11 * "P") * 2 + "IPPPPP"


def test_two_runs_give_the_same_bytes(facts, tmp_path):
    assert transcode(facts, tmp_path / "a.nut") == transcode(facts, tmp_path / "b.nut")


def test_a_processor_without_vector_instructions_gives_the_same_bytes(facts, tmp_path):
    wrapper = tmp_path / "ffmpeg"
    wrapper.write_text(PLAIN_FFMPEG.format(binary=default_ffmpeg()))
    wrapper.chmod(0o755)
    # 48 instead of 64 rows: the scaler works too.
    here = transcode(facts, tmp_path / "a.nut", short_side=48)
    there = transcode(facts, tmp_path / "b.nut", short_side=48, binary=str(wrapper))
    assert here == there


def test_other_names_and_places_of_the_source_give_the_same_bytes(facts, tmp_path):
    odd_name = tmp_path / "a b:c%d'[0].mp4"
    shutil.copy(facts.path, odd_name)
    moved = transcode(open_video(odd_name), tmp_path / "a.nut")
    assert moved == transcode(facts, tmp_path / "b.nut")


def test_a_binary_that_does_not_run_is_named(tmp_path):
    with pytest.raises(TranscodeError, match="no-such-ffmpeg"):
        ffmpeg_version(str(tmp_path / "no-such-ffmpeg"))


def test_a_failure_carries_the_last_words_of_ffmpeg(facts, tmp_path):
    broken = replace(facts, path=tmp_path / "gone.mp4")
    with pytest.raises(TranscodeError, match=r"gone\.mp4.*No such file"):
        transcode(broken, tmp_path / "a.nut")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_giving_up_early_leaves_no_process(facts, tmp_path):
    frames = transcode_frames(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary=default_ffmpeg()
    )
    before = children()
    next(frames)
    assert len(children() - before) == 1
    frames.close()
    assert children() == before


def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}
