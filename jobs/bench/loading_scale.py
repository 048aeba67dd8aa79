"""Proof that five million samples in 30,000 shards open in seconds and in little memory.

One small video is sharded by the real code. Its index is then repeated so that it lists as many
samples as a shard of such a split has, all of which lie where that one lies; the manifest names
30,000 shards. Index files have the size that ten-second videos give them: that many of them would
fill 45 GB, so that each of them stands under several names (hard links), as does the tar.

A process of its own opens the split and draws shuffled batches with four workers. Memory is that of
the process and its workers: the sum of their proportional set sizes, looked at several times a
second. Beside it stands another such process whose four workers read a dataset of nothing but
numbers; what the first takes above the second is what the split costs the machine.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.flat_memory import make_video
from gopstream.jobs.bench.loading_scale_runs import WORKERS
from gopstream.jobs.bench.proof_report import write_report
from gopstream.jobs.bench.sharding_runs import SPLIT, hardware
from gopstream.pipeline.extract import extract_segments
from gopstream.pipeline.options import ExtractionOptions
from gopstream.shards.dataset_files import (
    DatasetFacts,
    FileRecord,
    Manifest,
    ShardRecord,
    save_dataset,
    save_manifest,
)
from gopstream.shards.index import PIECE_PLANES, PieceTable, ShardIndex, index_bytes, load_index
from gopstream.shards.layout import index_name, shard_name, tar_name
from gopstream.shards.storage import Storage, open_storage
from gopstream.shards.writer import ShardWriter

SAMPLES: Final = 5_000_000
SHARDS: Final = 30_000
INDEX_FILES: Final = 1000
SECONDS_LIMIT: Final = 10.0
MEMORY_LIMIT_MIB: Final = 300.0
NUM_CLASSES: Final = 400
_LINKS_PER_FILE: Final = 1000
"""File systems allow a file some ten thousand names."""
_POLL_SECONDS: Final = 0.1


def make_split(folder: Path, *, samples: int, shards: int, index_files: int) -> dict[str, Any]:
    """Write a split of at least so many samples; returns what it holds.

    Args:
        folder: Of the dataset; made.
        samples: At least; each shard has equally many.
        shards: Their number.
        index_files: Different ones among their indexes.
    """
    storage = open_storage(folder)
    facts = DatasetFacts(tuple(f"class {n}" for n in range(NUM_CLASSES)), ("frames", "motion"), {})
    save_dataset(storage, facts)
    one = _write_sample(storage, folder)
    per_shard = -(-samples // shards)
    tar = folder / SPLIT / tar_name("sample")
    tar_record = FileRecord.of(tar.read_bytes())
    records = []
    for number in range(index_files):
        content = index_bytes(_repeated(one, per_shard, number))
        record = FileRecord.of(content)
        held = folder / SPLIT / index_name(f"held-{number}")
        held.write_bytes(content)
        for shard in range(number, shards, index_files):
            name = shard_name(shard)
            os.link(held, folder / SPLIT / index_name(name))
            files = {index_name(name): record, tar_name(name): tar_record}
            records.append(ShardRecord(name, per_shard, files))
        held.unlink()
    _link_tars(tar, [folder / SPLIT / tar_name(shard_name(shard)) for shard in range(shards)])
    records.sort(key=lambda record: record.name)
    counts = {name: 0 for name in facts.classes}
    save_manifest(storage, Manifest(SPLIT, tuple(records), counts, per_shard * shards, 0))
    return {
        "samples": per_shard * shards,
        "shards": shards,
        "frames_per_sample": int(one.num_frames[0]),
        "index_files": index_files,
        "index_bytes": len(content),
        "manifest_bytes": storage.size(f"{SPLIT}/manifest.json"),
    }


def _write_sample(storage: Storage, folder: Path) -> ShardIndex:
    """Write a shard of one sample of ten seconds; its files begin with ``sample``."""
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as own:
        video = Path(own) / "video.mp4"
        make_video(video, minutes=1 / 6, size="64x48", encoder_options=())
        options = ExtractionOptions(planes=("frames", "motion"), segment_frames=252)
        clip = next(extract_segments(video, options=options))
    with ShardWriter(storage, SPLIT, "sample", with_residual=False) as writer:
        writer.add("sample", clip, label=0, facts={})
        writer.publish([])
    index = load_index(storage, f"{SPLIT}/{index_name('sample')}")
    (folder / SPLIT / index_name("sample")).unlink()
    return index


def _repeated(one: ShardIndex, count: int, number: int) -> ShardIndex:
    """Return the index of a shard whose samples all lie where one sample lies."""

    def tiled(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.tile(array, (count, *[1] * (array.ndim - 1)))

    def table(of: PieceTable) -> PieceTable:
        columns = {column.name: tiled(getattr(of, column.name)) for column in fields(PieceTable)}
        columns["start"] = np.arange(count + 1, dtype=np.int64) * len(of.offset)
        return PieceTable(**columns)

    plain = [field.name for field in fields(ShardIndex) if field.name not in PIECE_PLANES]
    content: dict[str, Any] = {name: tiled(getattr(one, name)) for name in plain}
    content |= {plane: table(one.table(plane)) for plane in PIECE_PLANES}
    content["keys"] = np.array([f"{SPLIT}-{number * count + i:08d}".encode() for i in range(count)])
    content["labels"] = np.arange(number, number + count, dtype=np.int64) % NUM_CLASSES
    content["member_names"] = one.member_names
    content["member_sample"] = np.repeat(np.arange(count, dtype=np.int32), len(one.member_sample))
    return ShardIndex(**content)


def _link_tars(tar: Path, names: list[Path]) -> None:
    content = tar.read_bytes()
    tar.unlink()
    for number, name in enumerate(names):
        if number % _LINKS_PER_FILE == 0:
            name.write_bytes(content)
        else:
            os.link(names[number - number % _LINKS_PER_FILE], name)


def measure(call: str, *arguments: str) -> dict[str, Any]:
    """Run a function of ``loading_scale_runs`` in a process of its own and watch its memory.

    Returns:
        What it says, with ``peak_mib`` and ``settled_mib``, each by kind of memory.
    """
    code = f"import sys; from gopstream.jobs.bench import loading_scale_runs as runs; {call}"
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        peak = {"Pss": 0.0}
        while not select.select([process.stdout], [], [], _POLL_SECONDS)[0]:
            peak = max(peak, tree_memory(process.pid), key=lambda memory: memory["Pss"])
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"{call} ended without a result; see above")
        settled = tree_memory(process.pid)
        peak = max(peak, settled, key=lambda memory: memory["Pss"])
        process.stdin.write("end\n")
    result: dict[str, Any] = json.loads(said)
    return result | {"peak_mib": peak, "settled_mib": settled}


def tree_memory(pid: int) -> dict[str, float]:
    """Return the memory of a process and its descendants in MiB, by kind; ``Pss`` is the whole.

    Source: proc(5), /proc/PID/smaps_rollup, which counts in KiB; a page that n processes share
    counts 1/n in each.
    """
    total = dict.fromkeys(("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"), 0.0)
    for process in _tree(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) / 1024
    return {name: round(value, 1) for name, value in total.items()}


def _tree(pid: int) -> list[int]:
    found = [pid]
    for process in found:  # grows while it is walked
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def prove(folder: Path, *, samples: int, shards: int, index_files: int) -> dict[str, Any]:
    """Make a split in a folder, open it, and compare with a loader over numbers."""
    split = make_split(folder, samples=samples, shards=shards, index_files=index_files)
    numbers = measure("runs.open_numbers()")
    opened = measure("runs.open_split(sys.argv[1])", str(folder))
    seconds = opened["open_seconds"] + opened["first_batch_seconds"]
    return {
        "split": split,
        "loader_over_numbers": numbers,
        "loader_over_the_split": opened,
        "seconds_to_the_first_batch": round(seconds, 3),
        "grown_mib": {
            name: round(opened[name]["Pss"] - numbers[name]["Pss"], 1)
            for name in ("peak_mib", "settled_mib")
        },
    }


def failures(row: dict[str, Any]) -> list[str]:
    """Name what takes too long or too much."""
    found = []
    if row["seconds_to_the_first_batch"] > SECONDS_LIMIT:
        found.append(f"the first batch came after {row['seconds_to_the_first_batch']} seconds")
    if row["grown_mib"]["peak_mib"] > MEMORY_LIMIT_MIB:
        found.append(f"the processes take {row['grown_mib']['peak_mib']} MiB more")
    return found


def _table(row: dict[str, Any]) -> Table:
    table = Table(f"{row['split']['samples']} samples, {WORKERS} workers", "MiB, peak", "settled")
    for name in ("loader_over_numbers", "loader_over_the_split"):
        memory = row[name]
        figures = [f"{memory[kind]['Pss']:.0f}" for kind in ("peak_mib", "settled_mib")]
        table.add_row(name.replace("_", " "), *figures)
    table.add_row("grown", *(f"{row['grown_mib'][kind]:.0f}" for kind in row["grown_mib"]))
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.loading_scale",
        description="A split of millions of samples opens in seconds and in little memory.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--count", type=int, default=SAMPLES, help="samples of the split")
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--index-files", type=int, default=INDEX_FILES, help="different ones")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        row = prove(
            Path(folder), samples=given.count, shards=given.shards, index_files=given.index_files
        )
    Console().print(_table(row))
    found = failures(row)
    content = {
        "command": "python -m gopstream.jobs.bench.loading_scale --json FILE --count "
        f"{given.count} --shards {given.shards}",
        "claim": f"the first batch comes within {SECONDS_LIMIT:g} seconds of opening, and the "
        f"process and its {WORKERS} workers take at most {MEMORY_LIMIT_MIB:g} MiB more than those "
        "of a loader over numbers",
        "holds": not found,
        "failures": found,
        "hardware": hardware(),
        **row,
    }
    write_report(given.json_file, content, name="loading_scale")
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
