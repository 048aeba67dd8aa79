"""Measure a network while it is trained."""

from collections.abc import Sequence

from torch import nn

from gopstream.jobs.evaluation.outcomes import Average
from gopstream.jobs.evaluation.run_views import Looking, Precision, run_views
from gopstream.jobs.evaluation.scores import action_scores
from gopstream.jobs.evaluation.views import CENTRE
from gopstream.jobs.labels import Targets
from gopstream.jobs.training.ranks import Ranks
from gopstream.models.catalogue_entry import InputContract
from gopstream.shards.loading.clip_spec import ClipSpec, View
from gopstream.shards.loading.clips import OnError
from gopstream.shards.reader import ShardDataset


def validate(
    network: nn.Module,
    dataset: ShardDataset,
    *,
    spec: ClipSpec,
    targets: Targets,
    contract: InputContract,
    precision: Precision,
    batch_size: int,
    workers: int,
    ranks: Ranks,
    views: Sequence[View] = (CENTRE,),
    average: Average = "probabilities",
    on_error: OnError = "raise",
) -> dict[str, float]:
    """Measure a network on a split; every process is told the same.

    Args:
        network: As it is to be measured. Its modules' modes and all random states stay.
        dataset: The split.
        spec: Of its test views.
        targets: What of the samples the network learns.
        contract: What it takes.
        precision: Of activations.
        batch_size: Views of one call of the network, at most; 64 if it is more.
        workers: Processes that load, for each process of the run.
        ranks: The processes, which share the samples.
        views: Of each sample.
        average: What of them is averaged.
        on_error: ``skip`` leaves out samples of which a view cannot be read.

    Returns:
        ``top1``, ``top5`` and ``loss``, the mean cross entropy; of several label sets a sample is
        right if it is in all of them, and its losses are added.

    Raises:
        UserError: If a sample has no label, none can be read, or an output is no number.
        ShardError: If a view cannot be read and may not be skipped.
    """
    seen = run_views(
        network,
        dataset,
        spec,
        targets=targets,
        contract=contract,
        looking=Looking(views, average, precision, batch_size, workers, on_error),
        ranks=ranks,
    )
    scores = action_scores(seen.outcomes, targets.sets)
    return {name: scores[name] for name in ("top1", "top5", "loss")}
