"""The seeded share of the fuzz that runs with every change, and the fuzz itself."""

import multiprocessing

import pytest

from gopstream.jobs.bench.fuzz import (
    Chunk,
    make_mutant,
    make_sources,
    run_chunk,
    run_fuzz,
    summarise,
)
from gopstream.jobs.bench.fuzz_mutations import _STEPS, mutate
from gopstream.jobs.worker_pool import ItemFault, Reporter

SHARE = 40


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "sources"
    make_sources(folder, videos=None)
    return folder


@pytest.fixture(scope="module")
def rows(sources):
    return run_fuzz(sources, seed=0, numbers=range(SHARE), workers=1)


def test_no_damage_crashes_hangs_or_surprises(rows):
    found = summarise(rows)
    assert found["failures"] == []
    assert found["holds"]
    assert [row["number"] for row in rows] == list(range(SHARE))


def test_the_damage_reaches_every_stage(rows):
    outcomes = summarise(rows)["outcomes"]
    for mode in ("canonical", "native"):
        assert outcomes[f"{mode}, warned"] > 3
        assert outcomes[f"{mode}, refused: NotAVideoError"] > 3
    assert outcomes["native, refused: BitstreamError"] > 0


def test_a_case_is_a_function_of_seed_and_number():
    contents = [bytes(range(256)) * 8, b"abc" * 500]
    first = [mutate(contents, seed=0, number=number) for number in range(300)]
    assert first == [mutate(contents, seed=0, number=number) for number in range(300)]
    assert first[7] == mutate(contents, seed=0, number=7)
    assert first != [mutate(contents, seed=1, number=number) for number in range(300)]
    assert {step for mutant in first for step in mutant.steps} == set(_STEPS)
    assert {mutant.source for mutant in first} == {0, 1}
    changed = [mutant.content != contents[mutant.source] for mutant in first]
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.parametrize("content", [b"", b"a", b"ab"])
def test_tiny_files_can_be_damaged(content):
    for number in range(100):
        mutate([content], seed=0, number=number)


def test_a_case_can_be_run_again_alone(sources, rows):
    for number in (0, 1, 2, 3):
        # In a process of its own: this one may hold more memory than a case is granted.
        (again,) = run_fuzz(sources, seed=0, numbers=range(number, number + 1), workers=1)
        for name in ("source", "steps", "outcome", "message"):
            assert again[name] == rows[number][name]
    source, mutant = make_mutant(sources, seed=0, number=2)
    assert (source, list(mutant.steps)) == (rows[2]["source"], rows[2]["steps"])


def test_crashes_and_hangs_are_reported_with_their_numbers(sources):
    near, far = multiprocessing.Pipe()
    faults = {
        0: ItemFault("CrashedError", "this video killed the worker process: SIGSEGV"),
        1: ItemFault("StalledError", "no progress for 60 s"),
    }
    found = summarise(run_chunk(Chunk(sources, 0, (10, 11)), Reporter(far), faults))
    assert not found["holds"]
    assert [(row["number"], row["outcome"]) for row in found["failures"]] == [
        (10, "crashed"),
        (11, "hung"),
    ]
    assert near.poll()


@pytest.mark.parametrize("outcome", ["untyped", "memory"])
def test_other_faults_fail_the_proof(outcome):
    row = {"number": 1, "mode": "native", "peak_mib": 9, "seconds": 0.1}
    assert not summarise([{**row, "outcome": outcome}])["holds"]
    assert summarise([{**row, "outcome": "refused: NotAVideoError"}])["holds"]
    assert not summarise([])["holds"]
