"""Verify all splits of a dataset and gather the faults."""

from pathlib import Path
from typing import Any

from gopstream.jobs.console import progress
from gopstream.shards.dataset_files import load_dataset, load_manifest
from gopstream.shards.errors import ShardError
from gopstream.shards.layout import PLAN_FILE
from gopstream.shards.verify import verify_split


def split_names(root: Path) -> list[str]:
    """Return the names of a dataset's splits, finished or not.

    Raises:
        ShardError: If the folder holds no dataset.
    """
    load_dataset(root)
    return sorted(child.parent.name for child in root.glob(f"*/{PLAN_FILE}"))


def verify_dataset(root: Path, *, split: str | None, rebuild: bool) -> dict[str, Any]:
    """Verify one split, or all.

    Returns:
        ``splits``, ``shards``, ``samples`` that were looked at, ``faults`` as a list of objects
        with split, shard, key and what.

    Raises:
        ShardError: If there is no dataset or no such split.
    """
    splits = split_names(root)
    if split is not None and split not in splits:
        raise ShardError(f"{root}: no split {split!r}; there is {', '.join(splits) or 'none'}")
    chosen = splits if split is None else [split]
    result: dict[str, Any] = {"splits": len(chosen), "shards": 0, "samples": 0, "faults": []}
    if not chosen:
        nothing = {"split": "", "shard": "", "key": "", "what": f"{root} has no split"}
        result["faults"].append(nothing)
    for name in chosen:
        try:
            manifest = load_manifest(root, name)
            num_shards = len(manifest.shards)
            result["samples"] += manifest.num_samples
        except ShardError:
            num_shards = 0  # verify_split names the reason
        result["shards"] += num_shards
        with progress(f"verifying {name}", total=num_shards, unit="shards") as advance:
            for fault in verify_split(root, name, rebuild=rebuild, on_shard=advance):
                result["faults"].append({"split": name, **fault._asdict()})
    return result
