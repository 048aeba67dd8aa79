"""Give the samples of a finished dataset other labels, without writing a tar again.

The new labels come from a CSV with one of the headers ``key,label``, ``source,label`` and
``class,label``; an empty label leaves samples out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.annotations.text_files import read_table
from gopstream.pipeline.errors import AnnotationError
from gopstream.shards.array_file import array_file_bytes
from gopstream.shards.dataset_files import DatasetFacts, Manifest, load_dataset, load_manifest
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.label_view import (
    LABELS_FOLDER,
    LEFT_OUT,
    classes_hash,
    fingerprint,
    load_view_classes,
    view_array_name,
    view_json_name,
)
from gopstream.shards.layout import FORMAT_VERSION, NO_LABEL, dump_json
from gopstream.shards.sample_table import read_samples
from gopstream.shards.storage import Storage

Column = Literal["key", "source", "class"]

_COLUMNS: Final[tuple[Column, ...]] = ("key", "source", "class")
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class LabelList:
    """The content of a CSV of new labels."""

    path: Path
    column: Column
    """What its first column says."""
    labels: Mapping[str, str | None]
    """The new class by the first column; None leaves out."""


class LabelCounts(NamedTuple):
    """What has become of a split's samples."""

    kept: int
    left_out: int
    class_counts: Mapping[str, int]
    """Samples of each class; those without a label are under the empty name."""


def read_label_list(path: Path) -> LabelList:
    """Read a CSV of new labels.

    Raises:
        AnnotationError: Naming the line that cannot be meant.
        FileNotFoundError: If it is not there.
    """
    labels: dict[str, str | None] = {}
    column: Column | None = None
    for line, cells in read_table(path, columns=("label",)):
        named = [name for name in _COLUMNS if name in cells]
        if len(cells) != 2 or len(named) != 1:
            raise AnnotationError(
                f"{path}:1: expected a header key,label or source,label or class,label, got "
                f"{','.join(cells)}"
            )
        column = named[0]
        if cells[column] in labels:
            raise AnnotationError(f"{path}:{line}: {cells[column]!r} is listed twice")
        labels[cells[column]] = cells["label"].strip() or None
    if column is None:
        raise AnnotationError(f"{path}: there are no labels")
    return LabelList(path, column, labels)


def write_label_view(
    storage: Storage,
    name: str,
    listed: LabelList,
    *,
    splits: Sequence[str],
    chosen: Sequence[str] | None = None,
    only: bool = False,
) -> dict[str, LabelCounts]:
    """Write the view ``NAME`` of a dataset's samples.

    The classes depend on the list and the dataset's classes alone, never on a split. A list by
    class gives the dataset's classes in their order, each under its new name; other lists add
    their new names, sorted. With ``only`` the names in the list are all classes.

    Args:
        storage: Of the dataset.
        name: Of the view; one of that name is replaced.
        listed: The new labels.
        splits: All finished splits; an entry that none of them has is an error.
        chosen: Splits to write the view for; None for all.
        only: Leave out what is not listed, instead of keeping its label.

    Raises:
        SettingsError: If the name cannot be used, or other splits have this view with other
            classes.
        AnnotationError: If the list has an entry that the dataset does not have.
    """
    facts = load_dataset(storage)
    chosen = list(splits if chosen is None else chosen)
    _check_place(storage, name, splits)
    classes = _view_classes(listed, facts, only=only)
    if set(chosen) != set(splits):
        _check_same_classes(storage, name, splits, chosen=chosen, classes=classes)
    _check_known(storage, listed, facts, splits)
    counts = {}
    for split in chosen:
        manifest = load_manifest(storage, split)
        labels = _labels(storage, manifest, listed, facts, classes=classes, only=only)
        arrays = fingerprint(manifest) | {
            "labels": labels,
            "classes_sha256": np.array(classes_hash(classes)),
        }
        storage.write(view_array_name(name, split), array_file_bytes(arrays))
        counts[split] = _count(labels, classes)
    content = {"format": FORMAT_VERSION, "name": name, "classes": list(classes)}
    storage.write(view_json_name(name), dump_json(content))
    return counts


