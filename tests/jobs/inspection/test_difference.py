"""Comparing sources: by hand, and with mvextractor as it is."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from gopstream.jobs.conformance.adapters import one_thread_vectors, read_mvextractor
from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.difference import compare_clips, frame_ranges, unmatched_vectors
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedFrame, SignedResidual
from gopstream.jobs.inspection.open_target import open_clip
from gopstream.pipeline.grid import BlockMotion
from gopstream.pipeline.mvextractor_dump import DumpFrame, write_dump
from inspection_cases import make_dump, make_exact_video, make_extract_folder, make_video


class ListedClip:
    """A clip of frames that stand in a list."""

    def __init__(self, kinds, *, source="video", planes=(), frames=None, **facts):
        self.facts = ClipFacts(
            name=facts.pop("name", "listed"),
            source=source,
            mode=facts.pop("mode", "native"),
            kinds=kinds,
            times=np.arange(len(kinds)) / 25,
            coded_size=facts.pop("coded_size", (32, 32)),
            display_rect=(0, 0, 32, 32),
            num_lists=1,
            planes=frozenset(planes),
            exactness="exact",
            **facts,
        )
        self.listed = frames or [frame(i, kind) for i, kind in enumerate(kinds)]

    def frames(self, start=0, stop=None):
        yield from self.listed[start:stop]


def frame(index, kind="P", *, motion=None, vectors=None, residual=None):
    return InspectedFrame(index, kind, None, index, motion, vectors, residual)


def table(*places):
    """Return vectors of blocks at x, with their motion."""
    rows = [(-1, 8, 8, 0, 0, x, 4, motion, 0, 4) for x, motion in places]
    return np.array(rows, np.int32).reshape(-1, 10)


def grid(vectors, *, shape=(1, 4, 4)):
    motion, coverage = np.zeros((*shape, 2), np.int16), np.zeros(shape, np.uint8)
    for place, vector in vectors.items():
        motion[place], coverage[place] = vector, 1
    return BlockMotion(motion, coverage)


def flat(value=0, *, side=32):
    halves = (np.zeros((side // 2, side // 2), np.int16) for _ in range(2))
    return SignedResidual(np.full((side, side), value, np.int16), *halves)


def test_vectors_are_counted_as_often_as_they_are_there():
    one = table((4, 1), (4, 1), (4, 1), (4, 1), (12, 5))
    other = table((20, 5), (4, 1), (20, 5), (4, 1))
    only_one, only_other = unmatched_vectors(one, other)
    assert only_one[:, [5, 7]].tolist() == [[4, 1], [4, 1], [12, 5]]
    assert only_other[:, [5, 7]].tolist() == [[20, 5], [20, 5]]


def test_the_order_of_vectors_says_nothing():
    one, other = table((4, 1), (12, 5)), table((12, 5), (4, 1))
    assert [len(rows) for rows in unmatched_vectors(one, other)] == [0, 0]
    assert [len(rows) for rows in unmatched_vectors(one, table())] == [2, 0]


def test_each_frame_is_told_with_what_differs_in_it():
    block = {(0, 0, 0): (4, 0), (0, 1, 1): (0, 0)}
    moved = {(0, 0, 0): (16, 16), (0, 1, 1): (0, 0), (0, 3, 3): (0, 0)}
    altered = flat()
    altered.cb[0, 0] = altered.y[3, 3] = -7
    altered.y[4, 4] = 2
    planes = ("motion", "vectors", "residual")
    one = [
        frame(0, "I", vectors=table(), motion=grid({}), residual=flat()),
        frame(1, vectors=table((4, 1), (12, 2)), motion=grid(block), residual=flat()),
        frame(2, vectors=table((4, 1)), motion=grid(block), residual=flat()),
        frame(3, vectors=table((4, 1)), motion=grid(block), residual=flat()),
    ]
    other = [
        one[0],
        one[1]._replace(vectors=table((4, 1), (12, 3), (28, 0)), motion=grid(moved)),
        one[2],
        one[3]._replace(kind="B", residual=altered),
    ]
    difference = compare_clips(
        ListedClip("IPPP", planes=planes, frames=one),
        ListedClip("IPPB", planes=planes, frames=other),
    )
    assert not difference.is_equal
    assert difference.frames == (1, 3)
    first, last = difference.content["differences"]
    assert (first["vectors_only_in_one"], first["vectors_only_in_other"]) == (1, 2)
    assert first["examples_only_in_one"] == table((12, 2)).tolist()
    assert (first["blocks"], first["largest_pixels"]) == (2, 5.0)
    assert first["residual_values"] == 0
    assert last["kinds"] == ["P", "B"]
    assert (last["blocks"], last["largest_pixels"]) == (0, None)
    assert (last["residual_values"], last["largest_residual"]) == (3, 7)
    assert difference.content["compared_frames"] == dict.fromkeys(("kinds", *planes), 4) | {
        "vectors": 4
    }
    assert "2 of 4 frames differ: 1, 3" in difference.text
    assert "P / B" in difference.text
    assert "levels" in difference.text


def test_another_kind_alone_is_a_difference_unless_a_dump_does_not_know_it():
    assert compare_clips(ListedClip("IPB"), ListedClip("IPP")).frames == (2,)
    assert compare_clips(ListedClip("IPB"), ListedClip("IP?")).is_equal


def test_what_one_source_lacks_is_not_compared_and_that_is_said():
    full = [frame(0, "I", motion=grid({}), vectors=table()), frame(1, motion=grid({}))]
    one = ListedClip("IP", planes=("motion", "vectors"), frames=full)
    other = ListedClip("??", source="dump", planes=("vectors",))
    other.listed = [frame(0, "?", vectors=table()), frame(1, "?", vectors=table((4, 1)))]
    difference = compare_clips(one, other)
    assert difference.is_equal  # frame 1 has no vectors in one
    counts = {"kinds": 0, "vectors": 1, "motion": 0, "residual": 0}
    assert difference.content["compared_frames"] == counts
    assert "not kinds: a dump does not know them" in difference.text
    assert "not motion: other has none" in difference.text
    assert "not residual: neither has any" in difference.text


def test_sources_with_nothing_in_common_are_refused():
    one = ListedClip("II", planes=("frames",))
    other = ListedClip("??", source="dump", planes=("vectors",))
    with pytest.raises(UserError, match="nothing in common that can be compared: frames and vec"):
        compare_clips(one, other)


def test_another_number_of_frames_is_a_difference_of_the_clips():
    difference = compare_clips(ListedClip("IPPP"), ListedClip("IPP"))
    assert (difference.is_equal, difference.frames) == (False, ())
    assert "numbers of frames differ: 4 and 3" in difference.text
    assert compare_clips(ListedClip("IPPP"), ListedClip("IPP"), stop=3).is_equal


def test_another_size_is_a_difference_unless_a_dump_could_not_know():
    motion = grid({(0, 0, 0): (4, 0)})
    one = ListedClip("P", planes=("motion",), frames=[frame(0, motion=motion)])
    larger = frame(0, motion=grid({(0, 0, 0): (4, 0)}, shape=(2, 6, 6)))
    difference = compare_clips(
        one, ListedClip("P", planes=("motion",), frames=[larger], coded_size=(48, 48))
    )
    assert (difference.is_equal, difference.frames) == (False, ())
    assert "sizes of the coded picture differ: 32x32 and 48x48" in difference.text
    dump = ListedClip("P", source="dump", frames=[larger], coded_size=(48, 48))
    assert compare_clips(one, dump).is_equal
    beyond = frame(0, motion=grid({(0, 0, 0): (4, 0), (1, 5, 5): (0, 0)}, shape=(2, 6, 6)))
    assert compare_clips(one, ListedClip("P", source="dump", frames=[beyond])).frames == (0,)


def test_another_mode_and_a_turned_video_are_noted():
    canonical = ListedClip("IP", mode="canonical")
    assert "compare two of the same mode" in compare_clips(ListedClip("IP"), canonical).text
    turned = ListedClip("IP", stream={"rotation": 90})
    dump = ListedClip("IP", source="dump")
    assert "the video is shown turned" in compare_clips(turned, dump).text
    assert compare_clips(ListedClip("IP"), dump).content["notes"] == []


def test_frame_numbers_are_shortened_to_ranges():
    assert frame_ranges([3, 5, 6, 7, 9]) == "3, 5-7, 9"
    assert frame_ranges(range(0, 200, 2)).endswith("96, 98, ...")
    assert frame_ranges([]) == ""


@pytest.mark.parametrize("b_frames", [False, True])
def test_our_dump_of_a_video_equals_it(tmp_path, b_frames):
    video = make_video(tmp_path, b_frames=b_frames)
    dump = make_dump(video, tmp_path / "dump")
    difference = compare_clips(open_clip(str(video)), open_clip(str(dump)))
    assert difference.is_equal
    assert difference.content["compared_frames"]["vectors"] == 12
    assert difference.content["compared_frames"]["motion"] == 12
    assert difference.content["num_vectors"][0] == difference.content["num_vectors"][1] > 100


def test_a_vector_that_was_altered_in_a_dump_is_found(tmp_path):
    video = make_video(tmp_path, b_frames=True)
    dump = make_dump(video, tmp_path / "dump")
    for index, change in ((4, 4), (7, -8)):
        path = dump / "motion_vectors" / f"mvs-{index}.npy"
        vectors = np.load(path)
        vectors[len(vectors) // 2, 7] += change
        np.save(path, vectors)
    difference = compare_clips(open_clip(str(video)), open_clip(str(dump)))
    assert difference.frames == (4, 7)
    assert "levels" not in difference.text
    for row, pixels in zip(difference.content["differences"], (1, 2), strict=True):
        assert (row["vectors_only_in_one"], row["vectors_only_in_other"]) == (1, 1)
        assert row["largest_pixels"] == pixels


def test_an_extract_folder_has_the_residual_of_its_video(tmp_path):
    from gopstream.pipeline.options import ExtractionOptions

    video = make_exact_video(tmp_path)
    options = ExtractionOptions(mode="native", planes=("frames", "motion", "residual"))
    folder = make_extract_folder(video, tmp_path / "extracted", options=options)
    one, other = open_clip(str(video)), open_clip(str(folder))
    difference = compare_clips(one, other)
    assert difference.is_equal
    assert difference.content["compared_frames"]["residual"] == 12
    values = np.load(folder / "residual_cr.npy")
    values[5, 3, 3] += 9
    np.save(folder / "residual_cr.npy", values)
    difference = compare_clips(one, open_clip(str(folder)))
    assert difference.frames == (5,)
    assert difference.content["differences"][0]["largest_residual"] == 9


def dump_of_mvextractor(video, folder, *, num_frames=None):
    """Dump what mvextractor's own capture returns; returns its frames."""
    frames = list(islice(read_mvextractor(video), num_frames))
    write_dump(folder, (DumpFrame(kind, vectors) for kind, vectors in frames))
    return frames


