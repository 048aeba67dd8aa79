"""The fault table: the outcome of difficult files, and that its own checks can fail."""

import json
import os
import signal
import time
from pathlib import Path

import av.error
import numpy as np
import pytest

from gopstream.jobs.bench.contained import run_contained
from gopstream.jobs.bench.fault_cases import CASES, checks_of
from gopstream.jobs.bench.fault_content import (
    combing,
    extract,
    has_one_size,
    is_deinterlaced,
    is_turned,
    keeps_times,
    shows_pictures,
    sound_frames_are_intact,
)
from gopstream.jobs.bench.fault_corpus import NUM_FRAMES, Expected, make_case, make_workshop
from gopstream.jobs.bench.fault_surgery import change_box, drop_idr, split_units, unit_type
from gopstream.jobs.bench.fault_table import (
    MODES,
    breaches,
    is_typed,
    render_document,
    run_case,
)
from gopstream.pipeline.errors import BitstreamError, NotAVideoError
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions

DOCS = Path(__file__).parents[2] / "docs"
QUICK = [case for case in CASES if not case.is_slow]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The workshop's folder and that of the files."""
    folder = tmp_path_factory.mktemp("corpus")
    workshop, files = folder / "workshop", folder / "files"
    make_workshop(workshop)
    files.mkdir()
    for case in QUICK:
        make_case(case, files, workshop=workshop)
    for mode in MODES:
        extract(workshop / "plain.mp4", mode=mode)
    return workshop, files


@pytest.mark.parametrize("case", QUICK, ids=lambda case: ascii(case.name)[1:-1])
def test_file_has_its_outcome_and_right_content(case, corpus):
    workshop, files = corpus
    assert run_case(case, files / case.name, workshop=workshop)["failures"] == []


