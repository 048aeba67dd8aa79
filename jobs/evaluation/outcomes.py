"""What a network says of samples, by all of their views: few numbers of each."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import LabelSet, split_outputs

Average = Literal["probabilities", "logits"]
"""What of the views is averaged: the mean of softmaxes, or the softmax of the mean."""

TOP: Final = 5
"""Guesses that are kept of each sample."""


class Outcomes(NamedTuple):
    """N samples, S label sets. Where there are fewer guesses than five, -1 of probability 0."""

    samples: Tensor
    """(N,) int64: their places in the split, rising."""
    keys: list[str]
    labels: Tensor
    """(N, S) int64."""
    losses: Tensor
    """(N,) float64: cross entropy of the averaged probabilities, summed over label sets."""
    guesses: Tensor
    """(N, S, 5) int64 outputs of each label set, the likeliest first."""
    probabilities: Tensor
    """(N, S, 5) float64, theirs."""
    actions: Tensor
    """(N, 5) int64: the likeliest combinations of the label sets, numbered as by
    :func:`action_numbers`; of a single set its guesses."""
    action_probabilities: Tensor
    """(N, 5) float64, theirs: products over the label sets."""


def outcomes_of(
    logits: Tensor,
    labels: Tensor,
    *,
    samples: Tensor,
    keys: Sequence[str],
    sets: Sequence[LabelSet],
    average: Average,
) -> Outcomes:
    """Average the views of samples, and keep what is needed to score them.

    Args:
        logits: (N, V, outputs) of any type; everything is worked out in float64.
        labels: (N, S) int64.
        samples: (N,) int64.
        keys: N of them.
        sets: What the outputs are.
        average: What of the views is averaged.

    Raises:
        UserError: If an output is no number; names the sample.
    """
    logs = [averaged_logs(part, average) for part in split_views(logits, sets)]
    wrong = torch.stack([part.isnan().any(dim=1) for part in logs]).any(dim=0)
    if bool(wrong.any()):
        key = keys[int(wrong.nonzero()[0])]
        raise UserError(f"the network's outputs for sample {key} are no numbers (nan or inf)")
    losses = -sum(
        (part.gather(1, labels[:, [number]])[:, 0] for number, part in enumerate(logs)),
        start=torch.zeros(len(labels), dtype=torch.float64),
    )
    ranked = [_likeliest(part.exp()) for part in logs]
    actions, products = _likeliest_actions(ranked, [len(each.classes) for each in sets])
    return Outcomes(
        samples=samples,
        keys=list(keys),
        labels=labels,
        losses=losses,
        guesses=torch.stack([_filled(guesses, -1) for guesses, _ in ranked], dim=1),
        probabilities=torch.stack([_filled(shares, 0) for _, shares in ranked], dim=1),
        actions=_filled(actions, -1),
        action_probabilities=_filled(products, 0),
    )


def split_views(logits: Tensor, sets: Sequence[LabelSet]) -> Iterator[Tensor]:
    """Yield (N, V, classes) of each label set from (N, V, outputs)."""
    flat = split_outputs(logits.flatten(0, 1), sets)
    yield from (part.view(*logits.shape[:2], -1) for part in flat)


def averaged_logs(logits: Tensor, average: Average) -> Tensor:
    """Average views.

    Args:
        logits: (N, V, classes).
        average: What of them is averaged.

    Returns:
        (N, classes) float64, logarithms of probabilities: none of them becomes 0 by rounding.
    """
    logits = logits.double()
    if average == "logits":
        return logits.mean(dim=1).log_softmax(dim=1)
    num_views = torch.tensor(logits.shape[1], dtype=torch.float64)
    return logits.log_softmax(dim=2).logsumexp(dim=1) - num_views.log()


def action_numbers(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Number combinations of labels, the last label set's fastest.

    Args:
        labels: (..., S) int64.
        sizes: Classes of each label set.

    Returns:
        (...) int64.
    """
    numbers = torch.zeros_like(labels[..., 0])
    for place, size in enumerate(sizes):
        numbers = numbers * size + labels[..., place]
    return numbers


def action_labels(number: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the label in each set of a combination; undoes :func:`action_numbers`."""
    return tuple(number // prod(sizes[place + 1 :]) % size for place, size in enumerate(sizes))


def joined_outcomes(parts: Sequence[Outcomes]) -> Outcomes | None:
    """Put parts one after another; None for no samples."""
    if not parts:
        return None
    tensors = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in Outcomes._fields
        if name != "keys"
    }
    return Outcomes(keys=[key for part in parts for key in part.keys], **tensors)


def _likeliest(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best five or fewer of each row and their values; of equals the first is better."""
    order = probabilities.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return order, probabilities.gather(1, order)


def _likeliest_actions(
    ranked: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the best five combinations and their products.

    Each is made of the best five of every label set: replacing a guess by a better one makes five
    better combinations. So the table of all pairs need not be made.
    """
    actions, products = ranked[0]
    for (guesses, shares), size in zip(ranked[1:], sizes[1:], strict=True):
        candidates = (actions[:, :, None] * size + guesses[:, None, :]).flatten(1)
        values = (products[:, :, None] * shares[:, None, :]).flatten(1)
        by_number = candidates.argsort(dim=1)
        candidates, values = candidates.gather(1, by_number), values.gather(1, by_number)
        best, products = _likeliest(values)
        actions = candidates.gather(1, best)
    return actions, products


def _filled(values: Tensor, filler: int) -> Tensor:
    """Make (N, k) into (N, 5)."""
    return torch.nn.functional.pad(values, (0, TOP - values.shape[1]), value=filler)