def test_mvextractor_is_right_on_a_p_only_video(tmp_path):
    pytest.importorskip("mvextractor")
    video = make_video(tmp_path)
    dump_of_mvextractor(video, tmp_path / "dump")
    difference = compare_clips(open_clip(str(video)), open_clip(str(tmp_path / "dump")))
    assert difference.is_equal
    assert difference.content["compared_frames"]["vectors"] == 12


def test_mvextractor_is_right_on_a_real_p_only_video(real_videos, tmp_path):
    pytest.importorskip("mvextractor")
    video = real_videos["street_720p_h264_main_p_only.mp4"]
    dump_of_mvextractor(video, tmp_path / "dump", num_frames=40)
    one, other = open_clip(str(video)), open_clip(str(tmp_path / "dump"))
    difference = compare_clips(one, other, stop=40)
    assert difference.is_equal
    assert difference.content["compared_frames"]["vectors"] == 40
    assert difference.content["compared_frames"]["motion"] == 40
    assert difference.content["num_vectors"][1] > 50_000


def test_the_frames_in_which_mvextractor_is_wrong_are_listed_exactly(real_videos, tmp_path):
    """Which these are differs from run to run, but never is a frame listed that was right."""
    pytest.importorskip("mvextractor")
    video = real_videos["nasa_320x180_h264_high_bframes.mp4"]
    theirs = dump_of_mvextractor(video, tmp_path / "dump")
    right = list(one_thread_vectors(Path(video)))
    wrong = tuple(
        index
        for index, ((kind, vectors), (right_kind, right_vectors)) in enumerate(
            zip(theirs, right, strict=False)
        )
        if kind != right_kind
        or Counter(map(tuple, vectors.tolist())) != Counter(map(tuple, right_vectors.tolist()))
    )
    difference = compare_clips(open_clip(str(video)), open_clip(str(tmp_path / "dump")))
    assert difference.frames == wrong
    assert all(right[index][0] != "I" for index in wrong)
    # Its video is not the file's first stream: the capture loses the last frames.
    assert difference.content["frames"] == [len(right), len(theirs)]
    assert len(theirs) < len(right)
    assert not difference.is_equal
