"""What a network learns to say: the classes of a dataset, or several label sets at once.

EPIC-KITCHENS is learnt by verb and noun: each has outputs of its own, and the action is right
where both are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gopstream.jobs.errors import UserError
from gopstream.pipeline.nearest_name import did_you_mean
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.reader import ShardDataset
from gopstream.shards.where import WhereError


class LabelSet(NamedTuple):
    """Names that one head chooses from."""

    name: str
    """As the dataset calls it; empty for its classes."""
    classes: tuple[str, ...]


class Targets(NamedTuple):
    """What a dataset's samples are, in each of the label sets."""

    sets: tuple[LabelSet, ...]
    rows: Mapping[str, int] | None
    """Row of each key in `labels`; None where batches bring their labels."""
    labels: Tensor | None
    """(N, sets) int64."""

    @property
    def num_outputs(self) -> int:
        """Of a network that learns them."""
        return sum(len(labels.classes) for labels in self.sets)

    def of(self, batch: ClipBatch) -> tuple[Tensor, ...]:
        """Return the labels of a batch's clips: (B,) int64 for each set, on the batch's device."""
        if self.rows is None or self.labels is None:
            return (batch.labels,)
        found = self.labels[[self.rows[key] for key in batch.keys]]
        return found.to(batch.labels.device).unbind(dim=1)


def open_targets(dataset: ShardDataset, label_sets: Sequence[str]) -> Targets:
    """Return what a network is to learn of a split.

    Args:
        dataset: The split.
        label_sets: Names of label sets; none takes the classes.

    Raises:
        UserError: If there is no such label set, or a sample has no label of it.
    """
    if not label_sets:
        return Targets((LabelSet("", dataset.classes),), None, None)
    known = dataset.facts.label_sets
    sets, columns = [], []
    for name in label_sets:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(
                f"{dataset.root}: there is no label set {name!r}{did_you_mean(name, list(known))} "
                f"({has}); train.label_sets names those of the dataset"
            )
        sets.append(LabelSet(name, known[name]))
        columns.append(_column(dataset, name, num_classes=len(known[name])))
    rows = {key: row for row, key in enumerate(dataset.keys)}
    return Targets(tuple(sets), rows, torch.from_numpy(np.stack(columns, axis=1)))


def check_labels(dataset: ShardDataset) -> None:
    """Refuse videos without a class.

    Raises:
        UserError: Naming the split.
    """
    if not dataset.classes or dataset.num_unlabelled:
        raise UserError(f"{dataset.root}/{dataset.split} has videos without a label")


def open_labelled(dataset: ShardDataset, label_sets: Sequence[str]) -> Targets:
    """Return what a network is to learn of a split, of which every sample must have a label.

    Raises:
        UserError: As `open_targets` and `check_labels`.
    """
    if not label_sets:
        check_labels(dataset)
    return open_targets(dataset, label_sets)


def split_outputs(logits: Tensor, sets: Sequence[LabelSet]) -> tuple[Tensor, ...]:
    """Part (B, outputs) into (B, classes) for each label set."""
    return torch.split(logits, [len(labels.classes) for labels in sets], dim=1)


def _column(dataset: ShardDataset, name: str, *, num_classes: int) -> npt.NDArray[np.int64]:
    try:
        labels: npt.NDArray[np.int64] = dataset.column_weights(name).astype(np.int64)
    except WhereError as error:
        raise UserError(
            f"{dataset.root}/{dataset.split}: label set {name}: a sample has no label of it, or "
            f"its column in samples.parquet is none of numbers ({error})"
        ) from error
    except ShardError as error:
        raise UserError(f"{dataset.root}/{dataset.split}: label set {name}: {error}") from error
    if len(labels) and int(labels.max()) >= num_classes:
        raise UserError(
            f"{dataset.root}/{dataset.split}: label set {name} has {num_classes} names, and a "
            f"sample has label {int(labels.max())}"
        )
    return labels
