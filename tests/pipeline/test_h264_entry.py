"""A decoder may begin at an IDR picture or a whole recovery point, not where a refresh begins."""

import av
import pytest

from gopstream.pipeline.h264_entry import EntryFinder, read_messages

X264 = "-c:v libx264 -g 20 -sc_threshold 0 -threads 1 -pix_fmt yuv420p"


def entries(path):
    """Return which packets a container calls key frames, and which a decoder can begin at."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        finder = EntryFinder(stream.codec_context.extradata)
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        return keys, [i for i, packet in enumerate(packets) if finder.is_entry(bytes(packet))]


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
@pytest.mark.parametrize("gops", ["", "-x264-params open-gop=1"], ids=["closed", "open"])
def test_key_frames_are_entries(make, tmp_path, suffix, gops):
    keys, found = entries(make(tmp_path / f"a.{suffix}", f"{X264} -bf 2 {gops}", num_frames=60))
    assert len(keys) == 3
    assert found == keys


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_where_a_gradual_refresh_begins_is_none(make, tmp_path, suffix):
    options = f"{X264} -bf 0 -intra-refresh 1"
    keys, found = entries(make(tmp_path / f"a.{suffix}", options, num_frames=60))
    assert len(keys) == 3
    assert found == [0]


@pytest.mark.parametrize(
    ("unit", "messages"),
    [
        (b"\x06\x06\x01\x80\x80", [(6, b"\x80")]),
        (b"\x06\x05\x02ab\x06\x01\x40\x80", [(5, b"ab"), (6, b"\x40")]),
        (b"\x06\xff\x01\xff\x00" + bytes(range(1, 256)) + b"\x80", [(256, bytes(range(1, 256)))]),
        (b"\x06\x06\x09\x80", [(6, b"\x80")]),  # cut
        (b"\x06\xff\xff\xff", []),
        (b"\x06", []),
    ],
)
def test_messages_are_read_as_far_as_they_go(unit, messages):
    found = list(read_messages(unit))
    assert found[: len(messages)] == messages
    assert len(found) <= len(messages) + 1


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\1", b"\0\0\1\x06", b"\0\0\1\x06\x06\x01", b"\xff" * 9]
)
def test_noise_is_no_entry(data):
    assert not EntryFinder(None).is_entry(data)
    assert not EntryFinder(b"\1\x64\0\x1f\xff").is_entry(data)


def test_a_recovery_point_must_be_whole():
    at_once = b"\0\0\0\1\x06\x06\x01\x80\x80\0\0\1\x41\x9a\x00\x10"
    later = at_once.replace(b"\x06\x06\x01\x80", b"\x06\x06\x01\x40")  # recovery_frame_cnt 1
    assert EntryFinder(None).is_entry(at_once)
    assert not EntryFinder(None).is_entry(later)
