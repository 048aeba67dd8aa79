"""Proof that no damage of a dataset gives a wrong or missing sample in silence, or a hang.

A small dataset with all planes is damaged in every way of
:mod:`gopstream.jobs.bench.loading_damage`, one at a time. It is then loaded for two epochs from
disk, from a loopback server by ranges, and from that server with a cache; by this process and by
two workers; with ``on_error`` ``raise`` and ``skip``. What must be unreadable is computed from the
bytes that the clips of the intact dataset ask for. With ``skip`` exactly those clips are left out
and reported, and every other one has the very bytes that it had; with ``raise`` the batches before
the first such clip are as they were, and the error names shard and sample.
"""

import argparse
import faulthandler
import hashlib
import itertools
import multiprocessing
import shutil
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from rich.console import Console

from gopstream.jobs.bench.load_server import BUCKET, loopback_server
from gopstream.jobs.bench.loading_damage import SPLIT, Damage, Harm, Victim, damages
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_videos import write_small_videos
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.object_store import StoreOptions
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.byte_ranges import Cache, ReadOptions, Span
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, VectorSpec
from gopstream.shards.loading.clips import ON_ERROR, OnError
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.transform_spec import TransformSpec
from gopstream.shards.reader import ShardDataset
from gopstream.shards.storage import Storage, open_storage

Source = Literal["disk", "server", "server with cache"]
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
WORKERS: Final = (0, 2)
EPOCHS: Final = 2
BATCH_SIZE: Final = 6
NUM_VIDEOS: Final = 12
SPEC: Final = ClipSpec(
    num_frames=4,
    stride=2,
    transform=TransformSpec(size=32, flip=0.5),
    motion=MotionSpec(query_stride=2, subclip_frames=2, grid=4),
    vectors=VectorSpec(grid=4),
    residual=True,
)
"""Asks for bytes of every plane."""
_SEED: Final = 1
_MOST_BYTES: Final = 64 << 20
_HANG_SECONDS: Final = 300.0
_PATIENCE_SECONDS: Final = 10.0


def make_dataset(folder: Path) -> Path:
    """Shard small videos: four shards of three samples with all planes."""
    write_small_videos(folder / "videos", count=NUM_VIDEOS, with_broken=False)
    options = ExtractionOptions(canonical=CanonicalFormat(gop=5))
    shard_folder(
        folder / "videos",
        folder / "intact",
        options=options,
        split=SPLIT,
        choice=PlanChoice(videos_per_shard=3),
    )
    return folder / "intact"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a loader gave."""

    batches: list[dict[int, tuple[str, str]]] = field(default_factory=list)
    """Of each batch, by position, counted over all epochs: key, and hash of all arrays."""
    skipped: dict[int, str] = field(default_factory=dict)
    """Messages by position, likewise."""
    errors: list[Exception] = field(default_factory=list)
    """The one that ended it, if one did."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The intact dataset."""

    shown: Shown
    spans: dict[int, list[Span]]
    """By position: bytes that the clip needs."""
    shards: dict[int, str]
    """By position."""

    def unreadable(self, harm: Harm) -> set[int]:
        """Return the positions whose clips must be found unreadable."""
        keys = {p: key for batch in self.shown.batches for p, (key, _) in batch.items()}
        return {
            position
            for position, spans in self.spans.items()
            if self.shards[position] in harm.shards
            or keys[position] in harm.samples
            or any(_overlap(one, other) for one in spans for other in harm.spans)
        }


def _overlap(one: Span, other: Span) -> bool:
    is_before = one.offset + one.length <= other.offset
    return one.name == other.name and not is_before and one.offset < other.offset + other.length


def load(dataset: ShardDataset, *, workers: int, on_error: OnError) -> Shown:
    """Load all epochs, up to the first error."""
    shown = Shown()
    try:
        loader = StreamingLoader(
            dataset,
            SPEC,
            batch_size=BATCH_SIZE,
            seed=_SEED,
            workers=workers,
            on_error=on_error,
            pin_memory=False,
        )
        for epoch in range(EPOCHS):
            for batch in loader:
                first = epoch * len(dataset)
                shown.batches.append(hashes(batch, first=first))
                shown.skipped.update({first + s.position: s.message for s in batch.skipped})
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        shown.errors.append(error)
    return shown


