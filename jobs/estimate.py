"""From a measured sample to a shard's size, and to what a whole list would cost."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gopstream.jobs.measure import OTHER_QUALITIES, JpegCost, VideoMeasure
from gopstream.pipeline.options import ExtractionOptions

# A list this short makes small shards whatever the sizes: several workers need something to do.
FEW_VIDEOS: Final = 64
_FEW_SHARDS: Final = 16
_MOST_VIDEOS: Final = 1000
_SHARD_BYTES: Final = 1_000_000_000
_SMALL_SHARD_BYTES: Final = 256_000_000
_SMALL_DATASET_BYTES: Final = 64_000_000_000
_PLANES: Final = ("frames", "motion", "residual", "json")


def choose_videos_per_shard(num_videos: int, measures: Sequence[VideoMeasure]) -> int:
    """Return how many videos make a shard of about 1 GB, in a small dataset of 256 MB.

    Args:
        num_videos: Of the split.
        measures: Of a sample; empty where none could be measured.
    """
    spread = -(-num_videos // _FEW_SHARDS)
    if not measures:
        return max(1, min(FEW_VIDEOS, spread))
    per_video = statistics.fmean(measure.num_bytes for measure in measures)
    is_small = per_video * num_videos < _SMALL_DATASET_BYTES
    target = _SMALL_SHARD_BYTES if is_small else _SHARD_BYTES
    by_size = max(1, round(target / max(per_video, 1.0)))
    return max(1, min(by_size, spread, _MOST_VIDEOS))


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store the list, and what it would take."""

    name: str
    plane_bytes: dict[str, float]
    hours: float
    """With all workers at work."""

    @property
    def num_bytes(self) -> float:
        """Of all planes."""
        return sum(self.plane_bytes.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a split would become."""

    split: str
    num_videos: int
    num_measured: int
    num_unusable: int
    """Of the sample."""
    source_bytes: float
    video_hours: float
    videos_per_shard: int
    relative_error: float | None
    """Standard error of the size, relative; None from a sample of one."""
    choices: tuple[Choice, ...]
    """The chosen settings first."""


def estimate_split(
    split: str,
    *,
    num_videos: int,
    num_sampled: int,
    measures: Sequence[VideoMeasure],
    options: ExtractionOptions,
    workers: int,
    videos_per_shard: int,
) -> Estimate:
    """Scale a sample up to the whole list.

    Unusable videos of the sample count as nothing, so that a list of which a tenth is missing
    is estimated a tenth smaller.

    Args:
        split: Name of the split.
        num_videos: Of the split.
        num_sampled: Videos that were tried.
        measures: Those of them that could be used.
        options: The chosen settings.
        workers: Processes.
        videos_per_shard: Of the plan.
    """
    scale = num_videos / max(1, num_sampled)
    totals = [measure.num_bytes for measure in measures]
    mean = statistics.fmean(totals) if totals else 0.0
    error = None
    if len(totals) > 1 and mean:
        error = float(statistics.stdev(totals) / len(totals) ** 0.5 / mean)
    return Estimate(
        split=split,
        num_videos=num_videos,
        num_measured=len(measures),
        num_unusable=num_sampled - len(measures),
        source_bytes=scale * sum(measure.source_bytes for measure in measures),
        video_hours=scale * sum(measure.video_seconds for measure in measures) / 3600,
        videos_per_shard=videos_per_shard,
        relative_error=error,
        choices=tuple(_Scaler(measures, options, scale, workers).choices()),
    )


@dataclass(frozen=True, slots=True)
class _Scaler:
    """Scales a sample to a list."""

    measures: Sequence[VideoMeasure]
    options: ExtractionOptions
    scale: float
    workers: int

    def choices(self) -> list[Choice]:
        """Return the chosen settings, then others."""
        sums = {
            plane: self.scale * sum(measure.plane_bytes[plane] for measure in self.measures)
            for plane in _PLANES
        }
        seconds = self.scale * sum(measure.work_seconds for measure in self.measures)
        found = [self._choice("as chosen", sums, seconds)]
        if sums["residual"]:
            lighter = self.scale * sum(
                measure.seconds_without_residual or measure.work_seconds
                for measure in self.measures
            )
            found.append(self._choice("without residual", sums | {"residual": 0.0}, lighter))
        if sums["frames"]:
            own = self._jpegs(self.options.quality, [1.0] * len(self.measures))
            for name, jpegs in self._frame_choices():
                planes = sums | {"frames": jpegs.num_bytes}
                found.append(self._choice(name, planes, seconds - own.seconds + jpegs.seconds))
        return found

    def _frame_choices(self) -> Iterator[tuple[str, JpegCost]]:
        own, all_frames = self.options.quality, [1.0] * len(self.measures)
        for quality in OTHER_QUALITIES:
            if quality != own:
                yield f"--quality {quality}", self._jpegs(quality, all_frames)
        stride = self.options.frame_stride
        if self.options.fps is None:
            for other in (2, 4):
                if other > stride:
                    share = stride / other
                    yield f"--frame-stride {other}", self._jpegs(own, [share] * len(self.measures))
            for fps in (15, 10):
                rates = (measure.frames_per_second for measure in self.measures)
                yield f"--fps {fps}", self._jpegs(own, [min(1, fps / r) * stride for r in rates])
        yield "without frames", JpegCost(0.0, 0.0)

    def _jpegs(self, quality: int, shares: Sequence[float]) -> JpegCost:
        """Return what the JPEGs take if ``shares`` of those of each video are stored."""
        none = JpegCost(0.0, 0.0)
        costs = [measure.jpeg_costs.get(quality, none) for measure in self.measures]
        return JpegCost(
            self.scale * sum(s * cost.num_bytes for s, cost in zip(shares, costs, strict=True)),
            self.scale * sum(s * cost.seconds for s, cost in zip(shares, costs, strict=True)),
        )

    def _choice(self, name: str, plane_bytes: dict[str, float], seconds: float) -> Choice:
        return Choice(name, plane_bytes, seconds / 3600 / self.workers)


def estimate_content(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate for JSON."""
    return {
        "videos": estimate.num_videos,
        "measured": estimate.num_measured,
        "unusable_of_sample": estimate.num_unusable,
        "source_bytes": round(estimate.source_bytes),
        "video_hours": round(estimate.video_hours, 3),
        "videos_per_shard": estimate.videos_per_shard,
        "shards": -(-estimate.num_videos // estimate.videos_per_shard),
        "relative_error": estimate.relative_error and round(estimate.relative_error, 3),
        "choices": [
            {
                "choice": choice.name,
                "bytes": round(choice.num_bytes),
                "plane_bytes": {plane: round(size) for plane, size in choice.plane_bytes.items()},
                "of_source": round(choice.num_bytes / max(1.0, estimate.source_bytes), 3),
                "hours": round(choice.hours, 4),
            }
            for choice in estimate.choices
        ],
    }
