"""Check that plan, reports and manifest of a split tell the same story."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gopstream.shards.dataset_files import DatasetFacts, Manifest
from gopstream.shards.errors import FormatError, ShardError
from gopstream.shards.layout import (
    FAILURES_FILE,
    MANIFEST_FILE,
    PLAN_FILE,
    SAMPLES_FILE,
    load_json,
    report_name,
)


def check_plan(folder: Path, manifest: Manifest, facts: DatasetFacts) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong): each planned video must be done or failed, counts must agree.

    Args:
        folder: Of the split.
        manifest: Of the split.
        facts: Of the dataset.
    """
    try:
        planned = _planned_videos(folder / PLAN_FILE)
    except (OSError, ShardError) as error:
        yield PLAN_FILE, f"cannot be read ({error})"
        return
    listed = Counter(shard.name for shard in manifest.shards)
    for name in sorted(set(planned) - set(listed)):
        yield name, "is planned, but the manifest does not list it"
    for name, times in sorted(listed.items()):
        if times > 1:
            yield name, f"is listed {times} times in the manifest"
    rows: list[dict[str, Any]] = []
    for shard in manifest.shards:
        name = report_name(shard.name)
        try:
            reported = _report_rows(folder / name)
        except (OSError, ShardError) as error:
            yield name, f"cannot be read ({error})"
            continue
        rows += reported
        expected = planned.get(shard.name, 0)
        if len(reported) != expected:
            yield name, f"reports {len(reported)} of {expected} planned videos"
        num_samples = sum(len(row.get("samples", [])) for row in reported)
        if num_samples != shard.num_samples:
            yield name, f"reports {num_samples} samples of {shard.num_samples}"
    yield from _check_counts(manifest, facts, rows, folder)
    for name in (SAMPLES_FILE, FAILURES_FILE):
        if not (folder / name).is_file():
            yield name, "is missing"


def _planned_videos(path: Path) -> dict[str, int]:
    """Return the number of planned videos of each shard."""
    plan = load_json(path)
    try:
        return {str(shard["name"]): len(list(shard["videos"])) for shard in plan["shards"]}
    except (KeyError, TypeError) as error:
        raise FormatError(f"not a plan: {error}") from error


def _report_rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise FormatError(str(error)) from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("samples", []), list):
            raise FormatError(f"line {number} is not a report of a video")
    return rows


def _check_counts(
    manifest: Manifest, facts: DatasetFacts, rows: Sequence[dict[str, Any]], folder: Path
) -> Iterator[tuple[str, str]]:
    names = (*facts.classes, "")
    counts: Counter[str] = Counter()
    for row in rows:
        label = row.get("label")
        name = f"label {label}"
        if isinstance(label, int) and -1 <= label < len(facts.classes):
            name = names[label]
        if row.get("samples"):
            counts[name] += len(row["samples"])
    failures = sum(row.get("status") == "failed" for row in rows)
    for what, stated, found in (
        ("split", manifest.split, folder.name),
        ("num_videos", manifest.num_videos, len(rows)),
        ("num_failures", manifest.num_failures, failures),
        ("class_counts", dict(manifest.class_counts), dict(counts)),
    ):
        if stated != found:
            yield MANIFEST_FILE, f"{what} is {stated!r}, the reports say {found!r}"
