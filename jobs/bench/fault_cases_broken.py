"""Cases of the fault corpus that are no video, damaged, or made to harm."""

import os
from pathlib import Path
from typing import Final

from gopstream.jobs.bench.fault_corpus import (
    CLEAN,
    DAMAGED,
    GOP,
    NOT_A_VIDEO,
    NUM_FRAMES,
    SOUND,
    Case,
    Expected,
    Recipe,
    edited,
)
from gopstream.jobs.bench.fault_surgery import (
    change_box,
    cut,
    drop_idr,
    drop_units,
    giant_sps,
    noise,
    zeros,
)

_NO_FRAME: Final = Expected("refused", "NotAVideoError: no frame that decodes")
_NO_STREAM: Final = Expected("refused", "NotAVideoError: no video stream")
_NO_FILE: Final = Expected("refused", "FileNotFoundError")
LOST: Final = Expected("warned", "lost: what")
_GROUP_NONE: Final = "Not videos"
_GROUP_DAMAGE: Final = "Damaged"
_GROUP_HOSTILE: Final = "Hostile or lying"
_PLAYLIST: Final = "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"
_SESSION: Final = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
_MANIFEST: Final = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{video}'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>"
)


def _write(content: bytes) -> Recipe:
    def make(_: Path, path: Path) -> None:
        path.write_bytes(content)

    return make


def _playlist(template: str) -> Recipe:
    """Return the recipe of a text file that names the workshop's video."""

    def make(workshop: Path, path: Path) -> None:
        path.write_text(template.format(video=workshop / "plain.mp4"))

    return make


def _drop_parameters(stream: bytes) -> bytes:
    return drop_units(stream, lambda kind, number: kind in (7, 8))


def _more_samples(content: bytes) -> bytes:
    """Claim ten times the frames and the duration: stsz and stts counts, mdhd and mvhd times."""
    content = change_box(content, b"stsz", 8, NUM_FRAMES * 10)
    return change_box(content, b"stts", 8, NUM_FRAMES * 10)


def _longer_header(content: bytes) -> bytes:
    """Claim a duration of days."""
    content = change_box(content, b"mvhd", 16, 250_000_000)
    return change_box(content, b"mdhd", 16, 2_500_000_000)


