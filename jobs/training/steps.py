"""One step of the optimiser: clips in, weights changed."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gopstream.jobs.labels import Targets, split_outputs
from gopstream.jobs.network import PIXELS_PER_CELL, network_inputs
from gopstream.models.catalogue_entry import InputContract
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.batch_ops import (
    Mix,
    MixSpec,
    draw_mix,
    mix_clips,
    mix_generator,
    soft_labels,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What a step does besides."""

    mix: MixSpec
    clip_norm: float
    """Upper limit of the gradient's norm; 0 is none."""
    precision: Literal["float32", "bfloat16"]
    accumulate: int
    """Batches of a step."""
    seed: int


class StepResult(NamedTuple):
    """What a step was, on the device: reading it waits for the step."""

    loss: Tensor
    """Mean over this process's clips."""
    gradient_norm: Tensor
    """Before it was clipped."""
    keys: list[str]
    num_skipped: int


class Stepper:
    """Takes steps."""

    def __init__(
        self,
        heads: nn.Module,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        targets: Targets,
        contract: InputContract,
        settings: StepSettings,
    ) -> None:
        """Prepare.

        Args:
            heads: Of the network, as ``TrainedHeads`` gives them, perhaps compiled and in DDP.
            network: Whose weights change.
            optimiser: Of its weights; its groups have an ``lr_share``.
            targets: What is learnt.
            contract: What the network takes.
            settings: What a step does.
        """
        self._heads, self._network, self._optimiser = heads, network, optimiser
        self._targets, self._contract, self._settings = targets, contract, settings
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]

    def take(self, batches: Iterable[ClipBatch], *, step: int, rate: float) -> StepResult:
        """Take a step.

        Args:
            batches: Its parts on this process, ``accumulate`` of them.
            step: Its number, from which mixing is drawn.
            rate: Learning rate.

        Returns:
            What it was; nothing is checked yet.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["lr_share"]
        self._optimiser.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        keys: list[str] = []
        num_skipped = 0
        parts = self._settings.accumulate
        for batch in batches:
            is_last = len(losses) + 1 == parts
            with self._without_exchange() if not is_last else nullcontext():
                loss = self._loss(batch, step=step)
                (loss / parts).backward()  # type: ignore[no-untyped-call]  # torch does not type it
            losses.append(loss.detach())
            keys += batch.keys
            num_skipped += len(batch.skipped)
        norm = self._clip()
        self._optimiser.step()
        return StepResult(torch.stack(losses).mean(), norm, keys, num_skipped)

    def _loss(self, batch: ClipBatch, *, step: int) -> Tensor:
        frames, inputs = network_inputs(self._network, batch, contract=self._contract)
        labels = [label.to(frames.device, non_blocking=True) for label in self._targets.of(batch)]
        mix = self._draw_mix(frames, inputs, step=step)
        mix_clips(mix, frames, **inputs)
        with torch.autocast(
            frames.device.type, torch.bfloat16, enabled=self._settings.precision == "bfloat16"
        ):
            outputs = self._heads(frames, **inputs)
        losses = [
            self._cross_entropy(logits.float(), label, mix=mix)
            for head in outputs
            for logits, label in zip(split_outputs(head, self._targets.sets), labels, strict=True)
        ]
        return torch.stack(losses).sum()

    def _draw_mix(self, frames: Tensor, inputs: dict[str, Tensor], *, step: int) -> Mix:
        """Draw how all parts of a step on all processes are mixed."""
        spec = self._settings.mix
        if not (spec.mixup or spec.cutmix):
            return Mix()
        height, width = frames.shape[-2:]
        return draw_mix(
            spec,
            frame_size=(width, height),
            cell_pixels=PIXELS_PER_CELL if inputs else 1,
            rng=mix_generator(seed=self._settings.seed, epoch=step, position=0),
        )

    def _cross_entropy(self, logits: Tensor, labels: Tensor, *, mix: Mix) -> Tensor:
        smoothing = self._settings.mix.label_smoothing
        if mix.share == 1.0 and not smoothing:
            return nn.functional.cross_entropy(logits, labels)
        rows = soft_labels(labels, num_classes=logits.shape[1], label_smoothing=smoothing, mix=mix)
        return nn.functional.cross_entropy(logits, rows)

    def _clip(self) -> Tensor:
        if self._settings.clip_norm:
            return nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Return what keeps DDP from exchanging gradients before a step's last part."""
        if isinstance(self._heads, DistributedDataParallel):
            return self._heads.no_sync()
        return nullcontext()
