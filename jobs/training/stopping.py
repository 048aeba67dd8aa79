"""A run that is told to stop ends its step, saves and goes."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

# Batch systems and torchrun may say the same thing twice; a person who insists is heard later.
_INSIST_SECONDS: Final = 5.0


class StopRequest:
    """Whether the process was told to stop."""

    def __init__(self) -> None:
        """Begin without."""
        self.number = 0
        """Of the signal; 0 for none."""
        self._heard = 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; one that comes again some seconds after the first interrupts at once."""
        del frame
        now = time.monotonic()
        if not self.number:
            self.number, self._heard = number, now
        elif now - self._heard > _INSIST_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and SIGHUP into a request while a run goes on.

    Signals that the caller ignores (``nohup``) stay ignored.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, request.hear)
        yield request
    finally:
        for taken, handler in before.items():
            signal.signal(taken, handler)
