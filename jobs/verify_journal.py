"""What a check of a dataset has found so far: one JSON line per shard, in the order of their ends.

Several processes append to one file; each line is one write, between two line ends. A line that a
killed process left torn is passed over, and its shard is read once more.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gopstream.shards.dataset_files import DatasetFacts, ShardRecord
from gopstream.shards.layout import content_hash, dump_json
from gopstream.shards.verify import Fault


def shard_digest(url: str, split: str, shard: ShardRecord, facts: DatasetFacts) -> str:
    """Return the sha256 of everything that says what a shard should be, and where it is."""
    content = {
        "url": url,
        "split": split,
        "record": asdict(shard),
        "classes": list(facts.classes),
        "settings": dict(facts.settings),
    }
    return content_hash(content)


def read_clean(path: Path, *, rebuild: bool) -> set[str]:
    """Return the digests of the shards that were whole when they were read last.

    Args:
        path: The journal; none is there at first.
        rebuild: Whether only those count whose frames were rebuilt.
    """
    clean: set[str] = set()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                digest, is_clean = entry["digest"], not entry["faults"]
                if not is_clean:
                    clean.discard(digest)
                elif entry["rebuild"] or not rebuild:
                    clean.add(digest)
    return clean


def append_result(
    path: Path,
    digest: str,
    faults: Sequence[Fault],
    *,
    shard: ShardRecord,
    split: str,
    rebuild: bool,
) -> None:
    """Add what was found of a shard."""
    content = {
        "digest": digest,
        "split": split,
        "shard": shard.name,
        "rebuild": rebuild,
        "faults": [fault._asdict() for fault in faults],
    }
    line = b"\n" + dump_json(content) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
