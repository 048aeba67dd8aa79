"""Damage spreads to what is predicted from it, and no further than the next key frame."""

import subprocess

import av
import pytest

from gopstream.pipeline.damage import DamageSpread, diagnose
from gopstream.pipeline.decode import DecodedFrame
from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.transcode import default_ffmpeg


def frame(letter, *, hidden=False):
    """``K`` is a key frame, ``I`` an I-frame that is none; small letters are damaged."""
    kind = letter.upper().replace("K", "I")
    return DecodedFrame(
        picture=None,
        kind=kind,
        pts=0,
        vectors=None,
        is_key=letter.upper() == "K",
        is_interlaced=False,
        is_damaged=letter.islower(),
        follows_hidden_key=hidden,
    )


def spread(letters, *, hidden=False):
    damage = DamageSpread()
    for letter in letters:
        damage.add(frame(letter, hidden=hidden))
    return "".join("x" if flag else "." for flag in damage.flags)


@pytest.mark.parametrize(
    ("letters", "flags"),
    [
        ("KPPPPKPP", "........"),
        # The frame before is suspect: damage may begin where no decoder notices it.
        ("KPPpPPKPP", "..xxxx..."),
        ("KpPKP", "xxx.."),
        ("kPPKP", "xxx.."),
        ("KPPPkPKP", "...xxx.."),
        ("KPPPPp", "....xx"),
        # An I-frame that is no key frame does not end it: what follows may look behind it.
        ("KPPpPIPPKP", "..xxxxxx.."),
        # Two damages.
        ("KPpPKPPpKP", ".xxx..xx.."),
    ],
)
def test_a_chain_of_p_frames_is_damaged_up_to_the_next_key_frame(letters, flags):
    assert spread(letters) == flags


@pytest.mark.parametrize(
    ("letters", "flags"),
    [
        ("KBBPBBPKBBP", "..........."),
        # B-frames shown before their damaged anchor were predicted from it.
        ("KBBPBBpBBPKBBP", "...xxxxxxx...."),
        # A damaged B-frame harms nobody but perhaps its neighbours.
        ("KBBPbBPBBP", "...xx....."),
        ("KBBPBbPBBP", "...xxx...."),
        # The damage of a P-frame reaches B-frames that follow it, and a key frame ends it.
        ("KBBpBBKBBP", "xxxxxx...."),
    ],
)
def test_b_frames_are_damaged_with_their_anchors(letters, flags):
    assert spread(letters) == flags


@pytest.mark.parametrize(
    ("letters", "flags"),
    [
        ("PPPKPP", "xxx..."),
        ("BBKPP", "xx..."),
        ("IPPKP", "xxx.."),
        ("PPPP", "xxxx"),
    ],
)
def test_frames_before_the_first_key_frame_lack_their_past(letters, flags):
    assert spread(letters) == flags


def test_a_key_frame_that_an_edit_list_hides_is_past_enough():
    assert spread("PPBPKP", hidden=True) == "......"
    assert spread("PpBPKP", hidden=True) == "xxxx.."


def test_a_lost_end_makes_the_last_frames_suspect():
    damage = DamageSpread()
    for letter in "KPPBB":
        damage.add(frame(letter))
    damage.suspect_last()
    assert damage.flags == [False, False, True, True, True]


def test_nothing_is_suspect_where_nothing_came():
    damage = DamageSpread()
    damage.suspect_last()
    assert damage.flags == []


def packets_of(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.fixture(scope="module")
def gops(tmp_path_factory, small_video):
    """Three GOPs of one I and nine P."""
    path = tmp_path_factory.mktemp("damage") / "gops.mp4"
    words = ["-c:v", "libx264", "-bf", "0", "-g", "10", "-sc_threshold", "0", "-threads", "1"]
    subprocess.run([default_ffmpeg(), "-v", "error", "-i", small_video, *words, path], check=True)
    return path


def test_a_sound_video_has_no_damaged_frame(gops, small_video):
    for path in (gops, small_video):
        assert diagnose(path)[:2] == ([False] * 30, [])


def test_a_lost_packet_damages_its_gop_and_no_other(gops, tmp_path):
    content = bytearray(gops.read_bytes())
    start, size = packets_of(gops)[13]
    content[start : start + size] = bytes(size)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    found = diagnose(path)
    assert [index for index, flag in enumerate(found.damaged) if flag] == list(range(12, 19))
    assert len(found.damaged) == 29
    assert found.faults[0].startswith("packet 13 does not decode")


def test_a_video_of_which_nothing_decodes_is_a_fault_not_an_error(gops, tmp_path):
    content = bytearray(gops.read_bytes())
    for start, size in packets_of(gops):
        content[start : start + size] = bytes(size)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    damaged, faults, _ = diagnose(path)
    assert damaged == []
    assert faults[-1].startswith("a.mp4: no picture decodes")


def test_what_is_no_video_is_an_error(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(1000))
    with pytest.raises(NotAVideoError):
        diagnose(path)
