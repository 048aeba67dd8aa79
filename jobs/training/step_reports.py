"""What a run says of its steps: their losses, whether they make sense, and its speed."""

import math
from dataclasses import dataclass, field
from typing import Final

import torch

from gopstream.jobs.errors import UserError
from gopstream.jobs.training.clock import StepClock
from gopstream.jobs.training.ranks import Ranks, gathered, mean_over
from gopstream.jobs.training.steps import StepResult

_EXPLODED: Final = 1000.0
"""How many times the loss of guessing is taken for a run that is lost."""
_KEYS_NAMED: Final = 4


@dataclass(slots=True)
class StepReports:
    """Steps that were taken and not looked at yet: a look waits for the device."""

    ranks: Ranks
    chance_loss: float
    """Of guessing, in all heads together."""
    taken: list[tuple[int, StepResult]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of steps that were looked at, since the last row of the log."""
    norms: list[float] = field(default_factory=list)
    num_clips: int = 0

    def add(self, step: int, result: StepResult) -> None:
        """Take a step in."""
        self.taken.append((step, result))

    def check(self) -> float:
        """Look at all steps; returns the last loss.

        Raises:
            UserError: If a loss or a gradient is not finite or the loss has exploded; on all
                processes alike. Names the step and some of its clips.
        """
        if self.taken:
            figures = torch.stack(
                [torch.stack([result.loss, result.gradient_norm]) for _, result in self.taken]
            ).double()
            # One process may see what the others do not: their mean is no number either.
            for (step, result), (loss, norm) in zip(
                self.taken, mean_over(figures, self.ranks).tolist(), strict=True
            ):
                self._check_one(step, result, loss=loss, norm=norm)
                self.losses.append(loss)
                self.norms.append(norm)
                self.num_clips += len(result.keys)
            self.taken.clear()
        return self.losses[-1] if self.losses else math.nan

    def _check_one(self, step: int, result: StepResult, *, loss: float, norm: float) -> None:
        is_wild = not math.isfinite(loss) or loss > _EXPLODED * self.chance_loss
        if not is_wild and math.isfinite(norm):
            return
        what = f"the loss is {loss:g}" if is_wild else f"the gradient's norm is {norm:g}"
        clips = ", ".join(result.keys[:_KEYS_NAMED])
        raise UserError(
            f"{what} at step {step} (clips {clips}, ...); lower train.learning_rate, or look at "
            "these clips; the last checkpoint is of before"
        )

    def row(self, clock: StepClock) -> dict[str, float]:
        """Return means since the last row, over all processes; every process must ask.

        ``data_wait`` is the share of the time in which the process that waits longest waits for
        clips.
        """
        self.check()
        spent = clock.look()
        told = gathered((spent.waited / spent.seconds, self.num_clips, _peak_memory()), self.ranks)
        waits, clips, memory = zip(*told, strict=True)
        row = {
            "loss": sum(self.losses) / max(1, len(self.losses)),
            "gradient_norm": sum(self.norms) / max(1, len(self.norms)),
            "clips_per_second": sum(clips) / spent.seconds,
            "step_seconds": spent.seconds / max(1, spent.steps),
            "data_wait": min(1.0, max(waits)),
        }
        if max(memory):
            row["gpu_memory_gib"] = max(memory)
        self.losses.clear()
        self.norms.clear()
        self.num_clips = 0
        return row


def _peak_memory() -> float:
    """Return GiB that torch held on the GPU at most, 0 without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
