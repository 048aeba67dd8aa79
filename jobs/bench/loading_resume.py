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
import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from gopstream.jobs.bench.loading_killed import prove_kills
from gopstream.jobs.bench.loading_resume_cases import Case, make_cases
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.console import progress
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, VectorSpec
from gopstream.shards.loading.epoch_orders import EpochOrders
from gopstream.shards.loading.loader import StreamingLoader
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
        keys = Counter(clip.key for clip in clips)
        dataset = (case.before, case.after)[number]
        if case.is_permutation and keys != Counter(dataset.keys_of_all()):
            found.append(f"{case.name}: epoch {number} is no permutation of the samples")
    if len({clip.content for clip in peace.epochs[0]}) < len(peace.epochs[0]):
        found.append(f"{case.name}: clips cannot be told apart")
    return found
