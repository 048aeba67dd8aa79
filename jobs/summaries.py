"""What ``info`` and ``demo`` print: a table for people, the same facts as JSON."""

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from gopstream.jobs.plan_files import load_parts
from gopstream.jobs.publish import unfinished_shards
from gopstream.shards.dataset_files import Manifest, load_dataset, load_manifest, planned_splits
from gopstream.shards.errors import ShardError
from gopstream.shards.label_view import LABELS_FOLDER
from gopstream.shards.layout import tar_name
from gopstream.shards.storage import Storage
from gopstream.shards.user_plane import user_planes

_WIDTH: Final = 110
"""Columns of what does not go to a terminal."""
_LEAST_WIDTH: Final = 40


class Summary(NamedTuple):
    """The same facts twice."""

    text: str
    content: dict[str, Any]


def render(*parts: Table | str) -> str:
    """Return tables and lines as plain text, tables as wide as the terminal allows."""
    console = Console(file=io.StringIO(), width=_columns(), highlight=False)
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip()


def _columns() -> int:
    if not sys.stdout.isatty():
        return _WIDTH
    # A terminal that does not know its size says 0.
    return max(_LEAST_WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH)


def fact_table(facts: Mapping[str, object]) -> Table:
    """Return a two-column table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def counted(number: int, unit: str) -> str:
    """Return a number with its unit, which gets an s unless there is one: ``1 frame``."""
    return f"{number:,} {unit}{'s' * (number != 1)}"


def megabytes(num_bytes: float) -> str:
    """Return a size in MB."""
    return f"{num_bytes / 1e6:,.1f} MB"


def dataset_summary(storage: Storage) -> Summary:
    """Summarise a dataset.

    Raises:
        ShardError: If the folder holds none.
    """
    facts = load_dataset(storage)
    splits: dict[str, Any] = {}
    own_planes: set[str] = set()
    table = Table("split", "videos", "failed", "samples", "shards", "bytes", "of it residual")
    for name in planned_splits(storage):
        parts = load_parts(storage, name)
        planned = sum(part.num_shards for part in parts)
        undone = len(unfinished_shards(storage, name, parts))
        try:
            manifest = load_manifest(storage, name)
        except ShardError as error:
            splits[name] = {
                "complete": False,
                "why": str(error),
                "planned_videos": sum(part.num_videos for part in parts),
                "planned_shards": planned,
                "finished_shards": planned - undone,
            }
            table.add_row(name, "unfinished", "", "", f"{planned - undone} of {planned}")
            continue
        if manifest.num_plans < len(parts):
            table.caption = f"{name}: videos are being added, {undone} shards are to be made"
        splits[name] = _split_content(manifest)
        own_planes |= {plane for shard in manifest.shards for plane in user_planes(shard.files)}
        table.add_row(
            name,
            str(manifest.num_videos),
            str(manifest.num_failures),
            str(manifest.num_samples),
            str(len(manifest.shards)),
            megabytes(manifest.num_bytes),
            megabytes(splits[name]["residual_bytes"]),
        )
    names = storage.list_names(LABELS_FOLDER)
    views = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    named = f"{len(facts.classes)}: {', '.join(facts.classes[:8])}"
    shown = {
        "dataset": storage.url,
        "classes": named + (", ..." if len(facts.classes) > 8 else "") if facts.classes else "none",
        "planes": ", ".join([*facts.planes, *sorted(own_planes)]),
        "other labels": ", ".join(views) or "none",
        "settings": ", ".join(f"{name} {value}" for name, value in facts.settings.items()),
    }
    content = {
        "classes": list(facts.classes),
        "planes": [*facts.planes, *sorted(own_planes)],
        "labels": views,
        "settings": dict(facts.settings),
        "splits": splits,
    }
    return Summary(render(fact_table(shown), table), content)


def _split_content(manifest: Manifest) -> dict[str, Any]:
    return {
        "complete": True,
        "videos": manifest.num_videos,
        "failures": manifest.num_failures,
        "samples": manifest.num_samples,
        "shards": len(manifest.shards),
        "bytes": manifest.num_bytes,
        "residual_bytes": _residual_bytes(manifest),
        "class_counts": dict(manifest.class_counts),
    }


def _residual_bytes(manifest: Manifest) -> int:
    return sum(
        shard.files[name].num_bytes
        for shard in manifest.shards
        if (name := tar_name(shard.name, "residual")) in shard.files
    )


def demo_summary(result: dict[str, Any], out: Path) -> Summary:
    """Summarise the demo and say what to try next."""
    shown = {
        "accuracy on held-out videos": f"{result['accuracy']:.1%} (chance {result['chance']:.1%})",
        "the same weights, motion zeroed": f"{result['accuracy_motion_zeroed']:.1%}",
        "trained anew without motion": f"{result['accuracy_without_motion']:.1%}",
        "trained anew on single frames": f"{result['accuracy_single_frame']:.1%}",
        "videos": f"{result['train_videos']} + {result['val_videos']}: "
        f"{megabytes(result['video_bytes'])} H.264, {megabytes(result['shard_bytes'])} shards",
        "seconds": f"{result['seconds']} "
        f"({', '.join(f'{k} {v}' for k, v in result['stage_seconds'].items())})",
        "picture": out / "contact_sheet.png",
        "curves": out / "curves.png",
    }
    following = (
        "next:",
        f"  gopstream info {out / 'shards'}",
        f"  gopstream evaluate {out / 'runs' / 'motion'} --data {out / 'shards'} --views 5x1",
        "  gopstream shard YOUR_VIDEOS --out YOUR_SHARDS",
    )
    return Summary(render(fact_table(shown), *following), result)
