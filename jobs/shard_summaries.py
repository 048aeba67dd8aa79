"""What ``shard`` and ``merge`` print: a table for people, the same facts as JSON."""

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from gopstream.jobs.estimate import Choice, Estimate, estimate_content
from gopstream.jobs.publish import SplitOutcome
from gopstream.jobs.sharding_job import JobPart, ShardingJob
from gopstream.jobs.summaries import Summary, megabytes, render
from gopstream.shards.layout import FAILURES_FILE

_SHOWN: Final = 20


def shard_summary(outcomes: Sequence[SplitOutcome]) -> Summary:
    """Summarise finished splits, each failure with its reason."""
    parts: list[Table | str] = []
    content: dict[str, Any] = {"samples": 0, "splits": {}}
    for outcome in outcomes:
        manifest = outcome.manifest
        done = manifest.num_videos - manifest.num_failures
        parts.append(
            f"{manifest.split}: {done} of {manifest.num_videos} videos became "
            f"{manifest.num_samples} samples in {len(manifest.shards)} shards, "
            f"{megabytes(manifest.num_bytes)}"
        )
        parts += [
            f"  failed: {row['source']}: {row['stage']}: {row['message']}"
            for row in outcome.failures[:_SHOWN]
        ]
        if manifest.num_failures > _SHOWN:
            rest = manifest.num_failures - _SHOWN
            parts.append(f"  and {rest} more failed: see {manifest.split}/{FAILURES_FILE}")
        parts += [
            f"  warned: {row['source']}: {'; '.join(row['warnings'])}"
            for row in outcome.warned[:_SHOWN]
        ]
        if len(outcome.warned) > _SHOWN:
            parts.append(f"  and {len(outcome.warned) - _SHOWN} more with warnings")
        content["samples"] += manifest.num_samples
        content["splits"][manifest.split] = {
            "videos": manifest.num_videos,
            "failed": manifest.num_failures,
            "failures": [dict(row) for row in outcome.failures],
            "warned": {row["source"]: list(row["warnings"]) for row in outcome.warned},
            "samples": manifest.num_samples,
            "shards": len(manifest.shards),
            "bytes": manifest.num_bytes,
        }
    return Summary(render(*parts), content)


def part_summary(job: ShardingJob, part: JobPart) -> Summary:
    """Say that one share of a job array is done."""
    text = (
        f"share {part.number} of {part.count} is done; when all are, publish the dataset with "
        f"'gopstream merge {job.out}'"
    )
    return Summary(text, {"part": part.number, "of": part.count})


def plan_summary(estimates: Sequence[Estimate], job: ShardingJob) -> Summary:
    """Show what splits would become, and what other choices would cost."""
    parts: list[Table | str] = []
    for estimate in estimates:
        parts += [_estimate_line(estimate, job.workers), _choice_table(estimate)]
    content: dict[str, Any] = {
        "workers": job.workers,
        "splits": {estimate.split: estimate_content(estimate) for estimate in estimates},
    }
    parts.append("nothing was written; leave --plan out to begin")
    return Summary(render(*parts), content)


def _estimate_line(estimate: Estimate, workers: int) -> str:
    num_shards = -(-estimate.num_videos // estimate.videos_per_shard)
    line = (
        f"{estimate.split}: {estimate.num_videos:,} videos, {hours(estimate.video_hours)} long, "
        f"{megabytes(estimate.source_bytes)} would become {num_shards:,} shards of "
        f"{estimate.videos_per_shard:,} videos in about {hours(estimate.choices[0].hours)} with "
        f"{workers} workers\n"
        f"  from a sample of {estimate.num_measured}: "
    )
    if estimate.relative_error is None:
        line += "how much sizes differ is not known"
    else:
        line += f"sizes are known to about {estimate.relative_error:.0%} (one standard error)"
    if estimate.num_unusable:
        line += f"; {estimate.num_unusable} more of the sample cannot be used"
    return line


def _choice_table(estimate: Estimate) -> Table:
    table = Table("choice", "frames", "motion", "residual", "all", "of the source", "time")
    for choice in estimate.choices:
        table.add_row(choice.name, *_choice_cells(choice, estimate.source_bytes))
    return table


def _choice_cells(choice: Choice, source_bytes: float) -> list[str]:
    planes = [megabytes(choice.plane_bytes[plane]) for plane in ("frames", "motion", "residual")]
    share = f"{choice.num_bytes / source_bytes:.2f} x" if source_bytes else "-"
    return [*planes, megabytes(choice.num_bytes), share, hours(choice.hours)]


def hours(value: float) -> str:
    """Return a length of time in hours, a short one in minutes or seconds."""
    if value >= 1:
        return f"{value:,.1f} hours"
    return f"{value * 60:.0f} minutes" if value >= 1 / 60 else f"{value * 3600:.0f} seconds"
