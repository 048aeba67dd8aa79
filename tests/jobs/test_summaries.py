import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from gopstream.jobs.errors import UserError
from gopstream.jobs.publish import SplitOutcome
from gopstream.jobs.shard_summaries import shard_summary
from gopstream.jobs.summaries import counted, fact_table, megabytes, render
from gopstream.jobs.video_summary import clip_shape, video_summary
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.shards.dataset_files import FileRecord, Manifest, ShardRecord


def test_shard_summary_counts_and_names_failures():
    files = {"000000.tar": FileRecord(1_500_000, "")}
    manifest = Manifest("train", (ShardRecord("000000", 3, files),), {"a": 3}, 4, 1)
    failure = {"source": "x [1].mp4", "stage": "probe", "message": "no video [here]"}
    warned = tuple({"source": f"{i}.mp4", "warnings": ["one", "two"]} for i in range(22))
    text, content = shard_summary([SplitOutcome(manifest, (failure,), warned)])
    assert "train: 3 of 4 videos became 3 samples in 1 shards, 1.5 MB" in text
    assert "failed: x [1].mp4: probe: no video [here]" in text
    assert "warned: 19.mp4: one; two" in text
    assert "20.mp4" not in text
    assert "and 2 more with warnings" in text
    assert content["splits"]["train"].pop("warned")["21.mp4"] == ["one", "two"]
    assert content["samples"] == 3
    assert content["splits"]["train"] == {
        "videos": 4,
        "failed": 1,
        "failures": [failure],
        "samples": 3,
        "shards": 1,
        "bytes": 1_500_000,
    }


def test_long_lines_are_not_cut():
    assert render("x" * 500) == "x" * 500
    assert render("[bold]as it is[/bold]") == "[bold]as it is[/bold]"


@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (200, 200), (0, 110)])
def test_tables_are_as_wide_as_the_terminal(columns, widest):
    ours, its_own = pty.openpty()
    fcntl.ioctl(its_own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = (
        "from gopstream.jobs.summaries import fact_table, render\n"
        "print(render(fact_table({'name': 'word ' * 100})))"
    )
    subprocess.run([sys.executable, "-c", code], stdout=its_own, check=True)
    lines = os.read(ours, 4096).splitlines()
    os.close(its_own)
    os.close(ours)
    assert max(map(len, lines)) in range(widest - 4, widest + 1)


def test_one_of_something_has_no_plural():
    assert [counted(number, "frame") for number in (0, 1, 1234)] == [
        "0 frames",
        "1 frame",
        "1,234 frames",
    ]


def test_facts_and_sizes():
    assert render(fact_table({"name": 3})).split() == ["name", "3"]
    assert megabytes(1_234_567_890) == "1,234.6 MB"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("16x4", (16, 4, 8)),
        ("8x1", (8, 1, 8)),
        ("12x2", (12, 2, 12)),  # not whole sub-clips of eight: one of twelve
        ("2x1", (2, 1, 2)),
        ("64x16", (64, 16, 8)),
    ],
)
def test_a_clip_shape_is_frames_times_stride_in_sub_clips_of_eight(text, shape):
    found = clip_shape(text)
    assert (found.num_frames, found.stride, found.subclip_frames) == shape


@pytest.mark.parametrize("text", ["16", "x4", "1x4", "16x0", "16x-1", "16 x 4", "16x4x2", ""])
def test_what_is_no_clip_shape_is_refused(text):
    with pytest.raises(UserError, match="--clip must be frames x stride, such as 16x4"):
        clip_shape(text)


def test_the_summary_of_a_video_has_the_same_facts_as_text_and_as_json(odd_video):
    text, content = video_summary(odd_video, shape=None, ffmpeg_binary=default_ffmpeg())
    assert "odd.avi" in text
    assert "0 (mpeg4)" in text
    assert "84x52, pixels 1, turned by 0 degrees" in text
    assert "mpeg4: 14 packets" in text
    assert "mpeg4: its interpolation is not that of H.264" in text
    assert content["file"]["codec"] == content["stream"]["codec"] == "mpeg4"
    assert content["file"]["sample_aspect_ratio"] == "1"
    assert content["stream"]["profile"] is None
    assert content["stream"]["exact"] is False
    assert "pairs" not in content
    assert json.loads(json.dumps(content))["file"]["width"] == 84


def test_the_summary_of_a_turned_video_tells_the_rotation(rotated_video):
    text, content = video_summary(rotated_video, shape=None, ffmpeg_binary=default_ffmpeg())
    degrees = content["file"]["rotation"]
    assert degrees in (90, 270)
    assert f"turned by {degrees} degrees" in text


def test_the_summary_of_a_real_stream_in_a_later_track(real_videos):
    path = real_videos["nasa_320x180_h264_high_bframes.mp4"]
    text, content = video_summary(path, shape=None, ffmpeg_binary=default_ffmpeg())
    assert "3 (h264)" in text
    assert content["stream"]["num_b"] > 0
