"""From a measured sample to a shard's size, and to what a whole list would cost."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gopstream.jobs.measure import VideoMeasure
from gopstream.pipeline.options import ExtractionOptions

# A list this short makes small shards whatever the sizes: several workers need something to do.
FEW_VIDEOS: Final = 64
_FEW_SHARDS: Final = 16
_MOST_VIDEOS: Final = 1000
_SHARD_BYTES: Final = 1_000_000_000
_SMALL_SHARD_BYTES: Final = 256_000_000
_SMALL_DATASET_BYTES: Final = 64_000_000_000


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
    hours: float | None = None
    """Of all workers together; None where it was not measured."""

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
    relative_error: float
    """Standard error of the size, relative."""
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
    error = 0.0
    if len(totals) > 1 and mean:
        error = float(statistics.stdev(totals) / len(totals) ** 0.5 / mean)
    hours = scale * sum(measure.work_seconds for measure in measures) / 3600 / workers
    return Estimate(
        split=split,
        num_videos=num_videos,
        num_measured=len(measures),
        num_unusable=num_sampled - len(measures),
        source_bytes=scale * sum(measure.source_bytes for measure in measures),
        video_hours=scale * sum(measure.video_seconds for measure in measures) / 3600,
        videos_per_shard=videos_per_shard,
        relative_error=error,
        choices=tuple(_choices(measures, options, scale=scale, hours=hours)),
    )


def _choices(
    measures: Sequence[VideoMeasure], options: ExtractionOptions, *, scale: float, hours: float
) -> list[Choice]:
    planes = ("frames", "motion", "residual", "json")
    chosen = {p: scale * sum(m.plane_bytes[p] for m in measures) for p in planes}
    choices = [Choice("as chosen", chosen, hours)]
    if chosen["residual"]:
        choices.append(Choice("without residual", chosen | {"residual": 0.0}))
    if chosen["frames"]:
        choices += [
            Choice(
                f"--quality {quality}", chosen | {"frames": _at_quality(measures, quality, scale)}
            )
            for quality in sorted(measures[0].quality_ratios)
            if quality != options.quality
        ]
        if options.fps is None:
            choices += [
                Choice(
                    f"--frame-stride {stride}",
                    chosen | {"frames": chosen["frames"] * options.frame_stride / stride},
                )
                for stride in (2, 4)
                if stride > options.frame_stride
            ]
            choices += [
                Choice(f"--fps {fps}", chosen | {"frames": _at_rate(measures, fps, options, scale)})
                for fps in (15, 10)
            ]
        choices.append(Choice("without frames", chosen | {"frames": 0.0}))
    return choices


def _at_quality(measures: Sequence[VideoMeasure], quality: int, scale: float) -> float:
    return scale * sum(m.plane_bytes["frames"] * m.quality_ratios.get(quality, 1) for m in measures)


def _at_rate(
    measures: Sequence[VideoMeasure], fps: float, options: ExtractionOptions, scale: float
) -> float:
    """Return the bytes of the frames if they were stored at ``fps``."""
    total = 0.0
    for measure in measures:
        stored_rate = measure.frames_per_second / options.frame_stride
        total += measure.plane_bytes["frames"] * min(measure.frames_per_second, fps) / stored_rate
    return scale * total


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
        "relative_error": round(estimate.relative_error, 3),
        "choices": [
            {
                "choice": choice.name,
                "bytes": round(choice.num_bytes),
                "plane_bytes": {plane: round(size) for plane, size in choice.plane_bytes.items()},
                "of_source": round(choice.num_bytes / max(1.0, estimate.source_bytes), 3),
            }
            | ({} if choice.hours is None else {"hours": round(choice.hours, 3)})
            for choice in estimate.choices
        ],
    }