NOT_VIDEO_CASES: Final = [
    Case("empty.mp4", _GROUP_NONE, "no bytes", _write(b""), NOT_A_VIDEO, NOT_A_VIDEO),
    Case(
        "text.mp4",
        _GROUP_NONE,
        "text under the name of a video",
        _write(b"All work and no play makes Jack a dull boy.\n" * 40),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "no_moov.mp4",
        _GROUP_NONE,
        "cut before the index at its end",
        edited("late_moov.mp4", lambda content: cut(content, 0.5)),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case("sound.mp4", _GROUP_NONE, "sound only", f"{SOUND} -c:a aac", _NO_STREAM, _NO_STREAM),
    Case(
        "cover.mp3",
        _GROUP_NONE,
        "sound with a cover picture",
        f"{SOUND} -i {{cover.png}} -map 0 -map 1 -c:a libmp3lame -c:v copy "
        "-disposition:v attached_pic",
        _NO_STREAM,
        _NO_STREAM,
    ),
    Case(
        "picture.mp4",
        _GROUP_NONE,
        "a PNG",
        "-f lavfi -i testsrc2=s=64x64 -frames:v 1 -c:v png -f image2pipe",
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "folder.mp4",
        _GROUP_NONE,
        "a folder",
        lambda workshop, path: path.mkdir(),
        _NO_FILE,
        _NO_FILE,
    ),
    Case(
        "pipe.mp4",
        _GROUP_NONE,
        "a named pipe",
        lambda workshop, path: os.mkfifo(path),
        _NO_FILE,
        _NO_FILE,
    ),
    Case(
        "dangling.mp4",
        _GROUP_NONE,
        "a link to nothing",
        lambda workshop, path: path.symlink_to("nothing"),
        _NO_FILE,
        _NO_FILE,
    ),
]
DAMAGE_CASES: Final = [
    Case(
        "cut.mp4",
        _GROUP_DAMAGE,
        "index first, cut at 60 %",
        edited("plain.mp4", lambda c: cut(c, 0.6)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "cut.ts",
        _GROUP_DAMAGE,
        "cut at 60 %",
        edited("plain.ts", lambda c: cut(c, 0.6)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "cut.mkv",
        _GROUP_DAMAGE,
        "cut at 60 %",
        edited("plain.mkv", lambda c: cut(c, 0.6)),
        Expected("warned", "the header says"),
        Expected("warned", "the header says"),
        None,
    ),
    Case(
        "noise.mp4",
        _GROUP_DAMAGE,
        "3000 bytes of noise in the middle",
        edited("plain.mp4", lambda c: noise(c, start=0.5, length=3000, seed=1)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "noise.ts",
        _GROUP_DAMAGE,
        "3000 bytes of noise in the middle",
        edited("plain.ts", lambda c: noise(c, start=0.5, length=3000, seed=1)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "zeros.mp4",
        _GROUP_DAMAGE,
        "2048 zeroed bytes in the middle",
        edited("plain.mp4", lambda c: zeros(c, start=0.5, length=2048)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "zeros.mkv",
        _GROUP_DAMAGE,
        "2048 zeroed bytes in the middle",
        edited("plain.mkv", lambda c: zeros(c, start=0.5, length=2048)),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "unreadable.mp4",
        _GROUP_DAMAGE,
        "one frame claims one gigabyte",
        edited("plain.mp4", lambda c: change_box(c, b"stsz", 12 + 14 * 4, 0x39000000)),
        Expected("warned", "cannot be read to its end"),
        Expected("warned", "cannot be read to its end"),
        None,
    ),
    Case(
        "too_large.mp4",
        _GROUP_DAMAGE,
        "one frame claims two gigabytes",
        edited("plain.mp4", lambda c: change_box(c, b"stsz", 12 + 14 * 4, 0x7FFFFFF0)),
        Expected("warned", "the header says"),
        Expected("warned", "the header says"),
        None,
    ),
    Case(
        "no_key.h264",
        _GROUP_DAMAGE,
        "the only key picture is gone",
        edited("closed.h264", lambda c: drop_idr(c, only_first=False)),
        _NO_FRAME,
        _NO_FRAME,
        None,
    ),
    Case(
        "first_key_gone.h264",
        _GROUP_DAMAGE,
        "the first key picture is gone",
        edited("plain.h264", lambda c: drop_idr(c, only_first=True)),
        LOST,
        LOST,
        None,
    ),
    Case(
        "second_key_gone.mkv",
        _GROUP_DAMAGE,
        "the second key picture is gone",
        f"-i {{plain.mp4}} -c copy -bsf:v 'noise=drop=eq(n\\,{GOP})'",
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "lost_packet.ts",
        _GROUP_DAMAGE,
        "one transport packet of 188 bytes is lost",
        edited("plain.ts", lambda c: c[: 188 * 40] + c[188 * 41 :]),
        DAMAGED,
        DAMAGED,
        None,
    ),
    Case(
        "no_parameters.h264",
        _GROUP_DAMAGE,
        "SPS and PPS are gone",
        edited("plain.h264", _drop_parameters),
        _NO_FRAME,
        _NO_FRAME,
        None,
    ),
    Case(
        "cut_open_gop.ts",
        _GROUP_DAMAGE,
        "begins inside an open GOP",
        "-ss 0.3 -i {open_gop.ts} -c copy -copyinkf -muxdelay 0",
        LOST,
        LOST,
        12,
    ),
    Case(
        "open_gop_start.mkv",
        _GROUP_DAMAGE,
        "begins with the key picture of an open GOP (-ss -c copy)",
        "-ss 0.5 -i {open_gop.mp4} -c copy",
        LOST,
        LOST,
        12,
    ),
]
HOSTILE_CASES: Final = [
    Case(
        "too_many_frames.mp4",
        _GROUP_HOSTILE,
        "index lists ten times the frames",
        edited("plain.mp4", _more_samples),
        CLEAN,
        CLEAN,
    ),
    Case(
        "too_long.mp4",
        _GROUP_HOSTILE,
        "header says that it lasts for days",
        edited("plain.mp4", _longer_header),
        CLEAN,
        CLEAN,
    ),
    Case(
        "giant.h264",
        _GROUP_HOSTILE,
        "SPS claims 65536x65536",
        edited("baseline.h264", lambda c: giant_sps(c, width=65536, height=65536)),
        _NO_FRAME,
        _NO_FRAME,
    ),
    Case(
        "large.h264",
        _GROUP_HOSTILE,
        "SPS claims 16384x16384",
        edited("baseline.h264", lambda c: giant_sps(c, width=16384, height=16384)),
        _NO_FRAME,
        _NO_FRAME,
    ),
    Case(
        "wrong_size.h264",
        _GROUP_HOSTILE,
        "SPS claims 8192x4352, the largest allowed",
        edited("baseline.h264", lambda c: giant_sps(c, width=8192, height=4352)),
        DAMAGED,
        DAMAGED,
        None,
        is_slow=True,
    ),
    Case(
        "playlist.m3u8",
        _GROUP_HOSTILE,
        "HLS playlist of another file",
        _playlist(_PLAYLIST),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "playlist.mp4",
        _GROUP_HOSTILE,
        "the same, named .mp4",
        _playlist(_PLAYLIST),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "local.m3u8",
        _GROUP_HOSTILE,
        "HLS playlist of a file next to it",
        _write(b"#EXTM3U\n#EXTINF:1,\nlate_start.ts\n#EXT-X-ENDLIST\n"),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "script.mp4",
        _GROUP_HOSTILE,
        "concat script of another file",
        _playlist("ffconcat version 1.0\nfile '{video}'\n"),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "local_script.mp4",
        _GROUP_HOSTILE,
        "concat script of a file next to it",
        _write(b"ffconcat version 1.0\nfile 'late_start.ts'\n"),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "lost_script.mp4",
        _GROUP_HOSTILE,
        "concat script of a file that is not there",
        _write(b"ffconcat version 1.0\nfile 'nothing.ts'\n"),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "session.sdp",
        _GROUP_HOSTILE,
        "description of a network session",
        _write(_SESSION),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
    Case(
        "manifest.mp4",
        _GROUP_HOSTILE,
        "DASH manifest of another file",
        _playlist(_MANIFEST),
        NOT_A_VIDEO,
        NOT_A_VIDEO,
    ),
]
