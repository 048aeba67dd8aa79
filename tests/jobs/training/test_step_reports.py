"""Steps that make no sense end a run; the others are summed up."""

import math

import pytest
import torch

from gopstream.jobs.errors import UserError
from gopstream.jobs.training.clock import StepClock
from gopstream.jobs.training.ranks import Ranks
from gopstream.jobs.training.step_reports import StepReports
from gopstream.jobs.training.steps import StepResult

ALONE = Ranks(0, 1, torch.device("cpu"))
CHANCE = math.log(8)


@pytest.fixture
def reports():
    return StepReports(ALONE, CHANCE)


def result(loss, *, norm=1.0):
    return StepResult(torch.tensor(loss), torch.tensor(norm), [f"clip-{n}" for n in range(6)], 0)


def test_a_row_has_the_means_since_the_last_one(reports):
    clock = StepClock(ALONE.device)
    for step, (loss, norm) in enumerate([(2.0, 1.0), (4.0, 3.0)], start=1):
        reports.add(step, result(loss, norm=norm))
        clock.step_done()
    row = reports.row(clock)
    assert (row["loss"], row["gradient_norm"]) == (3.0, 2.0)
    assert row["clips_per_second"] * row["step_seconds"] == pytest.approx(6)
    assert row["data_wait"] == 0.0
    reports.add(3, result(7.0))
    clock.step_done()
    assert reports.row(clock)["loss"] == 7.0


def test_a_look_returns_the_last_loss_and_takes_each_step_once(reports):
    assert math.isnan(reports.check())
    reports.add(1, result(5.0))
    reports.add(2, result(2.5))
    assert reports.check() == 2.5
    assert reports.check() == 2.5
    assert reports.losses == [5.0, 2.5]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1001 * CHANCE])
def test_a_loss_that_makes_no_sense_ends_the_run(reports, loss):
    reports.add(6, result(1.0))
    reports.add(7, result(loss))
    said = r"the loss is \S+ at step 7 \(clips clip-0, clip-1, clip-2, clip-3, ...\)"
    with pytest.raises(UserError, match=said):
        reports.check()


def test_a_gradient_that_is_no_number_ends_the_run(reports):
    reports.add(3, result(1.0, norm=math.inf))
    with pytest.raises(UserError, match="the gradient's norm is inf at step 3"):
        reports.check()


def test_a_large_loss_and_a_large_gradient_are_let_pass(reports):
    reports.add(1, result(999 * CHANCE, norm=1e9))
    assert reports.check() == pytest.approx(999 * CHANCE)
