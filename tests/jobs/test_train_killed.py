"""Two processes that train are killed with SIGKILL and go on: the loss curve has the same bits."""

import json
import os

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.bench import loading_killed, loading_resume_cases  # noqa: E402
from gopstream.jobs.bench.loading_killed import Training  # noqa: E402
from gopstream.jobs.checkpoint import load_checkpoint  # noqa: E402

STEPS = 24


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A training without a dataset, which fails while the others run."""
    folder = tmp_path_factory.mktemp("failing")
    return Training(folder / "nothing", folder / "out", steps=2)


@pytest.fixture(scope="module")
def proven(failing, tmp_path_factory):
    """One run in peace, and one that is killed once."""
    folder = tmp_path_factory.mktemp("trained")
    root = loading_resume_cases.Roots(folder).few
    return folder, loading_killed.prove_kills(root, folder, stops=1, seed=3, steps=STEPS)


def losses(out):
    rows = map(json.loads, (out / "losses.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def test_a_killed_training_goes_on_bit_for_bit(proven):
    folder, shown = proven
    assert shown["failures"] == []
    [stop] = shown["stops"]
    assert stop["was_running"]
    assert 0 < stop["step"] < STEPS  # the kill came in the middle
    peace = losses(folder / "peace")
    assert [step for step, _ in peace] == list(range(1, STEPS + 1))
    assert len({loss for _, loss in peace}) == STEPS
    assert sorted(set(losses(folder / "killed"))) == peace


def test_both_ranks_took_part_and_epochs_passed(proven):
    """Else the curve would say nothing of the loader on several ranks."""
    content = load_checkpoint(proven[0] / "killed")
    assert content["step"] == STEPS
    assert len(content["rng"]) == 2
    assert not torch.equal(*content["rng"])
    # Two steps of four clips make an epoch of seven samples.
    assert (content["loader"]["epoch"], content["loader"]["position"]) == (STEPS // 2 - 1, 7)


def test_another_loss_and_a_missing_step_are_found(proven):
    """The proof can fail."""
    rows = [loading_killed._Row(step, loss, 0.0) for step, loss in losses(proven[0] / "peace")]
    assert loading_killed.wrong_losses(rows, rows[:5] + rows[3:]) == []
    assert loading_killed.wrong_losses(rows, rows[:-1]) == [f"step {STEPS} was not taken"]
    other = rows[2]._replace(loss=(1.0).hex())
    [found] = loading_killed.wrong_losses(rows, [*rows, other])
    assert found.startswith("step 3: loss 0x1.0000000000000p+0 instead of 0x1.")
    assert loading_killed.weights_of(proven[0] / "peace") == loading_killed.weights_of(
        proven[0] / "killed"
    )


def test_a_training_that_fails_is_said(failing):
    assert not failing.wait_for(1)
    [found] = failing.finish()
    assert "exit code 1" in found
    assert "nothing" in found


def test_nothing_runs_on_after_a_kill(proven):
    for name in ("rank-0.pid", "rank-1.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((proven[0] / "killed" / name).read_text()), 0)
