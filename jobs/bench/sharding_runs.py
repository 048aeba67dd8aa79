"""Run ``gopstream shard`` as a user does, find all of its processes, and see what it has left."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

SPLIT: Final = "train"
_LOOK_SECONDS: Final = 0.02
# What Python's multiprocessing has beside a command ends a little after it.
_GONE_SECONDS: Final = 10.0


class Command:
    """A command in a session of its own, with a temporary folder of its own.

    By that folder, which its processes inherit in their environment, they are found: whatever
    session they are in, and whoever has become their parent.
    """

    def __init__(
        self, words: Sequence[str], *, temporary: Path, within: Sequence[str] = ()
    ) -> None:
        """Start ``gopstream WORDS``.

        Args:
            words: Of the command line.
            temporary: Folder for its temporary files; is made.
            within: Words before the command, such as those that enter a namespace.
        """
        temporary.mkdir(exist_ok=True)
        self.temporary = temporary
        self._log = temporary.with_suffix(".log")
        self.begun = time.time()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "gopstream", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"TMPDIR": str(temporary)},
            )

    @property
    def has_ended(self) -> bool:
        """Whether the command itself is over."""
        return self.process.poll() is not None

    @property
    def said(self) -> str:
        """What it wrote to standard error so far."""
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        """Wait for its end; returns the exit code as a shell shows it."""
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def processes(self) -> list[int]:
        """Return the processes that it has started and that still run, itself included."""
        return processes_of(self.temporary)

    def stragglers(self) -> list[int]:
        """Return the processes that have not ended some seconds after the command."""
        end = time.monotonic() + _GONE_SECONDS
        while (pids := self.processes()) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return pids

    def kill(self) -> None:
        """Kill all of its processes at once, as a machine does that is taken away."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # to find the others takes a while
        self.send(signal.SIGKILL)
        self.process.wait()
        while pids := self.processes():  # born while the others died
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)

    def send(self, number: int) -> None:
        """Send a signal once to each of its processes, as the scheduler of a cluster does."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def processes_of(temporary: Path) -> list[int]:
    """Return the running processes that have this temporary folder."""
    wanted = f"TMPDIR={temporary}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            # What has ended and was not yet waited for has an empty environment.
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def num_reports(out: Path) -> int:
    """Return how many shards are published."""
    return sum(name.endswith(".report.jsonl") for name in _names(out / SPLIT))


def phase(out: Path, num_shards: int) -> str:
    """Return what a job is at, by what it has published."""
    names = _names(out / SPLIT)
    if "manifest.json" in names:
        return "finished"
    if "plan.json" not in names:
        return "planning"
    return "publishing" if num_reports(out) == num_shards else "sharding"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except FileNotFoundError:
        return []


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file below a folder, hidden ones too, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half_written(out: Path, whole: Mapping[str, str]) -> list[str]:
    """Name what is visible of an unfinished dataset and should not be.

    Args:
        out: The dataset's folder.
        whole: sha256 of the files of the finished dataset, by path.
    """
    seen = {name: sha for name, sha in file_hashes(out).items() if not is_partial(name)}
    found = [f"{name} is visible and not whole" for name in seen if whole.get(name) != seen[name]]
    for name in seen:
        shard, is_report, _ = name.partition(".report.jsonl")
        if is_report:
            files = [other for other in whole if other.startswith(f"{shard}.")]
            found += [f"{name} is there, {other} is not" for other in files if other not in seen]
    return found


def is_partial(name: str) -> bool:
    """Tell whether a file of a dataset is one that is being written."""
    return name.rpartition("/")[2].startswith(".") and name.endswith(".partial")


def leftovers(command: Command, out: Path, *, partials_too: bool = True) -> list[str]:
    """Name what an ended command has left behind: processes, temporary and unfinished files."""
    found = [f"process {pid} still runs" for pid in command.stragglers()]
    found += [
        f"{path.name} is left in the temporary folder" for path in command.temporary.iterdir()
    ]
    if partials_too and out.is_dir():
        found += [f"{name} is left" for name in file_hashes(out) if is_partial(name)]
    return found


def hardware() -> dict[str, Any]:
    """Return what decides how fast this machine is."""
    words = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    names = [value.strip() for name, _, value in words if name.strip() == "model name"]
    num_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "memory_gib": round(num_bytes / 2**30, 1),
    }
