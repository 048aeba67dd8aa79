"""Proof that loading leaves nothing behind: no memory, file, socket, or shared memory.

A dataset larger than the cache is loaded for ten epochs from a loopback server, by a process with
two workers. Its memory (the sum of proportional set sizes) and its open files and sockets are
looked at after the second epoch, when all is warm, and after the last. Then the run is made again
twice and stopped in the middle: once all of it ends with a killed worker, once the training
process itself is killed. After each end no process may be left, no shared memory, no connection
to the server and no half-written file in the cache; and what the cache pins was downloaded once.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from rich.console import Console

from gopstream.jobs.bench.load_server import BUCKET, LoopbackServer, loopback_server
from gopstream.jobs.bench.loading_scale import tree_memory
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import SPLIT, hardware, processes_of
from gopstream.jobs.bench.sharding_videos import write_small_videos
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.pipeline.options import ExtractionOptions

EPOCHS: Final = 10
VIDEOS: Final = 400
_VIDEOS_PER_SHARD: Final = 10
WORKERS: Final = 2
MEMORY_GROWTH_MIB: Final = 8.0
_PINNED_SHARE: Final = 0.5
"""Of the dataset's bytes, room in the cache."""
_BATCH_SIZE: Final = 8
# Connections are kept for reuse, as many as were once needed at the same time.
_POOLED_SOCKETS: Final = 4
_LOOK_SECONDS: Final = 0.05
# Torch's workers look every five seconds whether their parent is there.
_GONE_SECONDS: Final = 30.0
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the system's own, looked at only

End = Literal["in peace", "a worker is killed", "the training process is killed"]
ENDS: Final[tuple[End, ...]] = ("in peace", "a worker is killed", "the training process is killed")


class Dataset(NamedTuple):
    """What is loaded."""

    root: Path
    num_bytes: int
    """Of all shards."""


def make_dataset(folder: Path, *, videos: int) -> Dataset:
    """Shard small videos, ten to a shard."""
    write_small_videos(folder / "videos", count=videos, with_broken=False)
    root = folder / "set"
    shard_folder(
        folder / "videos",
        root,
        options=ExtractionOptions(planes=("frames", "motion")),
        split=SPLIT,
        choice=PlanChoice(videos_per_shard=_VIDEOS_PER_SHARD),
        workers=os.cpu_count() or 1,
    )
    return Dataset(root, sum(path.stat().st_size for path in (root / SPLIT).glob("*.tar")))


def train(url: str, endpoint: str, cache: str, max_bytes: str, epochs: str) -> None:
    """Load epochs in this process and its workers; prints a line of facts after each.

    Args:
        url: Of the dataset.
        endpoint: Of the server.
        cache: Its folder.
        max_bytes: Of the cache.
        epochs: Their number; the process then ends.
    """
    from gopstream.pipeline.object_store import StoreOptions
    from gopstream.shards import ShardDataset, StreamingLoader
    from gopstream.shards.byte_ranges import Cache, ReadOptions
    from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec
    from gopstream.shards.loading.transform_spec import TransformSpec
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, StoreOptions(endpoint=endpoint, region="us-east-1", anonymous=True))
    reading = ReadOptions(cache=Cache(Path(cache), int(max_bytes)))
    dataset = ShardDataset(storage, SPLIT, reading=reading)
    spec = ClipSpec(
        num_frames=4,
        stride=2,
        transform=TransformSpec(size=32),
        motion=MotionSpec(query_stride=2, subclip_frames=2, grid=4),
    )
    loader = StreamingLoader(
        dataset, spec, batch_size=_BATCH_SIZE, seed=0, workers=WORKERS, pin_memory=False
    )
    for _ in range(int(epochs)):
        clips = sum(len(batch.keys) for batch in loader)
        print(json.dumps({"clips": clips, "pid": os.getpid()}), flush=True)
        sys.stdin.readline()


