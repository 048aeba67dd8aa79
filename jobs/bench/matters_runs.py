"""Trainings of a comparison, some at a time, each in a process of its own; finished ones are kept.

A run's folder holds what ``gopstream train`` writes and, last, ``result.json``: its scores and the
recipe's changes that they were made with. A run that was interrupted continues at its last
checkpoint.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.checkpoint import CHECKPOINT_FILE
from gopstream.jobs.console import progress
from gopstream.jobs.errors import UserError

RESULT_FILE: Final = "result.json"
VIEWS: Final = "3x1"


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its test."""

    clip: str
    cue: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    data: Path
    """The dataset."""
    out: Path
    """Folder of the run."""
    also_zeroed: bool
    """Whether it is also tested with its motion set to zero."""


class _Processes:
    """The processes under way, so that none outlives an error or an interruption."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, words: Sequence[str], log: Path) -> None:
        """Run ``gopstream`` with some words to its end.

        Raises:
            UserError: If it fails; with its last words.
        """
        with log.open("ab") as file:
            with self._lock:
                if self._stopped:
                    raise UserError("stopped")
                command = [sys.executable, "-m", "gopstream", *words]
                process = subprocess.Popen(command, stdout=file, stderr=file)
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        if code != 0:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"gopstream {' '.join(words)} failed: {' '.join(said)} (see {log})")

    def stop(self) -> None:
        """End all of them, and let no other begin."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()


def finish_runs(runs: Sequence[Run], *, parallel: int) -> list[dict[str, Any]]:
    """Train and test what is not finished; returns a row for each run, in their order.

    Args:
        runs: The runs.
        parallel: Trainings at a time.

    Raises:
        UserError: If a training or a test fails, or a folder holds a run of other settings.
    """
    processes = _Processes()
    with progress("trainings", total=len(runs), unit="runs") as advance:
        pool = ThreadPoolExecutor(parallel)

        def finish(run: Run) -> dict[str, Any]:
            row = _finish(run, processes)
            advance()
            return row

        try:
            waiting = [pool.submit(finish, run) for run in runs]
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            processes.stop()
            pool.shutdown()


def _finish(run: Run, processes: _Processes) -> dict[str, Any]:
    """Return a run's row, from its folder if it is finished."""
    held = run.out / RESULT_FILE
    made_with = {"recipe": run.recipe, "overrides": list(run.overrides), "data": run.data.name}
    if held.is_file():
        row: dict[str, Any] = json.loads(held.read_text())
        if row["made_with"] != made_with:
            raise UserError(f"{run.out} holds a run of other settings; remove it, or use --work")
        return row
    is_begun = (run.out / CHECKPOINT_FILE).is_file()
    if run.out.exists() and not is_begun:
        shutil.rmtree(run.out)  # killed before its first checkpoint
    run.out.parent.mkdir(parents=True, exist_ok=True)
    log = run.out.with_suffix(".log")
    begun = time.monotonic()
    words = ["train", run.recipe, *run.overrides, "--data", str(run.data), "--out", str(run.out)]
    processes.run([*words, *(["--resume"] if is_begun else [])], log)
    row = {
        "clip": run.clip,
        "cue": run.cue,
        "seed": run.seed,
        "seconds": round(time.monotonic() - begun, 1),
        "resumed": is_begun,
        "loss": json.loads((run.out / "log.jsonl").read_text().splitlines()[-1])["loss"],
        "made_with": made_with,
    }
    scores = _test(run, processes, zeroed=False)
    row |= {"top1": scores["top1"], "chance": scores["chance"], "per_class": scores["per_class"]}
    if run.also_zeroed:
        row["zeroed_top1"] = _test(run, processes, zeroed=True)["top1"]
    partial = held.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=2) + "\n")
    partial.replace(held)
    return row


def _test(run: Run, processes: _Processes, *, zeroed: bool) -> dict[str, Any]:
    scores = run.out / ("zeroed.json" if zeroed else "scores.json")
    words = ["evaluate", str(run.out), "--data", str(run.data), "--views", VIEWS]
    words += ["--json", str(scores), *(["--zero-motion"] if zeroed else [])]
    processes.run(words, run.out.with_suffix(".log"))
    loaded: dict[str, Any] = json.loads(scores.read_text())
    return loaded
