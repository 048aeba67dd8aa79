"""Where the time of a run goes."""

import time

import pytest
import torch

from gopstream.jobs.training.clock import StepClock

NAP = 0.03
ROUNDING = 1e-6


@pytest.fixture
def clock():
    return StepClock(torch.device("cpu"))


def test_waiting_is_a_part_of_the_time():
    begun = time.monotonic()  # before the clock, so that a busy machine changes nothing
    clock = StepClock(torch.device("cpu"))
    with clock.waiting():
        time.sleep(NAP)
    time.sleep(NAP)
    clock.step_done()
    clock.step_done()
    spent = clock.look()
    assert spent.steps == 2
    assert NAP <= spent.waited <= spent.seconds - NAP + ROUNDING
    assert 2 * NAP <= spent.seconds <= time.monotonic() - begun + ROUNDING


def test_a_pause_is_no_time_at_all():
    begun = time.monotonic()
    clock = StepClock(torch.device("cpu"))
    with clock.pause():
        time.sleep(4 * NAP)
    assert clock.look().seconds <= time.monotonic() - begun - 4 * NAP + ROUNDING


def test_a_look_begins_anew(clock):
    with clock.waiting():
        time.sleep(NAP)
    clock.step_done()
    clock.look()
    spent = clock.look()
    assert (spent.steps, spent.waited) == (0, 0.0)
    assert spent.seconds > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_still_works_does_not_wait():
    clock = StepClock(torch.device("cuda"))
    for _ in range(2):
        torch.cuda._sleep(1_000_000_000)  # far longer than a nap
        with clock.waiting():
            time.sleep(NAP)
        clock.step_done()
    assert clock.look().waited < NAP / 2
