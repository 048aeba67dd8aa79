"""A share of the proofs that no damage goes unnoticed and that loading leaves nothing behind."""

import itertools

import pytest

pytest.importorskip("torch", reason="loading needs torch")

from gopstream.jobs.bench import loading_damage, loading_faults, loading_leaks  # noqa: E402
from gopstream.jobs.bench.load_server import loopback_server  # noqa: E402
from gopstream.shards.byte_ranges import Span  # noqa: E402
from gopstream.shards.errors import DamageError  # noqa: E402

KINDS = loading_damage.damages()
# Workers take a second each time: one kind of each sort goes through them.
WITH_WORKERS = ("a flipped bit in motion", "a deleted shard", "a cut index")
NUMBERED = [pytest.param(number, name, id=name) for number, name in enumerate(KINDS)]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    root = loading_faults.make_dataset(tmp_path_factory.mktemp("faults"))
    with loopback_server(root.parent) as server:
        yield root, loading_faults.expect(root), server.endpoint


def prove(intact, name, ways):
    root, expected, endpoint = intact
    damage = loading_damage.damages()[name]
    row = loading_faults.prove_damage(
        name, damage, intact=root, expected=expected, endpoint=endpoint, ways=ways
    )
    assert loading_faults.all_failures({name: row}) == []
    return row


@pytest.mark.parametrize(("number", "name"), NUMBERED)
def test_damage_is_said_and_nothing_else_changes(intact, number, name):
    """Each kind from one of the sources in turn, with both ways to take errors."""
    source = loading_faults.SOURCES[number % 3]
    ways = [(source, 0, on_error) for on_error in ("raise", "skip")]
    row = prove(intact, name, ways)
    is_unread = name.endswith((" cls", " json"))
    assert (row["unreadable"] > 0 or row["is_refused"]) != is_unread


def test_a_length_beyond_the_file_takes_no_memory(intact):
    prove(intact, "hostile index: a length beyond the file", [("disk", 0, "skip")])


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_damage_is_said_by_workers(intact, name):
    prove(intact, name, [("disk", 2, "raise"), ("server", 2, "skip")])


def shown_of(expected, **changes):
    batches = [dict(batch) for batch in expected.shown.batches]
    return loading_faults.Shown(**({"batches": batches, "skipped": {}, "errors": []} | changes))


def test_faults_of_a_loader_are_found(intact):
    """The judge is not blind: a wrong, a missing, a repeated clip, a wrong report, no report."""
    _, expected, _ = intact
    none = loading_damage.Harm()

    def judged(harm=none, on_error="skip", **changes):
        shown = shown_of(expected, **changes)
        return loading_faults.failures(shown, harm, expected=expected, on_error=on_error)

    assert judged() == judged(on_error="raise") == []
    batches = shown_of(expected).batches
    (key, _) = batches[0][0]
    assert judged(batches=[batches[0] | {0: (key, "other")}, *batches[1:]]) == [
        "wrong samples at [0]"
    ]
    missing = [{p: clip for p, clip in batches[0].items() if p}, *batches[1:]]
    assert len(judged(batches=missing)) == 1
    assert judged(batches=batches[:-1]) == ["3 batches, not 4"]
    assert judged(skipped={0: f"shard {expected.shards[0]}"}) == ["reported [0], not []"]
    harm = loading_damage.Harm(samples=frozenset([key]))
    assert judged(harm, batches=missing, skipped={0: "nothing"})
    assert judged(harm, "raise")
    named = DamageError(f"shard x/{expected.shards[0]}, sample {key}: damaged")
    assert judged(harm, "raise", batches=[], errors=[named]) == []
    assert judged(harm, "raise", batches=[], errors=[MemoryError(str(named))])
    assert judged(harm, "raise", batches=batches[:1], errors=[named])


def test_the_bytes_of_a_clip_decide_what_is_unreadable(intact):
    _, expected, _ = intact
    span = next(span for span in expected.spans[5] if span.length > 2)
    hit = loading_damage.Harm((Span(span.name, span.offset + span.length - 1, 1),))
    assert 5 in expected.unreadable(hit)
    beside = loading_damage.Harm((Span("train/999999.tar", 0, 1 << 40),))
    assert expected.unreadable(beside) == set()


@pytest.fixture(scope="module")
def leaks(tmp_path_factory):
    return loading_leaks.prove(tmp_path_factory.mktemp("leaks"), videos=40, epochs=3)


def test_nothing_is_left_when_loading_ends_however_it_ends(leaks):
    assert leaks["failures"] == []
    peace = leaks["rows"]["in peace"]
    assert peace["epochs"][0]["processes"] == 1 + loading_leaks.WORKERS
    assert peace["epochs"][0]["sockets"] > 0
    assert peace["cached_files"] > 0
    assert peace["bytes_sent"] > peace["cached_bytes"]
    assert [leaks["rows"][end]["workers"] for end in loading_leaks.ENDS[1:]] == [2, 2]


def test_leaks_are_found(leaks):
    def judged(**changes):
        rows = dict(leaks["rows"])
        rows["in peace"] = rows["in peace"] | changes
        return loading_leaks.failures(rows, dataset_bytes=leaks["dataset_bytes"], samples=40)

    epochs = leaks["rows"]["in peace"]["epochs"]
    for kind, more in (("memory_mib", 9), ("files", 1), ("sockets", 5), ("processes", 1)):
        worse = [*epochs, epochs[-1] | {kind: max(row[kind] for row in epochs) + more}]
        assert len(judged(epochs=worse)) == 1
    assert judged(left=["process 7"]) == ["in peace: process 7 is left"]
    assert judged(fetched_again=1) == ["1 files were fetched again"]
    assert judged(cached_bytes=leaks["dataset_bytes"])
    assert judged(epochs=[row | {"clips": 39} for row in epochs])


def test_all_ways_are_proven():
    assert len(loading_faults.all_ways()) == len(set(loading_faults.all_ways())) == 12
    assert set(itertools.chain(*loading_faults.all_ways())) >= {"disk", "server", 0, 2, "skip"}