def hashes(batch: ClipBatch, *, first: int = 0) -> dict[int, tuple[str, str]]:
    """Return key and hash of each clip of a batch, by its position.

    Args:
        batch: With all planes.
        first: Added to positions.
    """
    found = {}
    for row, (key, position) in enumerate(zip(batch.keys, batch.positions.tolist(), strict=True)):
        digest = hashlib.sha256(str(int(batch.labels[row])).encode())
        for name in ("frames", "motion", "valid", "vectors", "coverage", "residual"):
            digest.update(getattr(batch, name)[row].contiguous().numpy().tobytes())
        found[first + position] = key, digest.hexdigest()
    return found


def expect(root: Path) -> Expected:
    """Load the intact dataset from disk and note what each clip asks for."""
    dataset = ShardDataset(root, SPLIT)
    asked: list[list[Span]] = []
    ranges: Any = dataset._ranges
    start = ranges.start

    def watched(spans: Sequence[Span]) -> object:
        asked.append(list(spans))
        return start(spans)

    ranges.start = watched
    shown = load(dataset, workers=0, on_error="raise")
    if shown.errors:
        raise shown.errors[0]
    positions = [position for batch in shown.batches for position in batch]
    spans = dict(zip(positions, asked, strict=True))
    shards = {p: Path(own[0].name).name.partition(".")[0] for p, own in spans.items()}
    return Expected(shown, spans, shards)


def failures(shown: Shown, harm: Harm, *, expected: Expected, on_error: OnError) -> list[str]:
    """Return what is wrong with what a loader gave of a damaged dataset."""
    if harm.is_refused:
        return [] if _is_named(shown, "manifest.json") and not shown.batches else ["not refused"]
    unreadable = expected.unreadable(harm)
    if on_error == "raise" and unreadable:
        return _failures_of_raise(shown, harm, unreadable, expected=expected)
    if harm.moves_positions:
        shards = {position: expected.shards[position] for position in unreadable}
        return _failures_of_other_order(shown, set(shards.values()))
    found = [f"ended: {error!r:.300}" for error in shown.errors]
    if len(shown.batches) != len(expected.shown.batches):
        found.append(f"{len(shown.batches)} batches, not {len(expected.shown.batches)}")
    for batch, before in zip(shown.batches, expected.shown.batches, strict=False):
        wanted = {p: clip for p, clip in before.items() if p not in unreadable}
        if list(batch) != list(wanted):
            found.append(f"positions {list(batch)}, not {list(wanted)}")
        elif batch != wanted:
            found.append(f"wrong samples at {[p for p in batch if batch[p] != wanted[p]]}")
    if not shown.errors and set(shown.skipped) != unreadable:
        found.append(f"reported {sorted(shown.skipped)}, not {sorted(unreadable)}")
    for position, message in shown.skipped.items():
        if expected.shards[position] not in message:
            found.append(f"does not name the shard: {message}")
    return found


def _failures_of_raise(
    shown: Shown, harm: Harm, unreadable: set[int], *, expected: Expected
) -> list[str]:
    before = list(
        itertools.takewhile(lambda batch: not unreadable & set(batch), expected.shown.batches)
    )
    is_same = harm.moves_positions or shown.batches == before
    found = [] if is_same else ["the batches before the error differ"]
    hit = {**expected.shown.batches[len(before)]}
    named = [
        position
        for position in unreadable & set(hit)
        if _is_named(shown, expected.shards[position])
        # What keys a shard has only its index says.
        and (expected.shards[position] in harm.shards or _is_named(shown, hit[position][0]))
    ]
    if not named:
        found.append(f"no error that names shard and sample: {[repr(e) for e in shown.errors]}")
    return found


def _failures_of_other_order(shown: Shown, shards: set[str]) -> list[str]:
    """Judge a dataset that has another number of samples, and so another order."""
    found = [f"ended: {error!r:.300}" for error in shown.errors]
    if not shown.skipped:
        found.append("nothing was reported")
    if not all(any(shard in text for shard in shards) for text in shown.skipped.values()):
        found.append("another shard was left out")
    return found


def _is_named(shown: Shown, *names: str) -> bool:
    return any(
        isinstance(error, ShardError) and any(name in str(error) for name in names)
        for error in shown.errors
    )


@contextmanager
def opened(
    root: Path, source: Source, *, endpoint: str, folder: Path
) -> Iterator[tuple[Storage, ReadOptions]]:
    """Give a dataset's place and how it is read.

    Args:
        root: Its folder, directly below that of the server.
        source: Where it is read from.
        endpoint: Of the server.
        folder: Below which the cache is made, and removed in the end.
    """
    if source == "disk":
        yield open_storage(root), ReadOptions()
        return
    options = StoreOptions(
        endpoint=endpoint,
        region="us-east-1",
        anonymous=True,
        patience_seconds=_PATIENCE_SECONDS,
    )
    storage = open_storage(f"s3://{BUCKET}/{root.name}", options)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cache = Cache(Path(place), 1 << 30) if source == "server with cache" else None
        yield storage, ReadOptions(cache=cache, planes=("frames", "motion", "residual"))


