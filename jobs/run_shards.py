"""Make the shards of a plan that are not there yet, on this machine or on a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from gopstream.jobs.build_shard import ShardTask, build_shard, tool_versions
from gopstream.jobs.console import progress
from gopstream.jobs.plan import PlannedShard, PlanPart
from gopstream.jobs.publish import unfinished_shards
from gopstream.jobs.sharding_job import ShardingJob
from gopstream.jobs.worker_folder import WorkerFolder, remove_leftovers
from gopstream.jobs.worker_pool import WorkerError, run_tasks
from gopstream.shards.dataset_files import DatasetFacts
from gopstream.shards.errors import ShardError


def run_shards(
    job: ShardingJob, plans: Mapping[str, Sequence[PlanPart]], facts: DatasetFacts
) -> None:
    """Make all planned shards without a report, or the job's share of them.

    Args:
        job: What to do and how.
        plans: Parts of the plan of each split.
        facts: Of the dataset.

    Raises:
        ShardError: If workers died and no video was at fault.
    """
    todo = {split: _open_shards(job, split, parts) for split, parts in plans.items()}
    total = sum(
        len(range(*part.bounds(number))) for shards in todo.values() for part, number in shards
    )
    if not total:
        remove_leftovers()  # of a job that was killed after its last shard
        return

    num_failed = 0
    # Of the kind that a later job removes if this one is killed.
    digests = WorkerFolder()

    def tasks() -> Iterator[ShardTask]:
        for split, shards in todo.items():
            for part, number in shards:
                yield _task(job, split, part.shard(number), facts, digests.path)

    with ExitStack() as stack:
        stack.callback(digests.remove)
        advance = stack.enter_context(progress("sharding", total=total, unit="videos"))

        def on_video(succeeded: bool) -> None:
            nonlocal num_failed
            num_failed += not succeeded
            advance(note=f"{num_failed} failed" if num_failed else "")

        try:
            _run_tasks(job, tasks(), on_video)
        except WorkerError as error:
            raise ShardError(
                f"{error} (out of memory?); finished shards are kept: run the same command again "
                "to continue, with fewer --workers perhaps"
            ) from error


def _run_tasks(
    job: ShardingJob, tasks: Iterable[ShardTask], on_video: Callable[[bool], None]
) -> None:
    if job.engine == "local":
        run_tasks(
            tasks,
            build_shard,
            workers=job.workers,
            stall_seconds=job.silence_seconds,
            on_item=on_video,
        )
        return
    from gopstream.jobs.engines.ray_engine import run_on_ray

    run_on_ray(
        tasks,
        build_shard,
        stall_seconds=job.silence_seconds,
        on_item=on_video,
        address=job.ray_address,
        versions=tool_versions(job.ffmpeg_binary),
        work_versions=partial(tool_versions, job.ffmpeg_binary),
    )


def _open_shards(
    job: ShardingJob, split: str, parts: Sequence[PlanPart]
) -> list[tuple[PlanPart, int]]:
    """Return the unpublished shards that are the job's to make: parts and numbers in them."""
    unfinished = set(unfinished_shards(job.storage, split, parts))
    return [
        (part, number)
        for part in parts
        for number, name in enumerate(part.shard_names)
        if name in unfinished
        and (job.part is None or int(name) % job.part.count == job.part.number - 1)
    ]


def _task(
    job: ShardingJob, split: str, shard: PlannedShard, facts: DatasetFacts, digests: Path
) -> ShardTask:
    return ShardTask(
        shard=shard,
        source=job.source,
        storage=job.storage,
        split=split,
        options=job.options,
        settings=facts.settings,
        ffmpeg_binary=job.ffmpeg_binary,
        digests=digests,
    )
