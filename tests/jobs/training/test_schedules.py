"""The share of the learning rate at each step, by hand."""

import math

import pytest

from gopstream.jobs.recipe_sections import ScheduleRecipe, TrainRecipe
from gopstream.jobs.training.schedules import Schedule, schedule_in_steps


def in_steps(schedule=None, *, steps_per_epoch=10, **length):
    train = TrainRecipe(batch_size=1, learning_rate=1.0, **length)
    return schedule_in_steps(train, schedule or ScheduleRecipe(), steps_per_epoch=steps_per_epoch)


def test_the_warm_up_rises_in_a_line_to_the_whole_rate():
    schedule = Schedule(steps=100, warmup_steps=4, warmup_start=0.2)
    shares = [schedule.share(step) for step in range(4)]
    assert shares == pytest.approx([0.4, 0.6, 0.8, 1.0])


def test_a_cosine_begins_where_the_warm_up_ends():
    schedule = Schedule(steps=110, warmup_steps=10, final_rate=0.1)
    assert schedule.share(4) == pytest.approx(0.5)
    assert schedule.share(9) == schedule.share(10) == 1.0
    assert schedule.share(35) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.share(60) == pytest.approx(0.55)
    assert schedule.share(110) == pytest.approx(0.1)


def test_a_cosine_from_the_start_has_gone_on_during_the_warm_up():
    """As timm counts: 10 of 40 steps of the cosine are over when the warm-up ends."""
    schedule = Schedule(steps=40, warmup_steps=10, cosine_from="start")
    assert schedule.share(9) == 1.0
    assert schedule.share(10) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule.share(20) == pytest.approx(0.5)
    assert schedule.share(40) == pytest.approx(0.0)


def test_a_rate_never_rises_again_after_the_last_step():
    schedule = Schedule(steps=10, final_rate=0.3)
    assert schedule.share(0) == 1.0
    assert schedule.share(25) == pytest.approx(0.3)


def test_milestones_multiply():
    schedule = Schedule(steps=50, warmup_steps=2, milestones=(20, 40), factor=0.1)
    shares = [schedule.share(step) for step in (0, 1, 2, 19, 20, 39, 40, 49)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_epochs_become_steps():
    recipe = ScheduleRecipe(kind="steps", milestones=(1.5, 2.25), warmup_epochs=0.5, factor=0.5)
    schedule = in_steps(recipe, epochs=3.0)
    assert (schedule.steps, schedule.warmup_steps) == (30, 5)
    assert schedule.milestones == (15, 22)
    assert schedule.factor == 0.5
    assert in_steps(epochs=0.01).steps == 1
    assert in_steps(ScheduleRecipe(warmup_steps=7), steps=20).warmup_steps == 7


def test_what_the_recipe_says_is_handed_on():
    recipe = ScheduleRecipe(warmup_start=0.25, cosine_from="start", final_rate=0.5)
    schedule = in_steps(recipe, steps=8)
    assert (schedule.steps, schedule.warmup_start, schedule.cosine_from) == (8, 0.25, "start")
    assert schedule.final_rate == 0.5


def test_a_run_may_end_in_its_warm_up():
    train = TrainRecipe(batch_size=4, learning_rate=1.0, steps=5)
    schedule = schedule_in_steps(train, ScheduleRecipe(warmup_steps=20), steps_per_epoch=10)
    assert [schedule.share(step) for step in range(5)] == [0.05, 0.1, 0.15, 0.2, 0.25]