class Case(NamedTuple):
    """One way to load a damaged dataset."""

    damage: str
    source: Source
    workers: int
    on_error: OnError


def run_case(
    case: Case, root: Path, *, harm: Harm, expected: Expected, endpoint: str
) -> dict[str, Any]:
    """Load a damaged dataset in one way; returns ``failures`` and what was counted."""
    others = multiprocessing.active_children()
    faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
    is_hostile = case.damage.startswith("hostile")
    if is_hostile:  # it takes time
        tracemalloc.start()
    try:
        with opened(root, case.source, endpoint=endpoint, folder=root.parent) as (storage, reading):
            shown = _open_and_load(storage, reading, case)
        peak = tracemalloc.get_traced_memory()[1]  # 0 where nothing is traced
    finally:
        tracemalloc.stop()
        faulthandler.cancel_dump_traceback_later()
    found = failures(shown, harm, expected=expected, on_error=case.on_error)
    left = [child for child in multiprocessing.active_children() if child not in others]
    if left:
        found.append(f"{len(left)} workers still run")
    if peak > _MOST_BYTES:
        found.append(f"{peak / 1e6:.0f} MB were allocated")
    clips, skipped = sum(map(len, shown.batches)), len(shown.skipped)
    return {"clips": clips, "skipped": skipped, "failures": found}


def _open_and_load(storage: Storage, reading: ReadOptions, case: Case) -> Shown:
    try:
        dataset = ShardDataset(storage, SPLIT, reading=reading)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        return Shown(errors=[error])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are expected: clips are left out
        shown = load(dataset, workers=case.workers, on_error=case.on_error)
    dataset._ranges.close()
    return shown


def prove_damage(
    name: str,
    damage: Damage,
    *,
    intact: Path,
    expected: Expected,
    endpoint: str,
    ways: Sequence[tuple[Source, int, OnError]],
) -> dict[str, Any]:
    """Damage a copy of the dataset beside it and load it in some ways."""
    root = intact.with_name("damaged")
    shutil.copytree(intact, root)
    try:
        shards = sorted(path.name[:6] for path in (root / SPLIT).glob("*.index.npz"))
        harm = damage(Victim(root, shards[1], shards[2], number=1))
        rows = {}
        for way in ways:
            case = Case(name, *way)
            rows[", ".join(map(str, way))] = run_case(
                case, root, harm=harm, expected=expected, endpoint=endpoint
            )
    finally:
        shutil.rmtree(root)
    unreadable = len(expected.unreadable(harm))
    return {"unreadable": unreadable, "is_refused": harm.is_refused, "ways": rows}


def all_ways() -> list[tuple[Source, int, OnError]]:
    """Return every way to load."""
    return list(itertools.product(SOURCES, WORKERS, ON_ERROR))


def prove(folder: Path, kinds: Mapping[str, Damage] | None = None) -> dict[str, Any]:
    """Make a dataset and damage it in all ways; returns a row for each, by name."""
    intact = make_dataset(folder)
    expected = expect(intact)
    rows = {}
    with loopback_server(folder) as server:
        for name, damage in (kinds or damages()).items():
            rows[name] = prove_damage(
                name,
                damage,
                intact=intact,
                expected=expected,
                endpoint=server.endpoint,
                ways=all_ways(),
            )
            unreadable = "refused" if rows[name]["is_refused"] else rows[name]["unreadable"]
            Console().print(f"{name}: {unreadable} of {len(expected.spans)} clips are unreadable")
    return rows


def all_failures(rows: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in all rows."""
    return [
        f"{name}, {way}: {text}"
        for name, row in rows.items()
        for way, result in row["ways"].items()
        for text in result["failures"]
    ]


def main() -> None:
    """Run the proof; exits with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m gopstream.jobs.bench.loading_faults")
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    json_file: Path = parser.parse_args().json_file
    with tempfile.TemporaryDirectory(prefix="gopstream-faults-") as folder:
        rows = prove(Path(folder))
    found = all_failures(rows)
    for text in found:
        Console().print(text, markup=False, soft_wrap=True)
    write_report(json_file, {"damages": rows, "failures": found}, name="loading_faults")
    if found:
        sys.exit(1)


if __name__ == "__main__":
    main()
