import hashlib
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.probe import MAX_PIXELS, open_video
from gopstream.pipeline.transcode import (
    SIZE_CHANGE,
    CanonicalFormat,
    canonical_command,
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


# Hands over the beginning of a raw picture, and then nothing more.
STALLING_FFMPEG = """#!/bin/sh
echo $$ > '{pid}'
head -c {num_bytes} /dev/zero
exec sleep 1000
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("num_bytes", "num_frames"), [(0, 0), (100, 0), (9216, 1), (20000, 2)])
def test_a_stalled_ffmpeg_is_stopped(facts, tmp_path, num_bytes, num_frames):
    fake = tmp_path / "ffmpeg"
    fake.write_text(STALLING_FFMPEG.format(pid=tmp_path / "pid", num_bytes=num_bytes))
    fake.chmod(0o755)
    before = children()
    frames = transcode_frames(
        facts,
        tmp_path / "a.nut",
        canonical=CanonicalFormat(),
        binary=str(fake),
        stall_seconds=0.5,
    )
    message = rf"small\.mp4: no progress for 0\.5 s after {num_frames} frames; FFmpeg was stopped"
    with pytest.raises(TranscodeError, match=message):
        list(frames)
    assert children() == before
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


# All pictures come, but the process does not end.
LINGERING_FFMPEG = """#!/bin/sh
head -c 9216 /dev/zero
exec sleep 1000 >/dev/null
"""


def test_an_ffmpeg_that_does_not_end_is_stopped(facts, tmp_path):
    fake = tmp_path / "ffmpeg"
    fake.write_text(LINGERING_FFMPEG)
    fake.chmod(0o755)
    frames = transcode_frames(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary=str(fake), stall_seconds=0.5
    )
    with pytest.raises(TranscodeError, match="no progress for 0.5 s after 1 frames"):
        list(frames)


@pytest.mark.parametrize("num_bytes", [0, 9216 + 100])
def test_half_a_picture_at_the_end_is_an_error(facts, tmp_path, num_bytes):
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\nhead -c {num_bytes} /dev/zero\n")
    fake.chmod(0o755)
    frames = transcode_frames(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary=str(fake)
    )
    with pytest.raises(TranscodeError, match="FFmpeg ended with status 0 after .*said nothing"):
        list(frames)


def complaints_of(path, tmp_path):
    complaints = []
    frames = transcode_frames(
        open_video(path),
        tmp_path / "a.nut",
        canonical=CanonicalFormat(),
        binary=default_ffmpeg(),
        complaints=complaints,
    )
    count = sum(1 for _ in frames)
    return count, complaints


def test_a_sound_source_has_no_complaints(small_video, odd_video, rotated_video, tmp_path):
    for path in (small_video, odd_video, rotated_video):
        assert complaints_of(path, tmp_path)[1] == []


def test_a_damaged_source_has_complaints_without_addresses(small_video, tmp_path):
    with av.open(str(small_video)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][4]
        start, size = packet.pos, packet.size
    content = bytearray(small_video.read_bytes())
    content[start : start + size] = bytes(size)
    path = tmp_path / "hole.mp4"
    path.write_bytes(content)
    count, complaints = complaints_of(path, tmp_path)
    assert count > 0
    assert complaints
    assert not any("0x" in line for line in complaints)
    assert complaints_of(path, tmp_path) == (count, complaints)


def test_a_size_change_is_a_complaint_of_its_own(resized_video, tmp_path):
    count, complaints = complaints_of(resized_video, tmp_path)
    assert count == 60
    assert complaints
    assert all(SIZE_CHANGE in line for line in complaints)


def interlace(source, path):
    words = ["-vf", "tinterlace=interleave_top,fieldorder=tff", "-c:v", "mpeg2video"]
    words += ["-flags", "+ilme+ildct", "-q:v", "2"]
    subprocess.run([default_ffmpeg(), "-v", "error", "-i", source, *words, path], check=True)
    return path


def test_interlaced_frames_are_deinterlaced_and_others_are_not_touched(small_video, tmp_path):
    """Comb lines of moving pictures: neighbouring rows differ more than those two apart."""
    path = interlace(small_video, tmp_path / "i.ts")
    facts = open_video(path)
    assert facts.may_be_interlaced

    def comb(facts):
        frames = transcode_frames(
            facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary=default_ffmpeg()
        )
        rows = np.stack([picture[:64].astype(int) for picture in frames])
        return np.abs(np.diff(rows, axis=1)).mean(), len(rows)

    touched, count = comb(facts)
    raw, raw_count = comb(replace(facts, may_be_interlaced=False))
    assert count == raw_count == 15  # send_frame: none is added
    assert touched < 0.8 * raw

    progressive = open_video(small_video)
    assert not progressive.may_be_interlaced
    plain = transcode(progressive, tmp_path / "b.nut")
    assert transcode(replace(progressive, may_be_interlaced=True), tmp_path / "c.nut") == plain


def test_the_deinterlacer_is_in_the_chain_only_where_it_may_be_needed(facts, tmp_path):
    for may_be, count in ((False, 0), (True, 1)):
        command = canonical_command(
            replace(facts, may_be_interlaced=may_be),
            tmp_path / "a.nut",
            canonical=CanonicalFormat(),
            binary="ffmpeg",
        )
        assert " ".join(command).count("bwdif") == count


def test_pictures_beyond_the_largest_of_h264_are_refused(facts, tmp_path, monkeypatch):
    """A header may claim any size; FFmpeg must not allocate it."""
    command = canonical_command(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary="ffmpeg"
    )
    place = command.index("-max_pixels")
    assert command[place + 1] == str(MAX_PIXELS) == "35651584"
    assert place < command.index("-i")
    monkeypatch.setattr("gopstream.pipeline.transcode.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(TranscodeError, match=r"small\.mp4: FFmpeg ended with status"):
        transcode(facts, tmp_path / "b.nut")


def test_only_local_files_are_opened(facts, tmp_path):
    command = canonical_command(
        facts, tmp_path / "a.nut", canonical=CanonicalFormat(), binary="ffmpeg"
    )
    assert command[command.index("-protocol_whitelist") + 1] == "file"
    assert command[command.index("-i") + 1] == f"file:{facts.path}"
