"""Run a function where it can do no harm: in a forked process with limits."""

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_KIB_PER_MIB = 1024


class ContainedRun(NamedTuple):
    """How a forked process ended."""

    result: dict[str, Any] | None
    """What the function returned; None if it did not get so far."""
    end: str
    """``done``, ``hung``, or ``crashed: NAME`` with the signal or exit status."""
    peak_mib: int
    """Largest resident memory of the process or of one that it started, in MiB."""
    seconds: float


def run_contained(
    function: Callable[[], dict[str, Any]], *, seconds: float, address_mib: int
) -> ContainedRun:
    """Call a function in a fork of this process, and wait for it.

    The fork has everything that is imported already, so that it costs milliseconds.

    Args:
        function: Returns what JSON can hold.
        seconds: After so long the fork and all that it has started are killed.
        address_mib: Limit of its address space, and of each process that it starts.
    """
    begun = time.monotonic()
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _serve(function, reader, writer, address_mib)
    os.close(writer)
    received, is_whole = _receive(reader, begun + seconds)
    os.close(reader)
    if not is_whole:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    end = _end(status) if is_whole else "hung"
    peak = usage.ru_maxrss // _KIB_PER_MIB
    result = json.loads(received) if end == "done" else None
    return ContainedRun(result, end, peak, time.monotonic() - begun)


def _receive(reader: int, deadline: float) -> tuple[bytes, bool]:
    """Return what came, and whether the other end closed before the deadline."""
    received = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return received, False
        piece = os.read(reader, 65536)
        if not piece:
            return received, True
        received += piece


def _mapped_bytes() -> int:
    """Return the address space of this process."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return num_pages * resource.getpagesize()


def _serve(
    function: Callable[[], dict[str, Any]], reader: int, writer: int, address_mib: int
) -> None:
    status = 1
    try:
        os.setsid()
        os.close(reader)
        # On top of what a large parent has already mapped, which costs the child nothing.
        limit = address_mib * 2**20 + _mapped_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(writer, "w") as pipe:
            json.dump(function(), pipe)
        status = 0
    except BaseException as error:  # nothing may run on in a copy of the parent
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)


def _end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"crashed: {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.waitstatus_to_exitcode(status)
    return f"crashed: exit status {code}" if code else "done"
