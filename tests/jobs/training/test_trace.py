"""A trace has the steps that were asked for."""

import gzip
import json

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from gopstream.jobs.training.trace import profiled  # noqa: E402


def take_steps(out, *, traced, taken):
    """Multiply matrices, whose size tells the step."""
    with profiled(traced, out) as trace:
        for number in range(taken):
            matrix = torch.ones(number + 1, number + 1)
            torch.mm(matrix, matrix)
            trace.step()


def traced_sizes(out):
    """Return the steps that multiplied in the trace, by the annotation of each step."""
    with gzip.open(out / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    steps = sorted({name for name in names if name.startswith("ProfilerStep#")})
    return steps, names.count("aten::mm")


def test_a_trace_begins_after_two_steps_and_has_as_many_as_asked_for(tmp_path):
    take_steps(tmp_path, traced=3, taken=8)
    assert traced_sizes(tmp_path) == (["ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"], 3)
    table = (tmp_path / "trace.txt").read_text()
    assert "aten::mm" in table
    assert "Self CPU" in table


def test_a_run_that_ends_earlier_has_fewer_steps(tmp_path):
    take_steps(tmp_path, traced=5, taken=4)
    assert traced_sizes(tmp_path)[1] == 2
    assert (tmp_path / "trace.txt").exists()


def test_a_run_that_ends_before_the_trace_begins_has_none(tmp_path):
    take_steps(tmp_path, traced=5, taken=2)
    assert list(tmp_path.iterdir()) == []


def test_no_steps_are_no_trace(tmp_path):
    take_steps(tmp_path, traced=0, taken=4)
    assert list(tmp_path.iterdir()) == []