def test_the_corpus_is_the_same_each_time(corpus, tmp_path):
    workshop, files = corpus
    make_workshop(tmp_path / "workshop")
    for case in QUICK:
        if (files / case.name).is_file() and "{video}" not in case.made:
            again = make_case(case, tmp_path, workshop=workshop).read_bytes()
            assert again == (files / case.name).read_bytes(), case.name
    for path in workshop.iterdir():
        assert (tmp_path / "workshop" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_document_is_that_of_the_result():
    result = json.loads((DOCS / "results" / "fault_table.json").read_text())
    assert result["holds"]
    assert [row["file"] for row in result["files"]] == [case.name for case in CASES]
    assert (DOCS / "faults.md").read_text() == render_document(result["files"])


def test_names_are_unique_and_every_group_hangs_together():
    assert len({case.name for case in CASES}) == len(CASES)
    groups = [case.group for case in CASES]
    changes = [a for a, b in zip(groups, [*groups[1:], None], strict=True) if a != b]
    assert len(changes) == len(set(groups))


# The table's own judgement


def result(outcome="extracted", frames=24, message="", peak_mib=100):
    return {"outcome": outcome, "frames": frames, "message": message, "peak_mib": peak_mib}


@pytest.mark.parametrize(
    ("got", "expected", "frames", "named"),
    [
        (result("untyped"), Expected("extracted"), 24, "must be extracted"),
        (result("hung"), Expected("refused"), None, "must be refused"),
        (result("nothing", 0), Expected("warned"), None, "must be warned"),
        (result(frames=23), Expected("extracted"), 24, "must have 24 frames"),
        (result(peak_mib=1537), Expected("extracted"), 24, "1537 MiB"),
        (result("warned", message="one"), Expected("warned", "other"), None, "must say 'other'"),
        (
            result("refused", message="TranscodeError: no video"),
            Expected("refused", "NotAVideoError: no video"),
            None,
            "must say",
        ),
        (
            result("refused", message="NotAVideoError: else"),
            Expected("refused", "NotAVideoError: no video"),
            None,
            "must say",
        ),
    ],
)
def test_each_breach_is_named(got, expected, frames, named):
    (found,) = breaches(got, expected, frames)
    assert named in found


def test_what_is_as_expected_is_no_breach():
    assert breaches(result(), Expected("extracted"), 24) == []
    refused = result("refused", frames=0, message="NotAVideoError: a.mp4: no video")
    assert breaches(refused, Expected("refused", "NotAVideoError: no video"), 24) == []


def test_only_errors_that_a_caller_expects_are_typed():
    assert all(map(is_typed, (NotAVideoError("a"), BitstreamError("a"), FileNotFoundError("a"))))
    ffmpeg = av.error.PermissionError(1, "a")
    assert isinstance(ffmpeg, OSError)
    assert not any(map(is_typed, (ffmpeg, ValueError("a"), MemoryError(), AttributeError("a"))))


# Containment


def contained(function, *, seconds=30.0, address_mib=65536):
    return run_contained(function, seconds=seconds, address_mib=address_mib)


def test_a_contained_function_returns():
    run = contained(lambda: {"pid": os.getpid()})
    assert run.end == "done"
    assert run.result["pid"] != os.getpid()
    assert run.peak_mib > 1


def test_a_crash_is_contained():
    run = contained(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert run.end == "crashed: SIGKILL"
    assert run.result is None


def test_an_error_is_contained(capfd):
    assert contained(lambda: {"a": 1 / 0}).end == "crashed: exit status 1"
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_hang_is_ended():
    assert contained(lambda: time.sleep(600), seconds=0.2).end == "hung"


def test_memory_is_limited():
    def allocate():
        try:
            np.ones(2**33, np.uint8)
        except MemoryError:
            return {"limited": True}
        return {"limited": False}

    own = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE") >> 20
    assert contained(allocate, address_mib=own + 1024).result == {"limited": True}


# Each check of content can fail


def test_turned_motion_and_pictures_are_checked(corpus):
    workshop, files = corpus
    found = is_turned(files / "rotated_90.mp4", plain=files / "rotated_180.mp4")
    assert [text.partition(":")[0] for text in found] == ["canonical", "native", "native"]


def test_frames_that_differ_unmarked_are_found(corpus):
    workshop, files = corpus
    found = sound_frames_are_intact(files / "plain.mp4", intact=workshop / "open_gop.mp4")
    assert len(found) == 2 * NUM_FRAMES
    found = sound_frames_are_intact(files / "plain.mp4", intact=workshop / "plain.mp4", first=-1)
    assert len(found) > NUM_FRAMES


def test_wrong_pictures_are_found(corpus):
    workshop, files = corpus
    for name in ("grey.mp4", "rotated_180.mp4"):
        assert shows_pictures(files / name, plain=workshop / "plain.mp4")
    assert has_one_size(files / "size_change.ts", second=workshop / "plain.mp4")
    assert is_deinterlaced(files / "plain.mp4")
    assert keeps_times(files / "negative_times.mkv")


def test_combing_is_that_of_two_moments():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(0, 3, (64, 64)), axis=0).astype(np.uint8)
    woven = smooth.copy()
    woven[::2] += 20
    assert combing(smooth) < 0.8 < 2 < combing(woven)


def test_every_extracted_case_has_its_content_checked(corpus):
    workshop, _ = corpus
    unchecked = [
        case.name
        for case in QUICK
        if case.canonical.outcome != "refused" and not checks_of(case, workshop=workshop)
    ]
    assert unchecked == ["hidden_middle.mp4"]


# What the corpus taught


def test_undamaged_frames_after_an_edit_list_are_not_called_damaged(corpus):
    (clip,) = extract_segments(
        corpus[1] / "edit_list.mp4", options=ExtractionOptions(mode="native")
    )
    assert clip.damaged_frames == clip.warnings == ()
    assert clip.residual is None
    assert clip.exactness == "the first picture shown is no I-frame"


def test_a_huge_picture_has_no_residual_that_would_not_fit_in_memory(corpus):
    options = ExtractionOptions(mode="native", segment_frames=100_000)
    (clip,) = extract_segments(corpus[1] / "plain.mp4", options=options)
    assert clip.residual is None
    assert "choose shorter segments" in clip.exactness


def test_surgery_changes_what_it_says(corpus):
    stream = (corpus[0] / "plain.h264").read_bytes()
    kinds = [unit_type(unit) for unit in split_units(stream)]
    assert b"".join(split_units(stream)) == stream
    assert kinds.count(5) == 2
    left = [unit_type(unit) for unit in split_units(drop_idr(stream, only_first=True))]
    assert left.count(5) == 1
    assert len(left) == len(kinds) - 1
    with pytest.raises(ValueError, match="box moov must occur 1 times, got 0"):
        change_box(b"nothing", b"moov", 0, 1)