class Run:
    """The training process and what can be seen of it."""

    def __init__(
        self, dataset: Dataset, server: LoopbackServer, *, folder: Path, epochs: int
    ) -> None:
        """Start it.

        Args:
            dataset: What it loads.
            server: From where.
            folder: For the cache and for its temporary files; made.
            epochs: After which it ends.
        """
        self.cache = folder / "cache"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        code = "import sys; from gopstream.jobs.bench import loading_leaks as leaks; "
        words = [f"s3://{BUCKET}/{dataset.root.name}", server.endpoint, str(self.cache)]
        words += [str(int(dataset.num_bytes * _PINNED_SHARE)), str(epochs)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", code + "leaks.train(*sys.argv[1:])", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
        )

    def __enter__(self) -> "Run":
        """Return the run."""
        return self

    def __exit__(self, *error: object) -> None:
        """End what is left of it."""
        for pid in processes_of(self.temporary):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def epoch(self) -> dict[str, Any]:
        """Wait for the end of an epoch; returns what the process says, empty if it has ended."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        return dict(json.loads(said)) if said else {}

    def go_on(self) -> None:
        """Let the next epoch begin."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def workers(self) -> list[int]:
        """Return its children."""
        return [pid for pid in processes_of(self.temporary) if pid != self.process.pid]

    def look(self) -> dict[str, Any]:
        """Return the memory in MiB and the open files and sockets of all processes together."""
        pids = processes_of(self.temporary)
        kinds = [kind for pid in pids for kind in _open_files(pid)]
        return {
            "memory_mib": tree_memory(self.process.pid)["Pss"],
            "files": sum(kind == "file" for kind in kinds),
            "sockets": sum(kind == "socket" for kind in kinds),
            "processes": len(pids),
        }

    def left(self, shared_before: Sequence[str]) -> list[str]:
        """Return what is there that should have gone, after some seconds for it to go."""
        end = time.monotonic() + _GONE_SECONDS
        while (found := self._left(shared_before)) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return found

    def _left(self, shared_before: Sequence[str]) -> list[str]:
        pids = processes_of(self.temporary)
        found = [f"process {pid}" for pid in pids]
        found += [f"shared memory {name}" for name in set(shared_names()) - set(shared_before)]
        found += [f"temporary {path.name}" for path in self.temporary.iterdir()]
        return found


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = str(entry.readlink())
                yield "socket" if target.startswith("socket:") else "file"


def shared_names() -> list[str]:
    """Return the segments of shared memory that have a name."""
    return sorted(path.name for path in _SHARED_MEMORY.iterdir())


def _copies(cache: Path) -> dict[str, int]:
    """Return the inodes of the files that a cache holds, by name: another one came anew."""
    return {path.name: path.stat().st_ino for path in (cache / "files").glob("*.tar")}


def partials(cache: Path) -> list[str]:
    """Return the half-written files of a cache."""
    return sorted(path.name for path in (cache / "files").glob("*.partial"))


def prove_epochs(
    dataset: Dataset, server: LoopbackServer, *, folder: Path, epochs: int
) -> dict[str, Any]:
    """Load all epochs in peace."""
    shared = shared_names()
    served = server.served()
    rows = []
    copies: list[dict[str, int]] = []
    with Run(dataset, server, folder=folder, epochs=epochs) as run:
        for _ in range(epochs):
            said = run.epoch()
            rows.append(run.look() | {"clips": said.get("clips", 0)})
            copies.append(_copies(run.cache))
            run.go_on()
        code = run.process.wait()
        left = run.left(shared)
    return {
        "epochs": rows,
        "exit_code": code,
        "left": left + [f"partial {name}" for name in partials(run.cache)],
        "cached_files": len(copies[-1]),
        "cached_bytes": sum(path.stat().st_size for path in (run.cache / "files").iterdir()),
        "fetched_again": sum(
            later.get(name) != inode
            for before, later in itertools.pairwise(copies)
            for name, inode in before.items()
        ),
        "bytes_sent": server.served().bytes_sent - served.bytes_sent,
    }


