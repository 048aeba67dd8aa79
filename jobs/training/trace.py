"""What the first steps of a run spend their time on, as torch's profiler sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE_NAME: Final = "trace.json.gz"
TABLE_NAME: Final = "trace.txt"
_WARM_UP_STEPS: Final = 2
_TABLE_ROWS: Final = 40


class StepTrace:
    """Is told of each step that was taken."""

    def __init__(self, profiler: "profile | None") -> None:
        """Take over a profiler that runs; None records nothing."""
        self._profiler = profiler

    def step(self) -> None:
        """Tell that a step has ended."""
        if self._profiler is not None:
            self._profiler.step()


@contextmanager
def profiled(steps: int, out: Path) -> Iterator[StepTrace]:
    """Record steps of the loop that runs inside, after two that are not recorded.

    Writes ``trace.json.gz``, for chrome://tracing or https://ui.perfetto.dev, and ``trace.txt``,
    a table of the operators that took longest. A loop that ends earlier has recorded fewer steps;
    without any there is no file.

    Args:
        steps: How many are recorded; 0 does nothing.
        out: Folder of the run, which exists.
    """
    if not steps:
        yield StepTrace(None)
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: Any) -> None:  # noqa: ANN401 - torch types the callback so
        if profiler.step_num <= _WARM_UP_STEPS:  # it ends in between, and has recorded nothing
            return
        profiler.export_chrome_trace(str(out / TRACE_NAME))
        order = f"self_{'cuda' if torch.cuda.is_available() else 'cpu'}_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=_TABLE_ROWS)
        (out / TABLE_NAME).write_text(table)

    # The first step compiles kernels and fills caches; the next starts the profiler itself.
    plan = schedule(wait=_WARM_UP_STEPS - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield StepTrace(profiler)
