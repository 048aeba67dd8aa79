"""What is told of a clip and of a frame, for people and for machines."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gopstream.jobs.console import printable
from gopstream.jobs.inspection.clip_summary import clip_summary, gop_content
from gopstream.jobs.inspection.frame_summary import (
    frame_summary,
    largest_vectors,
    partition_sizes,
)
from gopstream.jobs.inspection.inspected import InspectedFrame
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.pipeline.decode import open_coded
from gopstream.pipeline.grid import BlockMotion
from inspection_cases import (
    HOSTILE_LABEL,
    VELOCITY,
    make_dump,
    make_exact_video,
    make_video,
)


@pytest.fixture(scope="module")
def b_video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("b"), b_frames=True)


def told(text):
    """Return the words of each line, by the first of them."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_groups_of_pictures_begin_at_i_frames():
    content = gop_content("IBBPBBPIPPIBBPBBP")
    assert content["starts"] == [0, 7, 10]
    assert content["lengths"] == [7, 3, 7]
    assert content["patterns"][0] == {"pattern": "IBBPBBP", "count": 2}
    assert content["num_patterns"] == 2
    assert content["most_b_frames"] == 2


def test_what_comes_before_the_first_i_frame_is_a_group_too():
    assert gop_content("PPIP")["starts"] == [0, 2]
    assert gop_content("BBIBPBBB")["most_b_frames"] == 3
    assert gop_content("")["lengths"] == []


def test_many_patterns_and_long_ones_are_cut_short_in_the_text(tmp_path):
    video = make_video(tmp_path, num_frames=12)
    text = clip_summary(open_clip(str(video))).text
    assert "2 groups of 6 / 6 / 6 frames (shortest, median, longest)" in text
    assert "2 x IPPPPP (6 frames)" in text


def test_the_kinds_of_a_video_are_told_apart(b_video):
    with open_coded(b_video) as stream:
        frames = [
            (frame.kind, 0 if frame.vectors is None else len(frame.vectors))
            for frame in stream.frames
        ]
    text, content = clip_summary(open_clip(str(b_video)), with_frames=True)
    assert list(content["kinds"]) == ["I", "P", "B"]
    for kind, row in content["kinds"].items():
        counts = [count for letter, count in frames if letter == kind]
        assert row["frames"] == len(counts)
        assert row["num_vectors"] == pytest.approx(np.mean(counts), abs=1e-4)
    assert content["kinds"]["I"]["intra"] == 1
    assert content["kinds"]["P"]["num_future"] == 0 < content["kinds"]["B"]["num_future"]
    assert content["frame_types"] == "".join(kind for kind, _ in frames)
    assert [row["num_vectors"] for row in content["frames"]] == [count for _, count in frames]
    assert "per frame of kind" in text
    assert content == json.loads(json.dumps(content, allow_nan=False))


def test_the_direction_is_the_one_in_which_the_content_moves(tmp_path, b_video):
    """The texture moves to the right and down; a frame is at most three from its reference."""
    for video in (b_video, make_video(tmp_path)):
        _, content = clip_summary(open_clip(str(video)))
        for kind in set(content["kinds"]) - {"I"}:
            row = content["kinds"][kind]
            assert 0.5 * VELOCITY[0] < row["mean_x"] < 3.5 * VELOCITY[0], (kind, row)
            assert 0.3 * VELOCITY[1] < row["mean_y"] < 3.5 * VELOCITY[1], (kind, row)
    text, content = clip_summary(open_clip(str(make_video(tmp_path / "p"))))
    assert content["kinds"]["P"]["median_length"] == pytest.approx(np.hypot(*VELOCITY), abs=0.3)
    assert "px right" in text or "px down right" in text


def test_the_residual_is_told_where_it_is_exact_and_why_it_is_not(tmp_path, b_video):
    text, content = clip_summary(open_clip(str(b_video)))
    assert content["exactness"] != "exact"
    assert content["exactness"].split(";")[0] in " ".join(text.split())
    assert content["kinds"]["P"]["residual_energy"] is None
    assert "mean |r|" not in text
    text, content = clip_summary(open_clip(str(make_exact_video(tmp_path))))
    assert content["exactness"] == "exact"
    p, i = content["kinds"]["P"], content["kinds"]["I"]
    assert 0 < p["predicted_energy"] < 10 < i["residual_energy"]
    assert 0 <= p["zero_macroblocks"] <= 1
    assert i["zero_macroblocks"] is None
    assert "picture minus 128" in text


def test_a_part_of_a_clip_is_measured_alone(b_video):
    clip = open_clip(str(b_video))
    counted = []
    text, content = clip_summary(
        clip, start=2, stop=5, with_frames=True, on_frame=lambda: counted.append(1)
    )
    assert (content["first"], content["last"], len(counted)) == (2, 4, 3)
    assert [row["index"] for row in content["frames"]] == [2, 3, 4]
    assert sum(row["frames"] for row in content["kinds"].values()) == 3
    assert ["looked", "at", "frames", "2", "to", "4"] in told(text)


class NamedAnew:
    """A clip under other facts."""

    def __init__(self, clip, **facts):
        self.facts = replace(clip.facts, **facts)
        self.frames = clip.frames


