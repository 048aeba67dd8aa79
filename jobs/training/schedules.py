"""The learning rate of each step."""

import math
from dataclasses import dataclass
from typing import Literal

from gopstream.jobs.recipe_sections import ScheduleRecipe, TrainRecipe


@dataclass(frozen=True, slots=True)
class Schedule:
    """A recipe's schedule in steps."""

    steps: int
    """Of the run."""
    warmup_steps: int = 0
    warmup_start: float = 0.0
    final_rate: float = 0.0
    cosine_from: Literal["warmup", "start"] = "warmup"
    milestones: tuple[int, ...] = ()
    """Steps at which the rate falls by `factor`; none is a cosine."""
    factor: float = 0.1

    def share(self, step: int) -> float:
        """Return what the learning rate is multiplied by at a step, counted from 0.

        The warm-up rises in a line from `warmup_start`, which it leaves with the first step, to
        1. The cosine falls from 1 to `final_rate`, which the step after the last one would have.
        """
        if step < self.warmup_steps:
            return self.warmup_start + (1 - self.warmup_start) * (step + 1) / self.warmup_steps
        if self.milestones:
            return self.factor ** sum(step >= milestone for milestone in self.milestones)
        first = self.warmup_steps if self.cosine_from == "warmup" else 0
        done = min(1.0, (step - first) / max(1, self.steps - first))
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def schedule_in_steps(
    train: TrainRecipe, schedule: ScheduleRecipe, *, steps_per_epoch: int
) -> Schedule:
    """Turn epochs into steps.

    Args:
        train: Says how long the run is.
        schedule: Says how the rate moves.
        steps_per_epoch: Of the split.
    """
    steps = train.steps or max(1, round(train.epochs * steps_per_epoch))
    warmup = schedule.warmup_steps or round(schedule.warmup_epochs * steps_per_epoch)
    return Schedule(
        steps=steps,
        warmup_steps=warmup,
        warmup_start=schedule.warmup_start,
        final_rate=schedule.final_rate,
        cosine_from=schedule.cosine_from,
        milestones=tuple(round(epoch * steps_per_epoch) for epoch in schedule.milestones),
        factor=schedule.factor,
    )
