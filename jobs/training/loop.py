"""The steps of a run, from where it stands to its end."""

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gopstream.jobs.checkpoint import keep_best
from gopstream.jobs.console import progress
from gopstream.jobs.evaluation.validation import validate
from gopstream.jobs.labels import Targets
from gopstream.jobs.network import clip_spec, input_contract
from gopstream.jobs.training.clock import StepClock
from gopstream.jobs.training.ranks import agreed, take_from_first
from gopstream.jobs.training.run_logs import RunLogs
from gopstream.jobs.training.run_state import Run, save_run
from gopstream.jobs.training.step_reports import StepReports
from gopstream.jobs.training.steps import Stepper
from gopstream.jobs.training.stopping import stop_requests
from gopstream.jobs.training.trace import profiled
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.reader import ShardDataset

_METRIC: Final = "top1"
"""By which the best checkpoint is chosen."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    step: int
    """Steps taken."""
    last_saved: int | None
    reports: StepReports
    clock: StepClock
    loss: float = math.nan
    """Mean of the last row of the log."""
    clips_per_second: float = 0.0
    """Likewise."""
    speed: str = ""
    """That row in words."""


@dataclass(frozen=True, slots=True)
class Validation:
    """On what a run is validated, and how often."""

    dataset: ShardDataset
    targets: Targets
    every: int
    """Steps from one to the next."""


def run_loop(
    run: Run,
    stepper: Stepper,
    logs: RunLogs,
    *,
    first_step: int,
    validation: Validation | None,
    profile_steps: int = 0,
) -> Progress:
    """Take the steps that are left.

    After SIGTERM, SIGINT or SIGHUP the step is ended and saved, and the signal takes its course.

    Args:
        run: As it stands after `first_step` steps.
        stepper: Takes them.
        logs: Where rows go.
        first_step: Steps taken.
        validation: On what it is validated, if it is.
        profile_steps: How many steps are traced; 0 for none.

    Raises:
        UserError: If the loss or a gradient is no longer a number.
        KeyboardInterrupt: If the run was told to stop.
    """
    chance = sum(math.log(max(2, len(labels.classes))) for labels in run.targets.sets)
    state = Progress(
        step=first_step,
        last_saved=first_step or None,
        reports=StepReports(run.ranks, chance),
        clock=StepClock(run.ranks.device),
    )
    is_first = run.ranks.is_first
    number = 0
    with ExitStack() as stack:
        stop = stack.enter_context(stop_requests())
        advance = stack.enter_context(
            progress(
                "training",
                total=run.schedule.steps,
                unit="steps",
                done=first_step,
                silent=not is_first,
            )
        )
        trace = stack.enter_context(profiled(profile_steps if is_first else 0, run.out))
        if validation is not None and first_step and not logs.has_validation(first_step):
            _validate_if_due(run, logs, state, validation)  # the run ended in it
        batches = _endless(run.loader)
        while state.step < run.schedule.steps and not number:
            _take_step(run, stepper, batches, state)
            trace.step()
            number = agreed(stop.number, run.ranks)
            _look_at_step(run, logs, state, validation, is_stopping=bool(number))
            advance(note=_note(state))
            if validation is not None and not number:
                _validate_if_due(run, logs, state, validation)
    if number:
        if stop.number:
            signal.raise_signal(stop.number)
        raise KeyboardInterrupt
    return state


def _note(state: Progress) -> str:
    """Return what stands beside the progress: nothing before a loss was looked at."""
    return "" if math.isnan(state.loss) else f"loss {state.loss:.3f}{state.speed}"


def _speed(row: Mapping[str, float]) -> str:
    memory = f", {row['gpu_memory_gib']:.1f} GiB" if "gpu_memory_gib" in row else ""
    return (
        f", {row['clips_per_second']:.0f} clips/s, {row['data_wait']:.1%} waiting for data{memory}"
    )


def _take_step(run: Run, stepper: Stepper, batches: Iterator[ClipBatch], state: Progress) -> None:
    parts = islice(_timed(batches, state.clock), run.recipe.train.accumulate)
    rate = run.recipe.train.learning_rate * run.schedule.share(state.step)
    result = stepper.take(parts, step=state.step, rate=rate)
    if run.average is not None:
        run.average.update()
    state.step += 1
    state.clock.step_done()
    state.reports.add(state.step, result)


def _look_at_step(
    run: Run,
    logs: RunLogs,
    state: Progress,
    validation: Validation | None,
    *,
    is_stopping: bool,
) -> None:
    """Log and save where it is time to; what is saved was looked at."""
    settings, step = run.recipe.train, state.step
    is_last = step == run.schedule.steps
    if run.ranks.device.type == "cpu":  # costs nothing there
        state.loss = state.reports.check()
    if step % settings.log_every == 0 or is_last:
        row = state.reports.row(state.clock)
        state.loss, state.clips_per_second = row["loss"], row["clips_per_second"]
        state.speed = _speed(row)
        rate = settings.learning_rate * run.schedule.share(step - 1)
        epoch = step / run.steps_per_epoch
        logs.write({"kind": "train", "step": step, "epoch": epoch, "learning_rate": rate, **row})
    is_due = step % settings.checkpoint_every == 0 or is_last or is_stopping
    if is_due or _is_due(step, run, validation):
        state.reports.check()
        with state.clock.pause():
            save_run(run, step=step, last_saved=state.last_saved)
        state.last_saved = step


def _validate_if_due(run: Run, logs: RunLogs, state: Progress, validation: Validation) -> None:
    """Measure the network, and name its checkpoint the best if it is."""
    if not _is_due(state.step, run, validation):
        return
    # Batch norms have counted the clips of their own process since DDP last made them equal.
    take_from_first(run.network.buffers(), run.ranks)
    settings = run.recipe.train
    averaged = nullcontext() if run.average is None else run.average.in_place()
    with state.clock.pause(), averaged:
        figures = validate(
            run.network,
            validation.dataset,
            spec=clip_spec(run.recipe, run.network, testing=True),
            targets=validation.targets,
            contract=input_contract(run.recipe, run.network),
            precision=settings.precision,
            batch_size=run.recipe.test.batch_size or settings.batch_size // settings.accumulate,
            workers=settings.workers,
            on_error=settings.on_error,
            ranks=run.ranks,
        )
    is_best = figures[_METRIC] > logs.best(_METRIC)
    if is_best and run.ranks.is_first:
        keep_best(run.out)  # before its row: a run that is killed in between measures again
    epoch = state.step / run.steps_per_epoch
    logs.write({"kind": "validation", "step": state.step, "epoch": epoch, **figures})


def _is_due(step: int, run: Run, validation: Validation | None) -> bool:
    if validation is None:
        return False
    return step % validation.every == 0 or step == run.schedule.steps


def _timed(batches: Iterator[ClipBatch], clock: StepClock) -> Iterator[ClipBatch]:
    while True:
        with clock.waiting():
            batch = next(batches)
        yield batch


def _endless(loader: StreamingLoader) -> Iterator[ClipBatch]:
    while True:
        yield from loader
