"""A share of the proof that a run may be killed and told to stop at any moment."""

import random

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.bench import training_kill_runs, training_kills  # noqa: E402
from gopstream.jobs.bench.loading_resume_cases import Roots  # noqa: E402
from gopstream.jobs.bench.training_kill_runs import PARTS, Kind, Row  # noqa: E402
from gopstream.jobs.bench.training_kills import Peace, Stop, prove_stops  # noqa: E402
from gopstream.jobs.checkpoint import load_checkpoint  # noqa: E402
from gopstream.jobs.recipe import load_recipe  # noqa: E402
from gopstream.jobs.train import Watching, train  # noqa: E402

STEPS = 24
STEP = 21
"""Of the last checkpoint but one."""


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    """On a GPU two runs need not have the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def go_on(kind, out, *overrides, resume=True):
    """Take a run to its end in this process."""
    recipe = load_recipe("dvt_tiny_demo", [*kind.overrides, *overrides])
    train(recipe, kind.root, out=out, resume=resume, watching=Watching(tensorboard=False))


class PeaceHere(Peace):
    """Spares a process: that the command does the same is seen of the run that is stopped."""

    def __init__(self, kind, out):
        self.kind, self.out = kind, out
        go_on(kind, out, resume=False)
        self.rows = training_kill_runs.logged_steps(out)


@pytest.fixture(scope="module")
def peace(tmp_path_factory):
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("training")
    return PeaceHere(Kind(Roots(folder).some, STEPS), folder / "peace")


@pytest.fixture(scope="module")
def proven(peace):
    out = peace.out.with_name("stopped")
    return out, prove_stops(
        peace, out, [Stop("SIGKILL", num_steps=9), Stop("SIGTERM", num_steps=2)]
    )


def test_a_stopped_run_goes_on_bit_for_bit(proven):
    _, shown = proven
    assert shown["failures"] == []
    assert shown["phases"] == {"SIGKILL while training": 1, "SIGTERM while training": 1}
    by_how = {stop["how"]: stop for stop in shown["stops"]}
    assert by_how["SIGTERM"]["exit_code"] == 143
    assert by_how["SIGTERM"]["checkpoint"] == by_how["SIGTERM"]["step"] > 0
    assert all(0 < stop["step"] < STEPS for stop in shown["stops"])


def test_the_run_has_all_that_a_checkpoint_must_bring_back(peace):
    """Else equal bits at the end would say nothing of it."""
    content = load_checkpoint(peace.out)
    assert content["step"] == STEPS
    assert len({row.loss for row in peace.rows}) == STEPS
    # Four steps of four clips make an epoch of sixteen samples.
    assert (content["loader"]["epoch"], content["loader"]["position"]) == (STEPS // 4 - 1, 16)
    recipe = content["recipe"]
    assert recipe["train"]["accumulate"] == recipe["train"]["workers"] == 2
    assert recipe["mix"]["mixup"] > 0
    earlier = load_checkpoint(training_kill_runs.checkpoint_at(peace.out, STEP))
    assert not torch.equal(earlier["rng"][0], content["rng"][0])  # dropout drew
    assert not torch.equal(content["ema"]["head.weight"], content["model"]["head.weight"])


@pytest.mark.parametrize("part", ["", *PARTS])
def test_a_run_that_does_not_take_up_a_part_is_found(peace, tmp_path, part):
    """The proof can fail: each part that is forgotten shows in the steps or at the end."""
    out = tmp_path / "run"
    training_kill_runs.forget_part(peace.out, out, step=STEP, part=part)
    go_on(peace.kind, out, "train.workers=0")
    found = peace.compare(out, set(training_kill_runs.logged_steps(out)))
    # That it ran without workers is written in the checkpoint.
    found = [text for text in found if ".recipe.train.workers" not in text]
    assert bool(found) == bool(part)
    if part == "loader":
        assert any(text.startswith(f"step {STEP + 1}: Row(") for text in found)
        assert any(text.startswith("checkpoint.loader") for text in found)


def test_other_and_missing_steps_are_found(peace):
    wrong_steps, rows = training_kill_runs.wrong_steps, peace.rows
    assert wrong_steps(rows, rows[:5] + rows[3:]) == []  # some were taken again
    assert wrong_steps(rows, rows[:-1]) == [f"step {STEPS} was not taken"]
    other = rows[2]._replace(loss=rows[2].loss * (1 + 1e-7))
    [found] = wrong_steps(rows, [*rows, other])
    assert found.startswith("step 3: Row(step=3, ")
    assert wrong_steps(rows, [*rows, other], tolerance=1e-6) == []
    assert len(wrong_steps(rows, [*rows, Row(STEPS + 1, 1.0, 1.0, 1.0)])) == 1


def test_differences_of_checkpoints_are_named():
    tensor = torch.arange(3.0)
    one = {"a": {"b": [tensor, 1]}, "c": (1, 2)}

    def found(other):
        return list(training_kill_runs._differences(one, other, where=""))

    assert found({"a": {"b": [tensor.clone(), 1]}, "c": (1, 2)}) == []
    assert found({"a": {"b": [tensor + 1e-6, 2]}, "c": (1, 2)}) == [
        "checkpoint.a.b[0] differs",
        "checkpoint.a.b[1]: 2 instead of 1",
    ]
    assert found({"a": {"b": [tensor.double(), 1]}, "c": (1,)}) == [
        "checkpoint.a.b[0] differs",
        "checkpoint.c: 1 values instead of 2",
    ]
    assert len(found({"a": {}, "c": (1, 2)})) == 1


def test_a_run_that_fails_is_said(tmp_path):
    kind = Kind(tmp_path / "nothing", STEPS, options=("--no-such-option",))
    [found, too_few] = Peace(kind, tmp_path / "run").failures
    assert found.startswith("exit code 2: ")
    assert "--no-such-option" in found
    assert too_few.startswith("0 steps of 24")


def test_stops_are_drawn_for_the_whole_of_a_run():
    def drawn(seed):
        return training_kills.draw_stops(random.Random(seed), kills=20, terms=6, steps=240)

    stops = drawn(0)
    assert stops == drawn(0) != drawn(1)
    assert sum(stop.how == "SIGKILL" for stop in stops) == 20
    assert len(stops) == 26
    assert 120 < sum(stop.num_steps for stop in stops) < 360
    assert {stop.to_all for stop in stops} == {True, False}


def test_what_was_not_proven_is_a_failure():
    part = {"phases": {"SIGKILL while starting": 1}, "failures": ["x"]}
    assert training_kills.failures({"steps": 3, "processes_1": part}) == [
        "processes_1: x",
        "processes_1: no SIGKILL while training",
        "processes_1: no SIGTERM while training",
    ]
