"""What ``inspect`` says of a split: classes, lengths, motion and failures, read from its tables.

No clip is read. Of ``samples.parquet`` the columns of numbers are held, 8 bytes per sample each.

Dimension: N samples.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.table import Table

from gopstream.jobs.console import printable
from gopstream.jobs.inspection.app_failures import FailureQuery, search_failures
from gopstream.jobs.inspection.catalogue import MOTION_EDGES
from gopstream.jobs.inspection.sample_clip import codec_name
from gopstream.jobs.summaries import Summary, counted, fact_table, megabytes, render
from gopstream.shards.errors import ShardError
from gopstream.shards.reader import ShardDataset
from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage, as_storage

_NUMBERS: Final = (
    "frames",
    "duration_seconds",
    "mean_motion_pixels",
    "predicted_share",
    "zero_residual_share",
    "damaged_frames",
    "scene_cuts",
)
_COLUMNS: Final = (*_NUMBERS, "label", "shard", "fps", "width", "height", "codec", "exactness")
_HISTOGRAMS: Final = {"frames": "frames", "mean_motion_pixels": "mean length of vectors, px"}
_NUM_BINS: Final = 10
_BAR: Final = 40
_SHOWN_CLASSES: Final = 20
_SHOWN_VALUES: Final = 6
_SHOWN_FAILURES: Final = 5

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Columns:
    """What the rows so far say."""

    numbers: dict[str, list[Floats]] = field(
        default_factory=lambda: {name: [np.empty(0)] for name in _NUMBERS}
    )
    labels: Counter[int] = field(default_factory=Counter)
    rates: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    exactness: Counter[str] = field(default_factory=Counter)
    num_samples: int = 0

    def add(self, rows: Mapping[str, list[Any]]) -> None:
        for name in _NUMBERS:
            known = [value for value in rows[name] if value is not None]
            self.numbers[name].append(np.array(known, np.float64))
        self.labels.update(-1 if label is None else label for label in rows["label"])
        self.rates.update(f"{rate or 0:.3f}".rstrip("0").rstrip(".") for rate in rows["fps"])
        sizes = zip(rows["width"], rows["height"], strict=True)
        self.sizes.update(f"{width}x{height}" for width, height in sizes)
        self.codecs.update(codec_name(str(codec)) for codec in rows["codec"])
        self.exactness.update(map(str, rows["exactness"]))
        self.num_samples += len(rows["label"])

    def values(self, name: str) -> Floats:
        """Return the values of a column that are known."""
        return np.concatenate(self.numbers[name])


def dataset_summary(
    dataset: ShardDataset,
    *,
    storage: Storage | None = None,
    shards: Collection[str] | None = None,
) -> Summary:
    """Summarise a split.

    Args:
        dataset: The split.
        storage: Where it lies; None opens its place with the default options of a store.
        shards: Names of the shards whose samples count; None for all. Failures are of the whole
            split, and told with all shards, or where these have no sample.

    Returns:
        For JSON: ``samples``, ``videos``, ``failed``, ``shards``, ``bytes``, ``planes``;
        ``classes`` (samples by name), ``unlabelled``; ``frames``, ``duration_seconds``,
        ``mean_motion_pixels``, ``predicted_share``, ``zero_residual_share``, each with
        ``known``, ``minimum``, ``median``, ``mean`` and ``maximum``, the first and the third with
        a ``histogram`` of ``edges`` and ``counts``, whose last bin has no end; ``fps``, ``sizes``,
        ``codecs``, ``exactness`` (samples by value); ``damaged_samples``, ``cut_samples``; and
        ``failures`` with ``reasons`` (counts by stage and error) and the first ``rows``.

    Raises:
        ShardError: If the split's tables are missing or damaged.
    """
    storage = storage or as_storage(dataset.root)
    columns = _read_columns(storage, dataset.split, shards)
    content = _content(dataset, columns, shards)
    if shards is None or not columns.num_samples:
        content["failures"] = _failures(storage, dataset.split)
    return Summary(_text(content, shards), content)


def _read_columns(storage: Storage, split: str, shards: Collection[str] | None) -> _Columns:
    columns = _Columns()
    for batch in read_samples(storage, split, columns=_COLUMNS):
        rows = batch.to_pydict()
        if shards is not None:
            chosen = [place for place, name in enumerate(rows["shard"]) if name in shards]
            rows = {name: [values[place] for place in chosen] for name, values in rows.items()}
        columns.add(rows)
    return columns


def _content(
    dataset: ShardDataset, columns: _Columns, shards: Collection[str] | None
) -> dict[str, Any]:
    manifest = dataset.manifest
    records = [record for record in manifest.shards if shards is None or record.name in shards]
    classes = {name: columns.labels[number] for number, name in enumerate(dataset.facts.classes)}
    frames, motion = columns.values("frames"), columns.values("mean_motion_pixels")
    content: dict[str, Any] = {
        "dataset": dataset.root,
        "split": dataset.split,
        "planes": list(dataset.facts.planes),
        "mode": dataset.facts.settings.get("mode"),
        "samples": columns.num_samples,
        "shards": len(records),
        "bytes": sum(file.num_bytes for record in records for file in record.files.values()),
        "classes": classes,
        "unlabelled": columns.num_samples - sum(classes.values()),
        "frames": distribution(frames) | {"histogram": histogram(frames, even_edges(frames))},
        "mean_motion_pixels": distribution(motion) | {"histogram": histogram(motion, MOTION_EDGES)},
        "fps": dict(columns.rates.most_common()),
        "sizes": dict(columns.sizes.most_common()),
        "codecs": dict(columns.codecs.most_common()),
        "exactness": dict(columns.exactness.most_common()),
        "damaged_samples": int(np.count_nonzero(columns.values("damaged_frames"))),
        "cut_samples": int(np.count_nonzero(columns.values("scene_cuts"))),
    }
    for name in ("duration_seconds", "predicted_share", "zero_residual_share"):
        content[name] = distribution(columns.values(name))
    if shards is None or not columns.num_samples:
        content |= {"videos": manifest.num_videos, "failed": manifest.num_failures}
    return content


def distribution(values: Floats) -> dict[str, float | None]:
    """Return how values are spread; None for what no value has.

    Args:
        values: (N,).
    """
    if not len(values):
        return {"known": 0} | dict.fromkeys(("minimum", "median", "mean", "maximum"))
    return {
        "known": len(values),
        "minimum": round(float(values.min()), 6),
        "median": round(float(np.median(values)), 6),
        "mean": round(float(values.mean()), 6),
        "maximum": round(float(values.max()), 6),
    }


def histogram(values: Floats, edges: Sequence[float]) -> dict[str, list[float]]:
    """Count values in bins that begin at the edges; the last bin has no end.

    Args:
        values: (N,), none below the first edge.
        edges: Rising.
    """
    counts, _ = np.histogram(values, [*edges, np.inf])
    return {"edges": list(edges), "counts": counts.tolist()}


def even_edges(values: Floats) -> list[float]:
    """Return where ten bins or fewer begin, from 0 on, in steps of 1, 2 or 5 times a power of 10.

    Args:
        values: (N,), none negative.
    """
    highest = float(values.max(initial=0))
    least = (highest + 1) / _NUM_BINS
    power = 10.0 ** np.floor(np.log10(max(least, 1)))
    step = next(float(factor * power) for factor in (1, 2, 5, 10) if factor * power >= least)
    return [number * step for number in range(int(highest // step) + 1)]


def _failures(storage: Storage, split: str) -> dict[str, Any]:
    try:
        page = search_failures(storage, split, FailureQuery(limit=_SHOWN_FAILURES))
    except FileNotFoundError as error:
        raise ShardError(
            f"{storage.url}/{split}: failures.jsonl is missing; run 'gopstream verify' to see "
            "all faults"
        ) from error
    return {"reasons": dict(page.reasons), "rows": page.rows}


def _text(content: Mapping[str, Any], shards: Collection[str] | None) -> str:
    place = "/".join([content["dataset"], content["split"], *sorted(shards or ())])
    told: dict[str, object] = {"split" if shards is None else "shard": place}
    told |= _rows(content) if content["samples"] else _empty_rows(content, shards)
    parts: list[Table | str] = [fact_table({name: printable(told[name]) for name in told})]
    if content["samples"]:
        for name, unit in _HISTOGRAMS.items():
            parts += ["", _histogram_table(content[name]["histogram"], unit)]
        if content["classes"]:
            parts += ["", _class_table(content["classes"])]
    failures = content.get("failures")
    if failures is not None and failures["reasons"]:
        parts += ["", _failure_table(failures["reasons"])]
        parts += [
            printable(f"failed: {row['source']}: {row['stage']}: {row['message']}")
            for row in failures["rows"]
        ]
    return render(*parts)


def _empty_rows(content: Mapping[str, Any], shards: Collection[str] | None) -> dict[str, object]:
    """Say what there is to say of shards without a sample."""
    of_all = f"{content['failed']:,} of {counted(content['videos'], 'video')} failed"
    return {
        "samples": "none",
        "failed": of_all if shards is None else f"of the split {content['split']}, {of_all}",
    }


def _rows(content: Mapping[str, Any]) -> dict[str, object]:
    numbers = f"{content['samples']:,} in {counted(content['shards'], 'shard')}"
    if "videos" in content:
        numbers += f", of {counted(content['videos'], 'video')}; {content['failed']:,} failed"
    rows: dict[str, object] = {
        "samples": f"{numbers}; {megabytes(content['bytes'])}",
        "planes": f"{', '.join(content['planes'])}; {content['mode']} mode",
        "frames": _spread(content["frames"]),
        "seconds": _spread(content["duration_seconds"]),
        "frames per second": _counts(content["fps"]),
        "pictures": _counts(content["sizes"]),
        "source codecs": _counts(content["codecs"]),
        "residual": _counts(content["exactness"]),
        "vectors' mean length": _spread(content["mean_motion_pixels"], unit=" px"),
        "blocks predicted": _spread(content["predicted_share"], show="{:.1%}"),
        "residual is zero": _spread(content["zero_residual_share"], show="{:.1%}"),
        "damaged frames": f"in {counted(content['damaged_samples'], 'sample')}",
        "scene cuts": f"in {counted(content['cut_samples'], 'sample')}",
    }
    if content["classes"]:
        sizes = np.array(list(content["classes"].values()))
        rows["classes"] = (
            f"{len(sizes):,} of {sizes.min():,} / {np.median(sizes):,.0f} / {sizes.max():,} "
            f"samples (smallest, median, largest), {np.count_nonzero(sizes == 0):,} empty"
        )
    if content["unlabelled"]:
        rows["without a label"] = counted(content["unlabelled"], "sample")
    return rows


def _spread(values: Mapping[str, float | None], *, show: str = "{:,g}", unit: str = "") -> str:
    if not values["known"]:
        return "not known of any sample"
    shown = (show.format(values[name]) for name in ("minimum", "median", "maximum"))
    return f"{' / '.join(shown)}{unit} (least, median, most)"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{value} ({count:,})" for value, count in counts.items()]
    return ", ".join(shown[:_SHOWN_VALUES] + ["..."] * (len(shown) > _SHOWN_VALUES)) or "none"


def _histogram_table(bins: Mapping[str, Sequence[float]], title: str) -> Table:
    edges = [f"{edge:g}" for edge in bins["edges"]]
    names = [f"{low} to {high}" for low, high in zip(edges, [*edges[1:], "..."], strict=True)]
    return _bar_table(title, zip(names, map(int, bins["counts"]), strict=True))


def _class_table(classes: Mapping[str, int]) -> Table:
    """Show the largest classes; of many, the smallest as well."""
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    rows: list[tuple[str, int | None]] = [(printable(name), count) for name, count in ordered]
    if len(rows) > _SHOWN_CLASSES:
        half = _SHOWN_CLASSES // 2
        rows = [*rows[:half], (f"... {len(rows) - 2 * half} more ...", None), *rows[-half:]]
    return _bar_table("class", rows)


def _failure_table(reasons: Mapping[str, int]) -> Table:
    rows = ((printable(reason), count) for reason, count in reasons.items())
    return _bar_table("failed at: by", rows, unit="videos")


def _bar_table(
    title: str, rows: Iterable[tuple[str, int | None]], *, unit: str = "samples"
) -> Table:
    table = Table(title, unit, "")
    table.columns[1].justify = "right"
    filled = list(rows)
    highest = max([count for _, count in filled if count is not None], default=0)
    for name, count in filled:
        if count is None:
            table.add_row(name, "", "")
            continue
        length = -(-count * _BAR // highest) if highest else 0
        table.add_row(name, f"{count:,}", "#" * length)
    return table
