"""Small datasets, orders and selections for the proof about resuming."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.bench.sharding_runs import SPLIT
from gopstream.jobs.bench.sharding_videos import write_small_videos
from gopstream.jobs.preprocess import shard_videos
from gopstream.jobs.sharding_job import PlanChoice, ShardingJob
from gopstream.jobs.source_videos import VideoSource
from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat
from gopstream.shards.loading.order import Shuffle
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset

FEW: Final = 7
SOME: Final = 16
MANY: Final = 23
"""``SOME`` to which ``FEW`` were appended."""
_OPTIONS: Final = ExtractionOptions(
    planes=("frames", "motion"), canonical=CanonicalFormat(short_side=48, gop=4)
)
_CHOICE: Final = PlanChoice(videos_per_shard=3)


@dataclass(frozen=True, slots=True)
class Case:
    """What a run shows, and how it is mixed."""

    name: str
    before: ShardDataset | MixedDataset
    """When the run is stopped."""
    after: ShardDataset | MixedDataset
    """When it goes on."""
    shuffle: Shuffle = Shuffle()
    weights: npt.NDArray[np.floating[Any]] | None = None
    all_workers: bool = False
    """Whether each combination is tried with worker processes, or a share of them."""


class Roots:
    """Three datasets, each of which is made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        """Make them in a folder."""
        self._folder = folder

    @property
    def few(self) -> Path:
        """Seven samples."""
        return self._made("few", first=0, count=FEW)

    @property
    def some(self) -> Path:
        """Sixteen."""
        return self._made("some", first=100, count=SOME)

    @property
    def grown(self) -> Path:
        """The sixteen, and seven that were appended."""
        root = self._folder / "grown"
        if not root.exists():
            shutil.copytree(self.some, root)
            shutil.copytree(self._folder / "some-videos", self._folder / "grown-videos")
            self._shard(root, first=200, count=FEW, append=True)
        return root

    def _made(self, name: str, *, first: int, count: int) -> Path:
        root = self._folder / name
        if not root.exists():
            self._shard(root, first=first, count=count)
        return root

    def _shard(self, root: Path, *, first: int, count: int, append: bool = False) -> None:
        videos = root.with_name(f"{root.name}-videos")
        write_small_videos(videos, count=count, first=first, with_broken=False)
        job = ShardingJob(source=VideoSource(str(videos)), out=str(root), options=_OPTIONS)
        listed = read_annotations(str(videos), annotations=None, dataset=None, split=SPLIT)
        shard_videos(job, listed, _CHOICE, append=append)


def small_cases(roots: Roots) -> list[Case]:
    """Return the cases of the seven samples."""
    few = ShardDataset(roots.few, SPLIT)
    mixed = MixedDataset([few, ShardDataset(roots.few, SPLIT, classes=["class-2"])], num_samples=11)
    weights = np.array([3, 0, 1, 1, 2, 0.5, 7])
    return [
        Case(f"{FEW} samples", few, few, all_workers=True),
        Case(f"{FEW} in windows", few, few, Shuffle("windows", 1)),
        Case(f"{FEW} with weights", few, few, weights=weights),
        Case(f"a mixture of {FEW} and one class of them", mixed, mixed),
    ]


def make_cases(roots: Roots) -> list[Case]:
    """Return all cases; of some there are three datasets of different sizes."""
    few, some, grown = (ShardDataset(root, SPLIT) for root in (roots.few, roots.some, roots.grown))
    assert (len(few), len(some), len(grown)) == (FEW, SOME, MANY)
    motion = grown.column_weights("mean_motion_pixels")
    lively = f"mean_motion_pixels >= {float(np.median(motion))!r}"
    fewer, chosen = (ShardDataset(root, SPLIT, where=lively) for root in (roots.some, roots.grown))
    classes = ShardDataset(roots.grown, SPLIT, classes=["class-3", "class-0"])
    mixed = MixedDataset([grown, few], weights=[2, 3], num_samples=20)
    selected = MixedDataset([chosen, classes], weights=[1, 1], num_samples=17)
    weights = np.arange(MANY) % 4 + 0.25 * (np.arange(MANY) % 3)
    windows = Shuffle("windows", 2)
    return [
        *small_cases(roots),
        Case(f"{SOME} samples", some, some, all_workers=True),
        Case(f"{MANY} samples", grown, grown, all_workers=True),
        Case(f"{MANY} in windows of two shards", grown, grown, windows),
        Case(f"{MANY} as stored", grown, grown, Shuffle("none")),
        Case(f"{MANY} with weights", grown, grown, weights=weights),
        Case(f"{MANY} with weights in windows", grown, grown, windows, weights=weights),
        Case("a mixture of two datasets", mixed, mixed),
        Case("a mixture of two datasets in windows", mixed, mixed, windows),
        Case("a mixture of two selections", selected, selected),
        Case("a selection by a column", chosen, chosen),
        Case("a selection by a column in windows", chosen, chosen, windows),
        Case("two classes", classes, classes),
        Case(f"{SOME} samples that became {MANY}", some, grown),
        Case(f"{SOME} in windows that became {MANY}", some, grown, windows),
        Case("a selection that has grown", fewer, chosen),
    ]