def test_labels_names_and_facts_are_shown_as_text(b_video):
    stream = {"encoder": "x264 \x1b]0;title\x07 [bold]", "gop_sizes": [1, 2]}
    clip = NamedAnew(open_clip(str(b_video)), label=HOSTILE_LABEL, name="[red]a", stream=stream)
    text, content = clip_summary(clip)
    assert (content["label"], content["name"]) == (HOSTILE_LABEL, "[red]a")
    assert HOSTILE_LABEL in text
    assert "[red]a: a video" in text
    assert ["encoder", "x264", "\\x1b]0;title\\x07", "[bold]"] in told(text)
    assert ["gop", "sizes", "1,", "2"] in told(text)
    assert content["stream"] == stream


def test_a_dump_without_kinds_has_one_row(tmp_path):
    dump = make_dump(make_video(tmp_path), tmp_path / "dump")
    (dump / "frame_types.txt").write_text("?\n" * 12)
    text, content = clip_summary(open_clip(str(dump)))
    assert list(content["kinds"]) == ["?"]
    assert content["fps"] is None
    assert "time stamps unknown" in text


def test_a_dump_s_frame_numbers_are_no_seconds(tmp_path):
    clip = open_clip(str(make_dump(make_video(tmp_path, num_frames=6), tmp_path / "dump")))
    assert "time unknown" in frame_summary(clip, 3).text
    assert frame_summary(clip, 3).content["seconds"] is None
    summary = clip_summary(clip, with_frames=True)
    assert {row["seconds"] for row in summary.content["frames"]} == {None}
    assert (summary.content["fps"], "time stamps unknown" in summary.text) == (None, True)


def test_facts_that_json_cannot_hold_are_told_all_the_same(b_video):
    clip = open_clip(str(b_video))
    clip.facts = replace(clip.facts, stream={"rate": float("nan"), "parts": {"a": {1}}})
    content = clip_summary(clip).content
    assert content["stream"] == {"rate": None, "parts": {"a": [1]}}
    assert content == json.loads(json.dumps(content, allow_nan=False))


def test_control_characters_are_shown_not_sent():
    assert printable("a\x1b[31mb\x07") == "a\\x1b[31mb\\x07"
    assert printable("zwei\nZeilen \u00fc") == "zwei\nZeilen \u00fc"
    assert printable("\u202eabc") == "\\u202eabc"


def test_a_frame_is_told_with_its_place_and_its_longest_vectors(b_video):
    clip = open_clip(str(b_video))
    text, content = frame_summary(clip, 7)
    assert (content["index"], content["kind"]) == (7, clip.facts.kinds[7])
    assert content["seconds"] == pytest.approx(7 / 25)
    assert content["gop"] == clip.facts.kinds[:8].count("I") - 1
    assert sum(content["partitions"].values()) == content["num_vectors"] > 0
    lengths = [vector["length"] for vector in content["largest_vectors"]]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == pytest.approx(content["max_length"])
    assert "longest vectors" in text
    assert ["frame", *["7", "of", "0", "to", "11,", "at", "0.280", "s"]] in told(text)
    assert content == json.loads(json.dumps(content, allow_nan=False))


def test_an_i_frame_has_no_vectors_to_list(b_video):
    text, content = frame_summary(open_clip(str(b_video)), 0)
    assert content["largest_vectors"] == []
    assert content["partitions"] == {}
    assert "longest vectors" not in text
    assert ["blocks", "intra", "100.0%"] in told(text)


def test_a_frame_that_is_not_there_is_an_error(b_video):
    with pytest.raises(IndexError, match="frames 0 to 11"):
        frame_summary(open_clip(str(b_video)), 12)


def listed(*, vectors=None, motion=None):
    table = None if vectors is None else np.array(vectors, np.int32)
    return InspectedFrame(0, "B", None, 0, motion, table, None)


def test_the_longest_vectors_come_first_of_equals_the_upper_left_one():
    rows = [
        (-1, 16, 16, 0, 0, 24, 8, 4, 0, 4),
        (1, 8, 16, 0, 0, 4, 8, 0, -8, 2),
        (-1, 16, 8, 0, 0, 8, 4, 0, -4, 4),
    ]
    found = largest_vectors(listed(vectors=rows))
    assert found[0] == {
        "x": 0,
        "y": 0,
        "width": 8,
        "height": 16,
        "to": "future",
        "dx": 0.0,
        "dy": -4.0,
        "length": 4.0,
    }
    assert [(vector["x"], vector["y"]) for vector in found[1:]] == [(0, 0), (16, 0)]
    assert partition_sizes(listed(vectors=rows)) == {"16x16": 1, "8x16": 1, "16x8": 1}


def test_without_the_decoder_s_vectors_blocks_of_the_grid_are_listed():
    motion, coverage = np.zeros((2, 2, 3, 2), np.int16), np.zeros((2, 2, 3), np.uint8)
    motion[1, 1, 2], coverage[1, 1, 2] = (-6, 8), 1
    motion[0, 0, 1], coverage[0, 0, :2] = (0, 1), 1  # the third has no length
    first, second = largest_vectors(listed(motion=BlockMotion(motion, coverage)))
    assert (first["x"], first["y"], first["width"], first["to"]) == (16, 8, 8, "future")
    assert (first["dx"], first["dy"], first["length"]) == (-1.5, 2.0, 2.5)
    assert (second["x"], second["to"], second["length"]) == (8, "past", 0.25)
    assert largest_vectors(listed()) == []
