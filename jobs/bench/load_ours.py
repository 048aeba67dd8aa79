"""Our side of ``gopstream bench load``: the loader, its ceiling, and what it asks a server for.

Runs as a process of its own, like every peer. All that it knows of the loader's interface is in
:func:`open_loader` and :func:`watch_spans`.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import simplejpeg
import torch

from gopstream.jobs.bench.load_material import (
    CROP_RATIO,
    CROP_SCALE,
    FLIP,
    NUM_FRAMES,
    SIZE,
    SPLIT,
    STRIDE,
    CropKind,
)
from gopstream.jobs.bench.load_peer import Clip, ClipMaker, Reply, Runner, serve, timed
from gopstream.jobs.bench.load_server import BUCKET
from gopstream.jobs.bench.load_stages import stage_seconds
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.byte_ranges import ReadOptions, Span
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.transform import TransformSpec
from gopstream.shards.reader import ShardDataset
from gopstream.shards.shard_indexes import INDEX_KIND
from gopstream.shards.storage import open_storage

PREFETCH: Final = 2
WORKERS: Final = 2
IN_FLIGHT: Final = 16
# DVT on clips of 16 frames: each second frame asks where it lies in the frames of its half.
_MOTION: Final = MotionSpec(query_stride=2, subclip_frames=8, grid=14)
_SEED: Final = 0


def open_dataset(place: str, *, endpoint: str | None = None) -> ShardDataset:
    """Open the shards in a folder, or in the bucket of a loopback server; without a cache."""
    storage = open_storage(
        place, StoreOptions(endpoint=endpoint, region="us-east-1", anonymous=True)
    )
    return ShardDataset(storage, SPLIT, reading=ReadOptions(cache=None, in_flight=IN_FLIGHT))


def open_loader(
    dataset: ShardDataset,
    *,
    batch_size: int,
    workers: int,
    crop: CropKind,
    with_motion: bool = False,
) -> StreamingLoader:
    """Return the loader as training makes it."""
    transform = TransformSpec(
        size=SIZE, crop=crop, crop_scale=CROP_SCALE, crop_ratio=CROP_RATIO, flip=FLIP
    )
    spec = ClipSpec(
        NUM_FRAMES, stride=STRIDE, transform=transform, motion=_MOTION if with_motion else None
    )
    return StreamingLoader(
        dataset,
        spec,
        batch_size=batch_size,
        seed=_SEED,
        workers=workers,
        prefetch=PREFETCH,
        pin_memory=False,
    )


def watch_spans(dataset: ShardDataset) -> list[list[Span]]:
    """Return a list that grows by the spans of each clip that this process asks for.

    Indexes, which are asked for by the same road, are not among them.
    """
    asked: list[list[Span]] = []
    ranges: Any = dataset._ranges
    start = ranges.start

    def watched(spans: Sequence[Span]) -> object:
        if not any(span.name.endswith(INDEX_KIND) for span in spans):
            asked.append(list(spans))
        return start(spans)

    ranges.start = watched
    return asked


class ModelCost(NamedTuple):
    """What the cost model asks for a clip."""

    requests: list[tuple[str, int, int]]
    """Name, first byte and end of each."""
    bytes_wanted: int
    """Of the clip alone, without gaps."""


def model_cost(spans: Sequence[Span], *, merge_gap_bytes: int) -> ModelCost:
    """Return the cheapest requests for some spans, where one costs as much as so many bytes.

    Each gap between neighbours is either read or costs a request, whatever the others do.
    """
    requests: list[tuple[str, int, int]] = []
    distinct = sorted({(s.name, s.offset, s.offset + s.length) for s in spans if s.length})
    for name, begin, end in distinct:
        if requests and requests[-1][0] == name and begin - requests[-1][2] <= merge_gap_bytes:
            requests[-1] = (name, requests[-1][1], max(requests[-1][2], end))
        else:
            requests.append((name, begin, end))
    return ModelCost(requests, sum(end - begin for _, begin, end in distinct))


class EndlessClips:
    """Batches of one epoch after the other, timed in the steady state."""

    def __init__(self, loader: StreamingLoader, *, batch_size: int, workers: int) -> None:
        """Load a first batch, so that workers run."""
        self._batch_size = batch_size
        self._workers = workers
        # Batches that are ready, and one per worker whose bytes are: at most so many.
        self._num_ahead = workers * (PREFETCH + 1) + 1
        self._batches = self._endless(loader)
        next(self._batches)
        self._children = [child.pid for child in multiprocessing.active_children()]

    def run(self, first: int, count: int) -> Reply:
        """Load clips. What workers hold ready since the last time is taken before, unmeasured."""
        del first
        for _ in range(self._num_ahead):
            next(self._batches)
        begun, cpu, workers = time.perf_counter(), time.process_time(), self._worker_seconds()
        num_batches = max(1, count // self._batch_size)
        num_clips = sum(_touch(next(self._batches)) for _ in range(num_batches))
        reply = {
            "clips": num_clips,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
            "worker_cpu_seconds": self._worker_seconds() - workers,
        }
        # They fill up now, and must not do so while another contestant is measured.
        if self._workers > 0:
            ahead = self._num_ahead * self._batch_size
            time.sleep(1.5 * ahead * reply["seconds"] / num_clips)
        return reply

    def _worker_seconds(self) -> float:
        """Return the CPU time of the worker processes so far."""
        return sum(map(_cpu_seconds, self._children))

    @staticmethod
    def _endless(loader: StreamingLoader) -> Iterator[ClipBatch]:
        while True:
            yield from loader


def _touch(batch: ClipBatch) -> int:
    """Read one byte of each page, as a copy to a device would; returns the clips."""
    batch.frames.permute(0, 2, 3, 4, 1).flatten()[::4096].sum()
    return len(batch.labels)


def _cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a running process (Linux, proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _disk_runners(job: dict[str, Any]) -> dict[str, Runner]:
    size = job["batch_size"]
    runners: dict[str, Runner] = {}
    # Processes that workers are forked from should not have done much before.
    first = job["datasets"][job["first"]]
    for workers in (WORKERS, 0):
        runners[f"disk, {workers} workers|{job['first']}"] = _loading(
            open_dataset(first), size, workers=workers, crop=job["crop"]
        )
    for material, folder in job["datasets"].items():
        if material != job["first"]:
            runners[f"disk, 0 workers|{material}"] = _loading(
                open_dataset(folder), size, workers=0, crop=job["crop"]
            )
        runners[f"ceiling|{material}"] = _ceiling(open_dataset(folder), job)
    if hasattr(os, "posix_fadvise"):
        warm = _loading(open_dataset(first), size, workers=0, crop=job["crop"])
        tars = sorted(Path(first, SPLIT).glob("*.tar"))
        runners[f"disk, 0 workers, cold|{job['first']}"] = _cold(warm, tars)
    with_motion = open_loader(
        open_dataset(first), batch_size=size, workers=0, crop=job["crop"], with_motion=True
    )
    runners[f"disk, 0 workers, motion|{job['first']}"] = EndlessClips(
        with_motion, batch_size=size, workers=0
    ).run
    for name, wants_motion in (("stages", False), ("stages, motion", True)):
        loader = open_loader(
            open_dataset(first),
            batch_size=size,
            workers=0,
            crop=job["crop"],
            with_motion=wants_motion,
        )
        runners[f"{name}|{job['first']}"] = _stages(loader)
    return runners


def _stages(loader: StreamingLoader) -> Runner:
    def run(first: int, count: int) -> Reply:
        del first
        return stage_seconds(loader, num_clips=count)

    return run


def _loading(dataset: ShardDataset, batch_size: int, *, workers: int, crop: CropKind) -> Runner:
    loader = open_loader(dataset, batch_size=batch_size, workers=workers, crop=crop)
    return EndlessClips(loader, batch_size=batch_size, workers=workers).run


def _cold(run: Runner, files: Sequence[Path]) -> Runner:
    """Run from a disk of which the system remembers nothing; afterwards it does again."""

    def cold(first: int, count: int) -> Reply:
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reply = run(first, count)
        for path in files:
            path.read_bytes()
        return reply

    return cold


def _ceiling(dataset: ShardDataset, job: dict[str, Any]) -> Runner:
    """Decode and crop alone: JPEGs in memory, buffers reused, nothing checked or handed on."""
    clips = [Clip(*row) for row in job["clips"]]
    maker = ClipMaker(num_frames=NUM_FRAMES, size=SIZE)
    width, height = dataset.sample(0).frame_size
    frames = torch.empty((NUM_FRAMES, height, width, 3), dtype=torch.uint8).numpy()
    wanted = range(0, NUM_FRAMES * STRIDE, STRIDE)
    memory = [
        [
            bytes(jpeg)
            for jpeg in dataset.read_jpegs(
                clip.video % len(dataset), clip.start + torch.tensor(wanted).numpy()
            )
        ]
        for clip in clips
    ]

    def decode(clip: Clip, number: int) -> None:
        for place, jpeg in enumerate(memory[number]):
            simplejpeg.decode_jpeg(jpeg, buffer=frames[place])
        maker.make(frames, clip)

    return timed(clips, decode)


def _store_runners(job: dict[str, Any]) -> dict[str, Runner]:
    size, endpoint = job["batch_size"], job["endpoint"]
    place = f"s3://{BUCKET}/{job['folder']}"

    def opened() -> ShardDataset:
        return open_dataset(place, endpoint=endpoint)

    runners: dict[str, Runner] = {
        f"S3, {workers} workers|{job['first']}": _loading(
            opened(), size, workers=workers, crop=job["crop"]
        )
        for workers in (WORKERS, 0)
    }
    dataset = opened()
    asked = watch_spans(dataset)
    loader = open_loader(dataset, batch_size=size, workers=0, crop=job["crop"])
    for _ in loader:
        pass  # indexes are read once
    requests = [r for spans in asked for r in model_cost(spans, merge_gap_bytes=_gap()).requests]
    per_clip = len(requests) / len(asked)
    runners |= _get_runners(place, endpoint, requests, per_clip=per_clip)
    runners[f"costs|{job['first']}"] = _costs(
        dataset, asked, EndlessClips(loader, batch_size=size, workers=0)
    )
    return runners


def _gap() -> int:
    return ReadOptions().merge_gap_bytes


def _costs(dataset: ShardDataset, asked: list[list[Span]], clips: EndlessClips) -> Runner:
    def run(first: int, count: int) -> Reply:
        time.sleep(0.5)  # what was asked for ahead has come
        asked.clear()
        before = (dataset.counters.requests, dataset.counters.bytes_read)
        clips.run(first, count)
        time.sleep(0.5)
        costs = [model_cost(spans, merge_gap_bytes=_gap()) for spans in asked]
        requests = [request for cost in costs for request in cost.requests]
        return {
            "clips": len(asked),
            "merge_gap_bytes": _gap(),
            "requests": dataset.counters.requests - before[0],
            "bytes_read": dataset.counters.bytes_read - before[1],
            "bytes_wanted": sum(cost.bytes_wanted for cost in costs),
            "model_requests": len(requests),
            "model_bytes": sum(end - begin for _, begin, end in requests),
        }

    return run


def _get_runners(
    place: str, endpoint: str, requests: Sequence[tuple[str, int, int]], *, per_clip: float
) -> dict[str, Runner]:
    """Return plain loops of the requests of a cost model: what server and client can do."""
    import obstore

    options = StoreOptions(endpoint=endpoint, region="us-east-1", anonymous=True)
    storage: Any = open_storage(place, options)

    def alone(name: str, begin: int, end: int) -> int:
        found = storage.place(name)
        return len(obstore.get_range(found.store, found.path, start=begin, end=end))

    async def together(part: Sequence[tuple[str, int, int]]) -> int:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def one(name: str, begin: int, end: int) -> int:
            found = storage.place(name)
            async with slots:
                content = await obstore.get_range_async(
                    found.store, found.path, start=begin, end=end
                )
            return len(content)

        return sum(await asyncio.gather(*(one(*request) for request in part)))

    def run(first: int, count: int, fetch: Callable[[list[tuple[str, int, int]]], int]) -> Reply:
        wanted = [requests[n % len(requests)] for n in range(first, first + count)]
        begun = time.perf_counter()
        num_bytes = fetch(wanted)
        seconds = time.perf_counter() - begun
        return {"clips": count / per_clip, "seconds": seconds, "bytes": num_bytes}

    return {
        "GET loop|": lambda first, count: run(
            first, count, lambda part: sum(alone(*request) for request in part)
        ),
        f"GET loop, {IN_FLIGHT} in flight|": lambda first, count: run(
            first, count, lambda part: asyncio.run(together(part))
        ),
    }


def main() -> None:
    """Read the job and serve."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    make = _store_runners if job["contestant"] == "S3" else _disk_runners
    serve(lambda: make(job), modules=["torch", "torchvision", "simplejpeg", "numpy", "obstore"])


if __name__ == "__main__":
    main()
