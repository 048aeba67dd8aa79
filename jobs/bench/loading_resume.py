"""Proof that training can be stopped anywhere and continued on other hardware, with the same clips.

A run over a small dataset is left in peace, and each of its clips is told by a hash of all its
decoded bytes. Then, for each position of an epoch, the run's state of that moment is taken up by
other numbers of ranks and of worker processes. What all ranks show together must be the rest of the
epoch, clip for clip and byte for byte; what fills the last step must be marked, and what is dropped
must be the remainder and nothing else. Datasets of several sizes, orders, weights, a mixture,
selections, and a dataset that has grown since.

Real worker processes for each combination of three datasets; of the others a share that a seed
draws, and none for the rest. Then two processes train together, are killed again and again, and
must have the losses and the weights of a run that nobody stopped.
"""

import argparse
import hashlib
import itertools
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.loading_killed import prove_kills
from gopstream.jobs.bench.loading_resume_cases import Case, Roots, make_cases
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import SPLIT, hardware
from gopstream.jobs.console import progress
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, VectorSpec
from gopstream.shards.loading.epoch_orders import EpochOrders
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.order import Shuffle
from gopstream.shards.loading.places import LAST_BATCHES, EpochBatches, LastBatch, Place, Share
from gopstream.shards.loading.transform_spec import TransformSpec
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset

WORLD_SIZES: Final = (1, 2, 3, 4, 8)
WORKERS: Final = (0, 1, 2, 4)
BATCH_SIZES: Final = (1, 2, 3)
SEED: Final = 20
SPEC: Final = ClipSpec(
    num_frames=2,
    transform=TransformSpec(size=16, flip=0.5, jitter=0.5, brightness=0.4, erase=0.5),
    vectors=VectorSpec(grid=4),
)
SIZES: Final = (1, 2, 5, 7, 12, 16, 23, 24, 31, 40)
"""Lengths of the epochs whose places alone are looked at."""


class Shown(NamedTuple):
    """A clip that came out of a loader."""

    position: int
    key: str
    label: int
    content: str
    """Hash of all its bytes."""
    is_repeat: bool = False


class Combination(NamedTuple):
    """How a run goes on."""

    stop: int
    """Position at which it was stopped."""
    world_size: int
    workers: int
    """Of each rank."""
    batch_size: int
    last: LastBatch

    def share(self, rank: int) -> Share:
        """Return a rank's part."""
        return Share(self.batch_size, rank, self.world_size, self.last)


@dataclass(frozen=True, slots=True)
class Peace:
    """What a run shows that nobody stops."""

    epochs: tuple[list[Shown], list[Shown]]
    """The present one, and the next over all samples there are then."""
    states: list[dict[str, Any]]
    """After each clip of the first epoch; the first is that before any."""


def shown(batch: ClipBatch) -> list[Shown]:
    """Tell the clips of a batch."""
    planes = [batch.frames, batch.vectors, batch.coverage]
    rows = []
    for i, (key, position) in enumerate(zip(batch.keys, batch.positions.tolist(), strict=True)):
        content = hashlib.blake2b(digest_size=16)
        for plane in planes:
            assert plane is not None
            content.update(plane[i].numpy().tobytes())
        facts = int(batch.labels[i]), content.hexdigest(), bool(batch.is_repeat[i])
        rows.append(Shown(position, key, *facts))
    return rows


def loader_of(
    case: Case, dataset: ShardDataset | MixedDataset, share: Share, *, workers: int = 0
) -> StreamingLoader:
    """Return a loader at the beginning of a case's run."""
    return StreamingLoader(
        dataset,
        SPEC,
        batch_size=share.batch_size,
        seed=SEED,
        workers=workers,
        weights=case.weights,
        shuffle=case.shuffle,
        rank=share.rank,
        world_size=share.world_size,
        last=share.last,
    )


def run_in_peace(case: Case) -> Peace:
    """Show an epoch and the one after it on a single process, clip by clip."""
    running = loader_of(case, case.before, Share(1))
    states = [running.state_dict()]
    first = []
    for batch in running:
        first += shown(batch)
        states.append(running.state_dict())
    later = loader_of(case, case.after, Share(1))
    later.load_state_dict(later.state_dict() | {"epoch": 1})
    second = [clip for batch in later for clip in shown(batch)]
    return Peace((first, second), [json.loads(json.dumps(state)) for state in states])


