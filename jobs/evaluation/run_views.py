"""Show a network the views of samples: the core of evaluation and of validation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from gopstream.jobs.console import Advance
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluation.outcomes import Average, Outcomes, joined_outcomes, outcomes_of
from gopstream.jobs.evaluation.views import own_samples, views_per_call
from gopstream.jobs.labels import Targets
from gopstream.jobs.network import network_inputs
from gopstream.jobs.training.ranks import Ranks, gathered
from gopstream.models.catalogue_entry import InputContract
from gopstream.shards.errors import ShardError
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.clips import OnError
from gopstream.shards.loading.loader import view_batches
from gopstream.shards.reader import ShardDataset

Precision = Literal["float32", "bfloat16"]


class Looking(NamedTuple):
    """How samples are looked at."""

    views: Sequence[View]
    average: Average
    precision: Precision
    """Of activations."""
    batch_size: int
    """Views of one call of the network, at most."""
    workers: int
    """Processes that load."""
    on_error: OnError
    """``skip`` leaves out samples of which a view cannot be read."""


class Seen(NamedTuple):
    """What came of it."""

    outcomes: Outcomes
    """Of the samples that could be read in all of their views."""
    num_skipped: int
    """The others."""
    reason: str
    """Why the first of these was left out; empty if none was."""


def run_views(
    network: nn.Module,
    dataset: ShardDataset,
    spec: ClipSpec,
    *,
    targets: Targets,
    contract: InputContract,
    looking: Looking,
    ranks: Ranks,
    change: Callable[[ClipBatch], ClipBatch] | None = None,
    advance: Advance | None = None,
) -> Seen:
    """Show a network all samples of a split, shared among the processes of the run.

    Every process returns the same, and the numbers do not depend on how many there are.

    Args:
        network: Is put into evaluation mode meanwhile.
        dataset: The split.
        spec: Of its test views.
        targets: What the network learnt to say.
        contract: What it takes.
        looking: How samples are looked at.
        ranks: The processes.
        change: Changes each batch before the network is given it.
        advance: Is told how many views of this process are done.

    Raises:
        UserError: If no sample can be read, an output is no number, or a setting cannot be meant.
        ShardError: If a view cannot be read and may not be skipped.
    """
    samples, at_call = own_share(len(dataset), looking, ranks)
    seen = _Seen(targets, looking)
    with _evaluating(network), torch.no_grad():
        for batch in _batches(dataset, spec, looking, samples=samples, at_call=at_call):
            logits = None
            if batch.keys:
                fed = batch if change is None else change(batch)
                logits = _logits(network, fed, contract, looking.precision)
            seen.add(batch, logits)
            if advance is not None:
                advance(len(batch.keys) + len(batch.skipped))
    return _together(seen, dataset, ranks)


def own_share(num_samples: int, looking: Looking, ranks: Ranks) -> tuple[range, int]:
    """Return the samples of a split that this process looks at, and the views of each call."""
    num_views = len(looking.views)
    at_call = views_per_call(looking.batch_size, num_views=num_views)
    samples = own_samples(
        num_samples,
        at_once=max(1, at_call // num_views),
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return samples, at_call


class _Views(NamedTuple):
    """What is kept of a batch until all views of its samples have passed."""

    positions: Tensor
    keys: list[str]
    labels: Tensor
    logits: Tensor


class _Seen:
    """Gathers views, and turns them into outcomes as soon as their samples are complete."""

    def __init__(self, targets: Targets, looking: Looking) -> None:
        self._targets, self._looking = targets, looking
        self._waiting: list[_Views] = []
        self._num_passed = 0
        self.parts: list[Outcomes] = []
        self.reason = ""

    def add(self, batch: ClipBatch, logits: Tensor | None) -> None:
        """Take a batch; its logits, unless no view of it could be read."""
        self._num_passed += len(batch.keys) + len(batch.skipped)
        if batch.skipped and not self.reason:
            self.reason = batch.skipped[0].message
        if logits is not None:
            labels = torch.stack(self._targets.of(batch), dim=1).cpu()
            # On the CPU: a GPU is slow in float64.
            views = _Views(batch.positions.cpu(), batch.keys, labels, logits.cpu())
            self._waiting.append(views)
        if self._num_passed % len(self._looking.views) == 0 and self._waiting:
            self._finish()

    def _finish(self) -> None:
        """Average the samples that have all of their views; forget the others."""
        num_views = len(self._looking.views)
        positions, labels, logits = (
            torch.cat([getattr(views, name) for views in self._waiting])
            for name in ("positions", "labels", "logits")
        )
        keys = [key for views in self._waiting for key in views.keys]
        self._waiting = []
        samples = positions // num_views
        places = samples - samples[0]
        kept = torch.nonzero(places.bincount()[places] == num_views)[:, 0]
        firsts = kept[::num_views]
        if not len(firsts):
            return
        part = outcomes_of(
            logits[kept].view(len(firsts), num_views, -1),
            labels[firsts],
            samples=samples[firsts],
            keys=[keys[row] for row in firsts.tolist()],
            sets=self._targets.sets,
            average=self._looking.average,
        )
        self.parts.append(part)


def _batches(
    dataset: ShardDataset,
    spec: ClipSpec,
    looking: Looking,
    *,
    samples: range,
    at_call: int,
) -> Iterator[ClipBatch]:
    try:
        return view_batches(
            dataset,
            spec,
            batch_size=at_call,
            views=looking.views,
            samples=samples,
            workers=looking.workers,
            on_error=looking.on_error,
        )
    except ShardError:  # of the dataset
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def _logits(
    network: nn.Module, batch: ClipBatch, contract: InputContract, precision: Precision
) -> Tensor:
    # What is made of a batch, motion above all, stays in float32.
    frames, inputs = network_inputs(network, batch, contract=contract)
    enabled = precision == "bfloat16"
    with torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=enabled):
        return cast(Tensor, network(frames, **inputs))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation, and each of its modules back to what it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _together(seen: _Seen, dataset: ShardDataset, ranks: Ranks) -> Seen:
    """Put together what all processes have seen, in the order of the samples."""
    mine = joined_outcomes(seen.parts)
    found = cast(
        list[tuple[tuple[Any, ...] | None, str]],
        gathered((None if mine is None else tuple(mine), seen.reason), ranks),
    )
    outcomes = joined_outcomes([Outcomes(*part) for part, _ in found if part is not None])
    if outcomes is None:
        raise UserError(
            f"{dataset.root}/{dataset.split}: no sample can be read in all of its views; run "
            "'gopstream verify' to see all faults"
        )
    reason = next((reason for _, reason in found if reason), "")
    return Seen(outcomes, len(dataset) - len(outcomes.keys), reason)
