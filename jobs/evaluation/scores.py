"""Scores of outcomes: top-1, top-5, by class, confusions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gopstream.jobs.evaluation.outcomes import Outcomes, action_numbers
from gopstream.jobs.labels import LabelSet

SHOWN_CLASSES: Final = 50
"""A confusion matrix of more classes is left to its file."""


def action_scores(outcomes: Outcomes, sets: Sequence[LabelSet]) -> dict[str, Any]:
    """Return the scores of samples right in all label sets; of a single set those of its classes.

    Returns:
        ``top1``, ``top5``, ``chance`` and ``loss``.
    """
    sizes = [len(labels.classes) for labels in sets]
    right = outcomes.actions == action_numbers(outcomes.labels, sizes)[:, None]
    return _tops(right) | {
        "loss": float(outcomes.losses.mean()),
        "chance": 1 / math.prod(sizes),
    }


def set_scores(outcomes: Outcomes, number: int, classes: Sequence[str]) -> dict[str, Any]:
    """Return the scores of one label set.

    Args:
        outcomes: Of all samples.
        number: Of the label set.
        classes: Its names.

    Returns:
        ``top1``, ``top5``, ``mean_class_accuracy`` over the classes that have samples, ``chance``,
        ``per_class`` accuracy by name, and ``confusion`` unless there are too many classes.
    """
    labels, guesses = outcomes.labels[:, number], outcomes.guesses[:, number]
    counts = confusion(outcomes, number, num_classes=len(classes))
    totals = counts.sum(dim=1).tolist()
    per_class = {
        name: hits / total
        for name, hits, total in zip(classes, counts.diagonal().tolist(), totals, strict=True)
        if total
    }
    scores = _tops(guesses == labels[:, None]) | {
        "mean_class_accuracy": math.fsum(per_class.values()) / len(per_class),
        "chance": 1 / len(classes),
        "per_class": per_class,
    }
    if len(classes) <= SHOWN_CLASSES:
        scores["confusion"] = counts.tolist()
    return scores


def all_scores(outcomes: Outcomes, sets: Sequence[LabelSet]) -> dict[str, Any]:
    """Return all scores of a split.

    Returns:
        Of a single set its scores, and ``loss``. Of several: ``top1``, ``top5``, ``loss`` and
        ``chance`` of the action, and under ``sets`` the scores of each by its name.
    """
    scores = action_scores(outcomes, sets) | {"samples": len(outcomes.keys)}
    by_set = {
        labels.name: set_scores(outcomes, number, labels.classes)
        for number, labels in enumerate(sets)
    }
    if len(sets) == 1:
        return scores | next(iter(by_set.values()))
    return scores | {"sets": by_set}


def scores_text(scores: Mapping[str, Any]) -> str:
    """Return :func:`all_scores` as one line."""
    sets: Mapping[str, Mapping[str, Any]] = scores.get("sets", {})
    parts = [
        ("action " if sets else "", scores),
        *((f"{name} ", one) for name, one in sets.items()),
    ]
    tops = [
        f"{name}top-1 {one['top1']:.2%}, top-5 {one['top5']:.2%}"
        + (
            f", mean class accuracy {one['mean_class_accuracy']:.2%}"
            if "mean_class_accuracy" in one
            else ""
        )
        for name, one in parts
    ]
    return f"{'; '.join(tops)} on {scores['samples']} samples (chance {scores['chance']:.2%})"


def confusion(outcomes: Outcomes, number: int, *, num_classes: int) -> Tensor:
    """Return (classes, classes) int64: how many samples of a row's class got a column's."""
    pairs = outcomes.labels[:, number] * num_classes + outcomes.guesses[:, number, 0]
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def _tops(right: Tensor) -> dict[str, Any]:
    """Return ``top1`` and ``top5`` of (N, 5) whether a guess is right."""
    return {
        "top1": float(right[:, 0].to(torch.float64).mean()),
        "top5": float(right.any(dim=1).to(torch.float64).mean()),
    }