def check_peace(case: Case, peace: Peace) -> list[str]:
    """Return what is wrong with the run in peace; the others are only compared with it."""
    found = []
    for number, clips in enumerate(peace.epochs):
        if [clip.position for clip in clips] != list(range(len(clips))):
            found.append(f"{case.name}: epoch {number} leaves out positions")
        dataset = (case.before, case.after)[number]
        if isinstance(dataset, MixedDataset) or case.weights is not None:
            continue
        if Counter(clip.key for clip in clips) != Counter(dataset.keys):
            found.append(f"{case.name}: epoch {number} is no permutation of the samples")
    if len({clip.content for clip in peace.epochs[0]}) < len(peace.epochs[0]):
        found.append(f"{case.name}: clips cannot be told apart")
    return found


def check_rest(how: Combination, ranks: list[list[list[Shown]]], peace: Peace) -> list[str]:
    """Return what is wrong with what all ranks have shown of the rest of an epoch.

    Args:
        how: The run went on.
        ranks: The clips of each batch of each rank.
        peace: What it must have shown.
    """
    step = how.batch_size * how.world_size
    clips, first = peace.epochs[0], how.stop
    if len(clips) - first < (step if how.last == "drop" else 1):
        clips, first = peace.epochs[1], 0  # nothing was left of the epoch
    if len({len(batches) for batches in ranks}) > 1:
        return [f"{how}: ranks have {[len(batches) for batches in ranks]} batches"]
    together = [clip for batches in zip(*ranks, strict=True) for batch in batches for clip in batch]
    left = len(clips) - first
    count = left - left % step if how.last == "drop" else -(-left // step) * step
    want = [
        clips[position % len(clips)]._replace(is_repeat=position >= len(clips))
        for position in range(first, first + count)
    ]
    if together == want:
        return []
    wrong = [
        number for number, pair in enumerate(zip(together, want, strict=False)) if len({*pair}) > 1
    ]
    return [f"{how}: {len(together)} clips instead of {count}, wrong are those of {wrong}"]


def go_on(case: Case, peace: Peace, how: Combination) -> tuple[list[list[list[Shown]]], list[str]]:
    """Take up a state on all ranks; returns what they show, and what is wrong with it."""
    ranks = []
    for rank in range(how.world_size):
        loader = loader_of(case, case.after, how.share(rank), workers=how.workers)
        loader.load_state_dict(peace.states[how.stop])
        ranks.append([shown(batch) for batch in loader])
    return ranks, [f"{case.name}: {text}" for text in check_rest(how, ranks, peace)]


def combinations(
    case: Case, peace: Peace, *, rng: random.Random, share: float
) -> Iterator[Combination]:
    """Yield how a case's run goes on: each way without workers, and with them as it says."""
    for stop in range(len(peace.states)):
        for world_size in WORLD_SIZES:
            for workers in WORKERS:
                batch_size = rng.choice(BATCH_SIZES)
                is_tried = case.all_workers or rng.random() < share
                lasts = LAST_BATCHES if workers == 0 else (rng.choice(LAST_BATCHES),)
                for last in lasts if workers == 0 or is_tried else ():
                    fits = batch_size * world_size <= len(peace.epochs[1])
                    yield Combination(
                        stop, world_size, workers, batch_size, last if fits else "fill"
                    )


def check_states(case: Case, peace: Peace, *, rng: random.Random) -> list[str]:
    """Stop runs of all numbers of ranks and workers; returns where their state is another one."""
    found = []
    for world_size in WORLD_SIZES:
        for workers in WORKERS:
            rank, batch_size = rng.randrange(world_size), rng.choice(BATCH_SIZES)
            share = Share(batch_size, rank, world_size, "fill")
            running = loader_of(case, case.before, share, workers=workers)
            position = 0
            for _ in running:
                position += share.step_size
                if position < len(peace.states) and running.state_dict() != peace.states[position]:
                    found.append(f"{case.name}: state of {share}, {workers} workers at {position}")
    return found


def prove_case(case: Case, *, share: float) -> dict[str, Any]:
    """Stop a case's run everywhere and go on in all ways.

    Args:
        case: The run.
        share: Part of the combinations with workers that is tried, unless all are.

    Returns:
        How much was compared, and ``failures``.
    """
    rng = random.Random(f"{SEED} {case.name}")
    peace = run_in_peace(case)
    found = check_peace(case, peace) + check_states(case, peace, rng=rng)
    ways = list(combinations(case, peace, rng=rng, share=share))
    row: dict[str, Any] = {"name": case.name, "positions": len(peace.epochs[0])}
    row |= {"combinations": len(ways), "with_workers": 0, "loaders": 0, "worker_processes": 0}
    row["clips"] = 0
    with progress(case.name, total=len(ways), unit="ways to go on") as advance:
        for how in ways:
            ranks, wrong = go_on(case, peace, how)
            found += wrong
            row["with_workers"] += how.workers > 0
            row["loaders"] += how.world_size
            row["worker_processes"] += how.world_size * how.workers
            row["clips"] += sum(len(batch) for batches in ranks for batch in batches)
            advance()
    return row | {"failures": found}


def prove_places(dataset: ShardDataset, sizes: Sequence[int]) -> dict[str, Any]:
    """Look at the places alone, of epochs of many lengths, in every combination.

    Returns:
        ``sizes``, the number of ``combinations``, and ``failures``.
    """
    found, count = [], 0
    with progress("places alone", total=len(sizes), unit="lengths of epochs") as advance:
        for size in sizes:
            orders = EpochOrders(
                MixedDataset([dataset], num_samples=size), seed=SEED, shuffle=Shuffle()
            )
            ways = itertools.product(
                range(size + 1), WORLD_SIZES, WORKERS[1:], BATCH_SIZES, LAST_BATCHES
            )
            for how in map(Combination._make, ways):
                found += [f"{size} samples: {text}" for text in _check_places(orders, how)]
                count += 1
            advance()
    return {"sizes": list(sizes), "combinations": count, "failures": found}


def _check_places(orders: EpochOrders, how: Combination) -> list[str]:
    """Return what is wrong with the places of the rest of an epoch."""
    order = orders.order(0, orders.num_samples).tolist()
    ranks = []
    for rank in range(how.world_size):
        batches = EpochBatches(orders, how.share(rank), num_workers=how.workers)
        batches.load_state_dict(batches.state_dict() | {"position": how.stop})
        told = list(batches.rest())
        for number, batch in enumerate(told):
            behind = told[number + how.workers :][:1]
            if batch.ahead != (behind[0].places if behind else ()):
                return [f"{how}: a worker is told of another batch than its next"]
        ranks.append([batch.places for batch in told])
    together = [place for batches in zip(*ranks, strict=True) for b in batches for place in b]
    step = how.batch_size * how.world_size
    left = len(order) - how.stop
    count = left - left % step if how.last == "drop" else -(-left // step) * step
    numbers = range(how.stop, how.stop + count)
    want = [
        Place(0, n % len(order), order[n % len(order)], is_repeat=n >= len(order)) for n in numbers
    ]
    return [] if together == want else [f"{how}: {together}"]


def prove(folder: Path, *, share: float, stops: int) -> dict[str, Any]:
    """Do all of it in a folder.

    Args:
        folder: For datasets and runs.
        share: Part of the combinations with workers that is tried where not all are.
        stops: How often training is killed.
    """
    roots = Roots(folder)
    cases = make_cases(roots)
    return {
        "places": prove_places(ShardDataset(roots.few, SPLIT), SIZES),
        "clips": [prove_case(case, share=share) for case in cases],
        "kills": prove_kills(roots.grown, folder, stops=stops, seed=SEED),
    }


def failures(result: dict[str, Any]) -> list[str]:
    """Name what went wrong, and what was not proven."""
    parts = [result["places"], *result["clips"], result["kills"]]
    found = [text for part in parts for text in part["failures"]]
    found += [f"{row['name']}: no workers" for row in result["clips"] if not row["with_workers"]]
    return found


def _table(result: dict[str, Any]) -> Table:
    names = ("positions", "combinations", "with_workers", "worker_processes", "clips")
    table = Table("run", *(name.replace("_", " ") for name in names))
    for row in result["clips"]:
        table.add_row(row["name"], *(str(row[name]) for name in names))
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.loading_resume",
        description="Training stops anywhere and goes on elsewhere with the same clips.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--share", type=float, default=0.05, help="of ways to go on with workers")
    parser.add_argument("--stops", type=int, default=12, help="how often training is killed")
    given = parser.parse_args()
    # More workers than cores are meant here.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        result = prove(Path(folder).resolve(), share=given.share, stops=given.stops)
    Console().print(_table(result))
    found = failures(result)
    content = {
        "command": "python -m gopstream.jobs.bench.loading_resume --json FILE "
        f"--share {given.share:g} --stops {given.stops}",
        "claim": "stopped after any clip of an epoch and continued with any number of ranks and "
        "workers, training sees the rest of the epoch, with the same bytes; two processes that are "
        "killed again and again have the losses and weights of two that are not",
        "holds": not found,
        "failures": found,
        "seconds": round(time.monotonic() - begun),
        "hardware": hardware(),
        "world_sizes": WORLD_SIZES,
        "workers": WORKERS,
        **result,
    }
    write_report(given.json_file, content, name="loading_resume")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
