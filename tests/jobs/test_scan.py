"""Protects the rows of a scan: one per video, the same however the work was done."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from gopstream.jobs import scan_video as scan_video_module
from gopstream.jobs.conformance.check import SUITE
from gopstream.jobs.errors import UserError
from gopstream.jobs.scan import list_videos, scan, scan_summary
from gopstream.jobs.scan_journal import VideoKey, append_row, open_journal, read_offsets
from gopstream.jobs.scan_video import SCHEMA, scan_video
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.transcode import default_ffmpeg

SCAN_ALL = """
import sys
from pathlib import Path
from gopstream.jobs.scan import scan
if __name__ == "__main__":
    scan(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory, small_video, odd_video, rotated_video, write_video):
    """Good videos, one without vectors, a damaged one, and a text."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    shutil.copy(small_video, folder / "deep" / "small.mp4")
    shutil.copy(odd_video, folder / "odd.avi")
    shutil.copy(rotated_video, folder / "rotated.mp4")
    write_video(folder / "vp9.webm", 12, codec="libvpx-vp9")
    (folder / "notes.mp4").write_text("this is no video")
    content = bytearray(small_video.read_bytes())
    middle = content.index(b"mdat") + 4 + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 400] = bytes(255 - byte for byte in content[middle : middle + 400])
    (folder / "broken.mp4").write_bytes(content)
    (folder / ".hidden").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def rows(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("scan") / "scan.parquet"
    scan(videos, out, workers=2)
    assert [path.name for path in out.parent.iterdir()] == ["scan.parquet"]
    return {row["name"]: row for row in pq.read_table(out).to_pylist()}


def quiet():
    return None


def row_of(path, **options):
    return scan_video(path, beat=quiet, **options)


def test_each_video_has_a_row_sorted_by_name(rows):
    names = ["broken.mp4", "deep/small.mp4", "notes.mp4", "odd.avi", "rotated.mp4", "vp9.webm"]
    assert list(rows) == names
    status = {name: row["status"] for name, row in rows.items()}
    assert status.pop("broken.mp4") == "warned"
    assert status.pop("notes.mp4") == "failed"
    assert set(status.values()) == {"ok"}


def test_row_has_the_facts_of_the_video(rows, videos):
    row = rows["deep/small.mp4"]
    assert row["bytes"] == (videos / "deep" / "small.mp4").stat().st_size
    assert (row["codec"], row["width"], row["height"]) == ("h264", 96, 64)
    assert (row["coded_width"], row["coded_height"]) == (96, 64)
    assert (row["num_frames"], row["num_coded_pictures"], row["num_packets"]) == (30, 30, 30)
    assert row["num_i"] + row["num_p"] + row["num_b"] == 30
    assert (row["fps"], row["duration_seconds"]) == (25, 1.2)
    assert (row["num_damaged_frames"], row["cut_frames"], row["num_cuts"]) == (0, [], 0)
    assert row["encoder"].startswith("x264")
    assert row["sha256"] is row["message"] is row["error"] is None
    assert rows["rotated.mp4"]["rotation"] == 90
    assert rows["odd.avi"]["codec"] == "mpeg4"


def test_motion_is_measured_where_vectors_are(rows):
    row = rows["deep/small.mp4"]
    assert row["motion_missing"] is None
    assert row["motion_kind"] == "P"
    assert row["motion_displacement"] > 0.5
    assert row["motion_num_predicted"] == row["num_p"] + row["num_b"]
    assert rows["odd.avi"]["motion_displacement"] > 0.5


def test_codec_without_vectors_says_so_and_still_has_cuts(rows):
    row = rows["vp9.webm"]
    assert row["motion_missing"] == "FFmpeg exports no vectors of vp9"
    assert row["motion_displacement"] is None
    assert (row["exports_motion"], row["num_frames"], row["num_cuts"]) == (False, 12, 0)


def test_failed_video_is_a_row_with_its_reason(rows):
    row = rows["notes.mp4"]
    assert row["error"] == "NotAVideoError"
    assert row["message"].startswith("notes.mp4: not a video")
    assert row["bytes"] == 16
    assert row["num_cuts"] is None


def test_damage_is_counted_and_makes_no_cuts(rows):
    row = rows["broken.mp4"]
    assert row["num_damaged_frames"] > 0
    assert f"{row['num_damaged_frames']} frames may show damage" in row["warnings"]
    assert row["cut_frames"] == []


@pytest.fixture
def joined_video(tmp_path, write_video):
    """Two shots of 21 and 20 frames; the second begins with a key frame."""
    parts = [
        write_video(tmp_path / f"part{seed}.mp4", count, velocity=(0, 0), seed=seed)
        for seed, count in ((0, 21), (7, 20))
    ]
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"file '{part}'\n" for part in parts))
    joined = tmp_path / "joined.mp4"
    command = [default_ffmpeg(), "-v", "error", "-f", "concat", "-safe", "0", "-i", listing]
    subprocess.run([*command, "-c", "copy", joined], check=True)
    return joined


def test_cut_is_at_its_frame_across_batches_of_frames(joined_video):
    row = row_of(joined_video)
    assert (row["num_frames"], row["cut_frames"]) == (41, [21])


def test_where_damage_ends_is_no_cut(joined_video):
    with av.open(str(joined_video)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(joined_video.read_bytes())
    for start, size in packets[15:21]:
        content[start + 5 : start + size] = b"\xff" * (size - 5)
    joined_video.write_bytes(content)
    row = row_of(joined_video)
    assert row["num_damaged_frames"] > 0
    assert row["cut_frames"] == []


def test_vectors_and_pictures_that_others_use_are_untouched_by_the_shortcut(small_video):
    """Without deblocking of unused pictures: the same vectors, and the same other pictures."""

    def frames(options):
        def on_packet(packet):
            packet.stream.codec_context.options |= options

        with open_coded(small_video, on_packet=on_packet) as stream:
            return [
                (frame.kind, frame.vectors is not None and frame.vectors.tolist(), luma_hash(frame))
                for frame in stream.frames
            ]

    def luma_hash(frame):
        return hashlib.sha256(frame.planes.y.tobytes()).hexdigest()

    full, short = frames({}), frames({"skip_loop_filter": "noref"})
    assert [frame[:2] for frame in full] == [frame[:2] for frame in short]
    changed = [kind for (kind, _, a), (_, _, b) in zip(full, short, strict=True) if a != b]
    assert set(changed) == {"B"}


def test_headers_only_reads_the_same_audit_without_frames(videos, rows):
    row = row_of(videos / "deep" / "small.mp4", is_headers_only=True)
    full = rows["deep/small.mp4"]
    for name in ("codec", "num_packets", "profile", "num_b", "gop_median", "fps", "width"):
        assert row[name] == full[name]
    assert row["motion_missing"] == "headers only"
    assert "num_frames" not in row
    assert row["status"] == "ok"


def test_sha256_is_that_of_the_file(videos):
    path = videos / "odd.avi"
    row = row_of(path, with_sha256=True)
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_fit_the_schema(videos):
    for path in sorted(videos.glob("*.*")):
        for is_headers_only in (False, True):
            row = row_of(path, is_headers_only=is_headers_only)
            assert set(row) <= set(SCHEMA.names)
            json.dumps(row, allow_nan=False)


def test_batches_of_frames_do_not_change_a_row(videos, monkeypatch):
    path = videos / "deep" / "small.mp4"
    expected = row_of(path)
    monkeypatch.setattr(scan_video_module, "_FRAMES_AT_A_TIME", 3)
    monkeypatch.setattr(scan_video_module, "_PACKETS_AT_A_TIME", 5)
    assert row_of(path) == expected
    monkeypatch.setattr(scan_video_module, "_LARGE_PIXELS", 0)
    assert row_of(path) == expected


def test_file_is_the_same_for_any_number_of_workers(videos, tmp_path):
    outs = [tmp_path / f"{workers}.parquet" for workers in (1, 2)]
    for workers, out in enumerate(outs, 1):
        scan(videos, out, workers=workers)
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.fixture
def many(tmp_path, small_video):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(24):
        shutil.copy(small_video, folder / f"{index:02d}.mp4")
    return folder


def test_killed_scan_goes_on_where_it_was(many, tmp_path):
    whole, out = tmp_path / "whole.parquet", tmp_path / "scan.parquet"
    scan(many, whole, workers=1)
    script = tmp_path / "script.py"
    script.write_text(SCAN_ALL)
    process = subprocess.Popen([sys.executable, script, many, out], stderr=subprocess.DEVNULL)
    journal = tmp_path / "scan.parquet.partial.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_still(journal)
    num_done = len(read_offsets(journal))
    assert not out.exists()
    assert 3 <= num_done < 24
    with journal.open("ab") as file:
        file.write(b'{"key": ["23.mp4", 1')  # as a crash of the machine may leave it
    assert scan(many, out, workers=2).num_resumed == num_done
    assert out.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def wait_until_still(path):
    """Wait until the worker has noticed that its parent is gone."""
    before = -1
    while (size := path.stat().st_size) != before:
        before = size
        time.sleep(0.4)


def test_changed_video_is_scanned_again(many, tmp_path, odd_video):
    out = tmp_path / "scan.parquet"
    key = VideoKey("00.mp4", (many / "00.mp4").stat().st_size, 1)
    journal = tmp_path / "scan.parquet.partial.jsonl"
    open_journal(journal, current_options())
    append_row(journal, key, {"name": "00.mp4", "status": "failed", "error": "old"})
    outcome = scan(many, out, workers=1, limit=1)
    assert outcome.num_resumed == 0
    assert dict(outcome.status_counts) == {"ok": 1}


def current_options():
    import gopstream

    return {"headers_only": False, "sha256": False, "gopstream": gopstream.__version__}


def test_journal_of_other_options_is_refused(many, tmp_path):
    journal = tmp_path / "scan.parquet.partial.jsonl"
    open_journal(journal, current_options() | {"headers_only": True})
    with pytest.raises(UserError, match="headers_only: True there, False now"):
        scan(many, tmp_path / "scan.parquet", workers=1)
    assert journal.exists()


def test_torn_lines_are_dropped_wherever_they_are(tmp_path):
    path = tmp_path / "journal"
    open_journal(path, {})
    append_row(path, VideoKey("a", 1, 1), {"name": "a"})
    with path.open("ab") as file:
        file.write(b'{"key":["b",1,1],"row":{"na')
    append_row(path, VideoKey("c", 1, 1), {"name": "c"})
    append_row(path, VideoKey("a", 1, 1), {"name": "again"})
    with path.open("ab") as file:
        file.write(b'{"key":["d",1,1],"row":{}}')  # whole, but its line is not
    offsets = open_journal(path, {})
    assert [key.name for key in offsets] == ["a", "c"]
    lines = path.read_bytes()
    assert lines[offsets[VideoKey("a", 1, 1)] :].startswith(b'{"key":["a",1,1],"row":{"name":"ag')


def test_existing_file_is_replaced_only_when_asked(many, tmp_path):
    out = tmp_path / "scan.parquet"
    out.write_text("precious")
    with pytest.raises(UserError, match="exists already; use --overwrite"):
        scan(many, out, workers=1)
    assert out.read_text() == "precious"
    scan(many, out, workers=1, limit=2, headers_only=True, overwrite=True)
    assert pq.read_table(out)["name"].to_pylist() == ["00.mp4", "01.mp4"]


def test_videos_are_listed_by_folder_file_and_name(many, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("many/03.mp4\n\nmany/01.mp4\nmany/03.mp4\nmissing.mp4\n")
    found = list_videos(listing)
    assert [video.name for video in found] == ["many/01.mp4", "many/03.mp4", "missing.mp4"]
    assert [video.name for video in list_videos(many / "05.mp4")] == ["05.mp4"]
    assert len(list_videos(many)) == 24
    outcome = scan(listing, tmp_path / "scan.parquet", workers=1)
    assert dict(outcome.error_counts) == {"FileNotFoundError": 1}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        list_videos(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        list_videos(tmp_path / "nowhere")


def test_names_that_are_no_utf8_are_escaped(many, tmp_path):
    strange = many / "caf\udce9.mp4"
    (many / "00.mp4").rename(strange)
    out = tmp_path / "scan.parquet"
    scan(strange, out, workers=1, headers_only=True)
    assert pq.read_table(out)["name"].to_pylist() == ["caf\\xe9.mp4"]


def test_summary_says_what_failed(videos, tmp_path):
    summary = scan_summary(scan(videos, tmp_path / "scan.parquet", workers=1, headers_only=True))
    assert "6 videos (1 failed" in summary.text
    assert "failed: notes.mp4: NotAVideoError" in summary.text
    assert summary.content["errors"] == {"NotAVideoError": 1}
    assert summary.content["videos"] == 6
    json.dumps(summary.content)


def test_rows_are_written_in_groups(many, tmp_path, monkeypatch):
    monkeypatch.setattr("gopstream.jobs.scan.ROWS_PER_GROUP", 10)
    out = tmp_path / "scan.parquet"
    scan(many, out, workers=1, headers_only=True)
    file = pq.ParquetFile(out)
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [10, 10, 4]
    assert np.all(np.diff([int(name[:2]) for name in file.read()["name"].to_pylist()]) == 1)


def test_motion_of_interlaced_pictures_is_not_measured():
    """The vertical unit of their vectors is unknown: a figure would be a guess."""
    path = next(SUITE.rglob("interlaced.mp4"))
    row = scan_video(path, beat=lambda: None)
    assert row["motion_num_measured"] == 0
    assert row["motion_missing"].startswith("interlaced")
    assert row["num_frames"] == 20
