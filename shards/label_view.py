"""Other labels for a finished split: ``labels/NAME.json`` and ``labels/NAME.SPLIT.npz``.

A view says for each sample of the split, in the order of the manifest, which class it has now or
that it is left out. The tars keep the labels that they were made with. A view belongs to the
samples that were there when it was made: after ``--append`` or ``remove`` it is refused until it
is made again, so that no label moves to another sample.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.shards.array_file import parse_array_file
from gopstream.shards.dataset_files import Manifest, check_format, load_json, load_manifest
from gopstream.shards.errors import FormatError, SettingsError, ShardError
from gopstream.shards.layout import check_split_name, content_hash, tar_name
from gopstream.shards.plane_names import check_plane_name
from gopstream.shards.storage import Storage

LABELS_FOLDER: Final = "labels"
LEFT_OUT: Final = -2
"""The label of a sample that the view leaves out; -1 is one without a class."""

_ARRAYS: Final = ("labels", "shards", "shard_samples", "shard_sha256", "classes_sha256")


@dataclass(frozen=True, slots=True)
class LabelView:
    """Labels of all samples of a split."""

    labels: npt.NDArray[np.int64]
    """(N,) class index, -1 without one, LEFT_OUT."""
    classes: tuple[str, ...]
    """Names of the classes; a label is an index into them."""


def view_json_name(name: str) -> str:
    """Return the name of the object that has a view's classes."""
    return f"{LABELS_FOLDER}/{check_plane_name(name)}.json"


def view_array_name(name: str, split: str) -> str:
    """Return the name of the object that has a view's labels of one split."""
    return f"{LABELS_FOLDER}/{check_plane_name(name)}.{check_split_name(split)}.npz"


def load_label_view(storage: Storage, split: str, name: str) -> LabelView:
    """Load a view of a finished split.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        name: Of the view.

    Raises:
        ShardError: If there is no such view or split.
        SettingsError: If samples were appended or removed after it was made; says which.
        FormatError: If a file of it is damaged.
    """
    classes = load_view_classes(storage, name)
    array_name = view_array_name(name, split)
    where = f"{storage.url}/{array_name}"
    try:
        content = storage.read(array_name)
    except FileNotFoundError as error:
        raise ShardError(
            f"{storage.url}: the labels {name!r} are not for the split {split!r}; make them with "
            "'gopstream relabel'"
        ) from error
    arrays = parse_array_file(content, names=_ARRAYS, where=where)
    if str(arrays["classes_sha256"].tolist()) != classes_hash(classes):
        raise SettingsError(
            f"{where}: made with other classes than {view_json_name(name)} has; run 'gopstream "
            "relabel' again"
        )
    manifest = load_manifest(storage, split)
    difference = _difference(fingerprint(manifest), arrays)
    if difference is not None:
        raise SettingsError(
            f"{where}: {difference} since these labels were made; run 'gopstream relabel' again"
        )
    labels = arrays["labels"]
    if labels.shape != (manifest.num_samples,) or not np.all(
        (labels >= LEFT_OUT) & (labels < len(classes))
    ):
        raise FormatError(
            f"{where}: expected {manifest.num_samples} labels of {len(classes)} classes"
        )
    return LabelView(labels.astype(np.int64), classes)


def load_view_classes(storage: Storage, name: str) -> tuple[str, ...]:
    """Return the names of a view's classes.

    Raises:
        ShardError: If there is no such view.
        FormatError: If its file is damaged.
    """
    json_name = view_json_name(name)
    where = f"{storage.url}/{json_name}"
    try:
        content = load_json(storage, json_name)
    except FileNotFoundError as error:
        raise ShardError(
            f"{storage.url}: there are no labels {name!r}; make them with 'gopstream relabel'"
        ) from error
    check_format(content, where)
    classes = content.get("classes")
    if not isinstance(classes, list) or not all(isinstance(entry, str) for entry in classes):
        raise FormatError(f"{where}: lacks a list of classes")
    return tuple(classes)


def classes_hash(classes: tuple[str, ...]) -> str:
    """Return what ties the labels of a split to the classes."""
    return content_hash({"classes": list(classes)})


def fingerprint(manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """Return what tells a split's samples from those after an edit, shard by shard.

    The sha256 of the main tar changes when samples are removed, and stays when planes are added
    or dropped.
    """
    shards = manifest.shards
    digests = [shard.files[tar_name(shard.name)].sha256 for shard in shards]
    return {
        "shards": np.array([shard.name.encode() for shard in shards], np.bytes_),
        "shard_samples": np.array([shard.num_samples for shard in shards], np.int64),
        "shard_sha256": np.array([digest.encode() for digest in digests], np.bytes_),
    }


def _difference(now: dict[str, npt.NDArray[Any]], then: dict[str, npt.NDArray[Any]]) -> str | None:
    """Say how a split has changed; None if it has not."""
    rows_now, rows_then = (
        list(zip(*(side[name].tolist() for name in _ARRAYS[1:4]), strict=True))
        for side in (now, then)
    )
    for new, old in zip(rows_now, rows_then, strict=False):
        if new != old:
            return (
                f"samples of shard {old[0].decode()} were removed or changed "
                f"({old[1]} then, {new[1]} now)"
            )
    if len(rows_now) > len(rows_then):
        count = sum(row[1] for row in rows_now[len(rows_then) :])
        return f"{count} samples were appended (they have no label yet)"
    if len(rows_now) < len(rows_then):
        return f"{len(rows_then) - len(rows_now)} shards have gone"
    return None
