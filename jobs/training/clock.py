"""Where the time of a run goes: to the network, or to waiting for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Spent(NamedTuple):
    """Of the steps since the last look."""

    seconds: float
    waited: float
    """Seconds for which the device had nothing to do but wait for clips."""
    steps: int


class StepClock:
    """Measures steps and what they wait for.

    A GPU works off a queue while the process asks for the next clips: only the time in which
    the queue is empty counts as waiting, which events on the device tell.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin now."""
        self._is_cuda = device.type == "cuda"
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waited = 0.0
        self._steps = 0
        self._begun = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure what runs inside as waiting for clips."""
        begun = time.monotonic()
        emptied = self._mark() if self._is_cuda else None  # when the queue is worked off
        yield
        if emptied is None:
            self._waited += time.monotonic() - begun
        else:
            self._waits.append((emptied, self._mark()))

    def step_done(self) -> None:
        """Count a step."""
        self._steps += 1

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out what runs inside: saving, validating."""
        begun = time.monotonic()
        yield
        self._begun += time.monotonic() - begun

    def look(self) -> Spent:
        """Return what was spent since the last look; waits for the device."""
        if self._is_cuda:
            torch.cuda.synchronize()
        for emptied, given in self._waits:
            self._waited += emptied.elapsed_time(given) / 1000.0
        now = time.monotonic()
        spent = Spent(max(now - self._begun, 1e-9), self._waited, self._steps)
        self._waits, self._waited, self._steps, self._begun = [], 0.0, 0, now
        return spent

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch does not type it
        event.record()
        return event
