import struct
import subprocess
import wave
import zlib
from fractions import Fraction

import av
import imageio_ffmpeg
import pytest

from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.extract import extract_clip
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.probe import open_video

MOTION_ONLY = ExtractionOptions(planes=("motion", "frames"))


def png():
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compress(b"\0" + b"\1\2\3" * 4 * 1)
    header = struct.pack(">IIBBBBB", 4, 1, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_facts_of_a_video(small_video):
    facts = open_video(small_video)
    assert (facts.codec, facts.width, facts.height) == ("h264", 96, 64)
    assert facts.average_rate == 25
    assert facts.duration_seconds == pytest.approx(1.2)
    assert facts.rotation == 0
    assert facts.sample_aspect_ratio == 1
    assert facts.pixel_format == "yuv420p"
    assert not facts.full_range
    assert "mp4" in facts.container


@pytest.mark.parametrize("name", ["text.mp4", "picture.mp4", "empty.mp4", "list.m3u8", "list.txt"])
def test_what_only_looks_like_a_video_is_refused(name, tmp_path, small_video):
    content = {
        "text.mp4": b"All work and no play makes Jack a dull boy.\n" * 50,
        "picture.mp4": png(),
        "empty.mp4": b"",
        "list.m3u8": f"#EXTM3U\n#EXTINF:1,\n{small_video}\n#EXT-X-ENDLIST\n".encode(),
        "list.txt": f"ffconcat version 1.0\nfile '{small_video}'\n".encode(),
    }
    path = tmp_path / name
    path.write_bytes(content[name])
    with pytest.raises(NotAVideoError, match=rf"^{name}: not a video"):
        open_video(path)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(NotAVideoError, match="only audio"):
        open_video(path)


def test_a_header_without_frames_is_refused(tmp_path, small_video):
    path = tmp_path / "cut.avi"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", small_video]
    subprocess.run([*command, "-c:v", "mpeg4", path], check=True)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(NotAVideoError, match="no frame that decodes"):
        open_video(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        open_video(tmp_path / "none.mp4")


def test_a_folder_is_no_video(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path)


def test_a_display_matrix_is_read_and_followed(rotated_video):
    facts = open_video(rotated_video)
    assert facts.rotation in (90, 270)
    assert (facts.width, facts.height) == (96, 64)
    clip = extract_clip(rotated_video, options=MOTION_ONLY)
    assert clip.frame_size == clip.display_rect[2:] == (64, 96)


def test_the_shape_of_pixels_is_read_and_followed(tmp_path, write_video):
    path = write_video(tmp_path / "wide.mp4", 3, aspect=Fraction(4, 3))
    assert open_video(path).sample_aspect_ratio == Fraction(4, 3)
    clip = extract_clip(path, options=MOTION_ONLY)
    assert clip.frame_size == (128, 64)


def test_the_best_stream_need_not_be_the_first(real_videos):
    facts = open_video(real_videos["nasa_320x180_h264_high_bframes.mp4"])
    assert facts.stream_index == 3
    assert (facts.width, facts.height) == (480, 270)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "full_range"),
    [
        ("hevc.mp4", "hevc", None, False),
        ("av1.mkv", "av1", None, False),
        ("h264_10bit.mp4", "h264", "yuv420p10le", False),
        ("bt709_full_range.mp4", "h264", None, True),
        ("goat_256.mp4", "mpeg4", "yuv420p", False),
    ],
)
def test_codec_and_pixels_of_real_videos(real_videos, name, codec, pixel_format, full_range):
    facts = open_video(real_videos[name])
    assert codec in facts.codec
    assert pixel_format in (None, facts.pixel_format)
    assert facts.full_range == full_range


def encode(source, path, *words):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", source, *words, path]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize(
    ("name", "words", "may_be"),
    [
        ("a.mp4", ["-c:v", "libx264"], False),
        ("a.ts", ["-c:v", "mpeg2video"], False),
        ("b.ts", ["-c:v", "mpeg2video", "-flags", "+ilme+ildct"], True),
        # The header alone says so, the first frame does not.
        ("b.mkv", ["-vf", "setfield=tff", "-c:v", "mpeg4"], True),
        ("b.mp4", ["-c:v", "libx264", "-flags", "+ilme+ildct", "-x264-params", "tff=1"], True),
    ],
)
def test_what_may_be_interlaced_is_known_from_header_or_first_frame(
    small_video, tmp_path, name, words, may_be
):
    assert open_video(encode(small_video, tmp_path / name, *words)).may_be_interlaced == may_be


def test_a_codec_that_nobody_knows_is_refused(tmp_path, small_video):
    """A track whose four-letter code means nothing to FFmpeg."""
    path = tmp_path / "a.mp4"
    path.write_bytes(small_video.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    with pytest.raises(NotAVideoError, match=r"a\.mp4: FFmpeg does not know the codec"):
        open_video(path)


def test_a_cover_picture_is_no_video(tmp_path, small_video):
    sound = tmp_path / "a.wav"
    with wave.open(str(sound), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(8000)
        opened.writeframes(bytes(16000))
    cover = tmp_path / "cover.png"
    cover.write_bytes(png())
    words = [
        "-i",
        cover,
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-disposition:v",
        "attached_pic",
    ]
    path = encode(sound, tmp_path / "song.mp4", *words)
    with pytest.raises(NotAVideoError, match=r"song\.mp4: no video stream, only an attached"):
        open_video(path)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_rotation_is_how_far_the_picture_is_turned_when_shown(tmp_path, small_video, degrees):
    path = tmp_path / "a.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(degrees)]
    subprocess.run([*command, "-i", small_video, "-c", "copy", path], check=True)
    assert open_video(path).rotation == degrees


def test_a_picture_larger_than_any_of_h264_is_not_decoded(tmp_path, small_video, monkeypatch):
    monkeypatch.setattr("gopstream.pipeline.probe.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(NotAVideoError, match="the h264 stream has no frame that decodes"):
        open_video(small_video)


def test_a_broken_first_packet_is_passed_over(tmp_path, small_video):
    path = encode(small_video, tmp_path / "g.mp4", "-c:v", "libx264", "-bf", "0", "-g", "5")
    with av.open(str(path)) as container:
        first = next(container.demux(video=0))
        start, size = first.pos, first.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    assert (open_video(path).width, open_video(path).height) == (96, 64)


@pytest.mark.parametrize("left", [2, 8, 34])
def test_what_a_stream_crops_at_the_left_is_not_shown(tmp_path, small_video, left):
    """FFmpeg's own players cut it off to the column; its decoder alone would keep some."""
    crop = f"h264_metadata=crop_left={left}:crop_top=2:crop_right=4:crop_bottom=6"
    path = encode(small_video, tmp_path / "a.mp4", "-c", "copy", "-bsf:v", crop)
    facts = open_video(path)
    assert (facts.width, facts.height) == (92 - left, 56)