def _check_place(storage: Storage, name: str, splits: Sequence[str]) -> None:
    view_json_name(name)
    if LABELS_FOLDER in splits:
        raise SettingsError(
            f"{storage.url}: has a split {LABELS_FOLDER!r}, whose folder the labels would share"
        )


def _view_classes(listed: LabelList, facts: DatasetFacts, *, only: bool) -> tuple[str, ...]:
    named = {label for label in listed.labels.values() if label is not None}
    if listed.column == "class":
        renamed = (listed.labels.get(old, None if only else old) for old in facts.classes)
        classes = tuple(dict.fromkeys(label for label in renamed if label is not None))
        # A class for the samples without one has no place among the old.
        return (*classes, *sorted(named - set(classes)))
    if only:
        return tuple(sorted(named))
    return (*facts.classes, *sorted(named - set(facts.classes)))


def _check_same_classes(
    storage: Storage,
    name: str,
    splits: Sequence[str],
    *,
    chosen: Sequence[str],
    classes: tuple[str, ...],
) -> None:
    others = [split for split in splits if split not in chosen]
    if not any(storage.exists(view_array_name(name, split)) for split in others):
        return
    if load_view_classes(storage, name) != classes:
        raise SettingsError(
            f"{storage.url}: the labels {name!r} of {', '.join(others)} have other classes; make "
            "all splits at once, or choose another name"
        )


def _check_known(
    storage: Storage, listed: LabelList, facts: DatasetFacts, splits: Sequence[str]
) -> None:
    """Refuse entries of the list that the dataset does not have."""
    unknown = set(listed.labels)
    if listed.column == "class":
        unknown -= {*facts.classes, ""}
    else:
        for split in splits:
            for batch in read_samples(storage, split, columns=[listed.column]):
                unknown.difference_update(batch.column(0).to_pylist())
    if unknown:
        shown = ", ".join(map(repr, sorted(unknown)[:_SHOWN]))
        raise AnnotationError(
            f"{listed.path}: {storage.url} has no {listed.column} {shown}"
            + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        )


def _labels(
    storage: Storage,
    manifest: Manifest,
    listed: LabelList,
    facts: DatasetFacts,
    *,
    classes: tuple[str, ...],
    only: bool,
) -> npt.NDArray[np.int64]:
    """Return the new label of each sample: (N,) in the order of the manifest."""
    numbers = {name: number for number, name in enumerate(classes)}
    old_names = (*facts.classes, "")  # -1 is the last
    labels = np.empty(manifest.num_samples, np.int64)
    where = f"{storage.url}/{manifest.split}"
    expected = np.repeat(
        [int(shard.name) for shard in manifest.shards],
        [shard.num_samples for shard in manifest.shards],
    )
    position = 0
    for shard, entry, old in _rows(storage, manifest.split, listed.column, old_names):
        if position == len(labels) or int(shard) != expected[position]:
            raise FormatError(f"{where}: samples.parquet and manifest.json list other samples")
        if entry in listed.labels:
            label = listed.labels[entry]
            labels[position] = LEFT_OUT if label is None else numbers[label]
        elif only:
            labels[position] = LEFT_OUT
        else:
            labels[position] = numbers[old] if old else NO_LABEL
        position += 1
    if position != len(labels):
        raise FormatError(f"{where}: samples.parquet and manifest.json list other samples")
    return labels


def _rows(
    storage: Storage, split: str, column: Column, old_names: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield shard, what the list goes by, and old class of each sample."""
    wanted = "label" if column == "class" else column
    for batch in read_samples(storage, split, columns=["shard", "label", wanted]):
        shards, labels, entries = (column.to_pylist() for column in batch.columns)
        for shard, label, entry in zip(shards, labels, entries, strict=True):
            old = old_names[label]
            yield shard, old if column == "class" else entry, old


def _count(labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> LabelCounts:
    names = (*classes, "")
    kept = labels[labels != LEFT_OUT]
    counts = Counter(names[label] for label in kept.tolist())
    return LabelCounts(len(kept), len(labels) - len(kept), dict(sorted(counts.items())))