def prove_kill(
    dataset: Dataset, server: LoopbackServer, *, folder: Path, end: End
) -> dict[str, Any]:
    """Kill the training process or a worker of it in the second epoch, then start it again."""
    shared = shared_names()
    with Run(dataset, server, folder=folder, epochs=1000) as run:
        run.epoch()
        run.go_on()
        workers = run.workers()
        os.kill(run.process.pid if end == ENDS[2] else workers[0], signal.SIGKILL)
        while run.epoch():
            run.go_on()
        code = run.process.wait()
        left = run.left(shared)
    before = partials(run.cache)
    shutil.rmtree(run.temporary)
    with Run(dataset, server, folder=folder, epochs=1) as again:
        clips = again.epoch().get("clips", 0)
        again.go_on()
        again.process.wait()
        left += again.left(shared)
    return {
        "exit_code": code,
        "workers": len(workers),
        "partials_after_the_kill": len(before),
        "left": left + [f"partial {name}" for name in partials(run.cache)],
        "clips_when_run_again": clips,
    }


def failures(rows: dict[str, Any], *, dataset_bytes: int, samples: int) -> list[str]:
    """Return what is wrong."""
    found = [f"{end}: {text} is left" for end, row in rows.items() for text in row["left"]]
    peace = rows[ENDS[0]]
    epochs = peace["epochs"]
    warm, last = epochs[1], epochs[-1]
    grown = last["memory_mib"] - warm["memory_mib"]
    if grown > MEMORY_GROWTH_MIB:
        found.append(f"memory grew by {grown:.1f} MiB")
    for kind, allowed in (("files", 0), ("sockets", _POOLED_SOCKETS), ("processes", 0)):
        if last[kind] > warm[kind] + allowed:
            found.append(f"{kind} grew from {warm[kind]} to {last[kind]}")
    full = samples // _BATCH_SIZE * _BATCH_SIZE
    if any(row["clips"] != full for row in epochs):
        found.append(f"epochs of {[row['clips'] for row in epochs]} clips, not {full}")
    if peace["fetched_again"]:
        found.append(f"{peace['fetched_again']} files were fetched again")
    if peace["exit_code"] != 0:
        found.append(f"exit code {peace['exit_code']}")
    if not 0 < peace["cached_bytes"] <= dataset_bytes * _PINNED_SHARE:
        found.append(f"{peace['cached_bytes']} bytes are cached of {dataset_bytes}")
    for end in ENDS[1:]:
        if rows[end]["clips_when_run_again"] != full or rows[end]["exit_code"] == 0:
            found.append(f"{end}: {rows[end]}")
    return found


def prove(folder: Path, *, videos: int, epochs: int) -> dict[str, Any]:
    """Make the dataset, run it in peace and with each kill; returns rows by end."""
    dataset = make_dataset(folder, videos=videos)
    with loopback_server(folder) as server:
        rows: dict[str, Any] = {
            ENDS[0]: prove_epochs(dataset, server, folder=folder / "peace", epochs=epochs),
            **{
                end: prove_kill(dataset, server, folder=folder / f"kill-{number}", end=end)
                for number, end in enumerate(ENDS[1:])
            },
        }
    return {
        "dataset_bytes": dataset.num_bytes,
        "rows": rows,
        "failures": failures(rows, dataset_bytes=dataset.num_bytes, samples=videos),
    }


def main() -> None:
    """Run the proof; exits with 1 if anything is left or grows."""
    parser = argparse.ArgumentParser(prog="python -m gopstream.jobs.bench.loading_leaks")
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    json_file: Path = parser.parse_args().json_file
    with tempfile.TemporaryDirectory(prefix="gopstream-leaks-") as folder:
        report = prove(Path(folder), videos=VIDEOS, epochs=EPOCHS)
    console = Console()
    console.print_json(json.dumps(report["rows"]))
    for text in report["failures"]:
        console.print(text, markup=False, soft_wrap=True)
    write_report(json_file, {"hardware": hardware(), **report}, name="loading_leaks")
    if report["failures"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
