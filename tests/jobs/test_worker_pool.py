"""The pool is tested with processes that really die, hang and are killed."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from gopstream.jobs.worker_pool import Reporter, WorkerError, run_tasks

# A task of these tests is a list of words; each word is an item, and says what becomes of it.


class Unpicklable(Exception):
    def __init__(self, *, reason):
        super().__init__(reason)


def die(word, folder):
    if word == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "exit":
        os._exit(3)
    elif word == "oom":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "innocent" and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


# Like FFmpeg: ends early, and badly, if it hears one of these signals.
NERVOUS_CHILD = """
import os, pathlib, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: os._exit(9))
folder, parent = pathlib.Path(sys.argv[1]), os.getppid()
with (folder / "at the gate").open("a") as file:
    file.write(f"{parent} {os.getpid()} ")
while not (folder / "open").exists() and os.getppid() == parent:
    time.sleep(0.02)
"""


def stop_or_fail(word, folder):
    if word == "gate":
        subprocess.run([sys.executable, "-c", NERVOUS_CHILD, folder], check=True)
        (folder / "through").touch()
    elif word == "hang":
        (Path(tempfile.gettempdir()) / "left behind").touch()
        (folder / "temporary").write_text(tempfile.gettempdir())
        child = subprocess.Popen(["sleep", "1000"])
        (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(1000)
    elif word == "disk full":
        raise OSError(28, "No space left on device", "/shards")
    elif word == "odd error":
        raise Unpicklable(reason="very odd")


def do_words(task, reporter, faults):
    """Do the items; returns each one with what became of it."""
    folder, words = task
    done = []
    for index, word in enumerate(words):
        if index in faults:
            done.append((word, *faults[index]))
            reporter.finished(index, succeeded=False)
            continue
        reporter.started(index)
        die(word, folder)
        stop_or_fail(word, folder)
        if word == "slow":
            for _ in range(30):
                time.sleep(0.1)
                reporter.beat()
        done.append((word, "ok"))
        reporter.finished(index, succeeded=True)
    if "die at the end" in words or ("die at one end" in words and not (folder / "died").exists()):
        (folder / "died").touch()
        os._exit(1)
    return done


def count_neighbours(task, reporter, faults):
    """Note each try of an item that is always killed, and who works beside it."""
    folder, words = task
    if "oom" in words:
        time.sleep(0.3)  # so that the others have begun
        with (folder / "tries").open("a") as file:
            file.write(f"{len(list(folder.glob('busy-*')))}\n")
        return do_words(task, reporter, faults)
    mark = folder / f"busy-{os.getpid()}"
    mark.touch()
    time.sleep(1)
    mark.unlink()
    return do_words(task, reporter, faults)


def forget_to_exclude(task, reporter, faults):
    reporter.started(0)
    os._exit(3)


def return_a_function(task, reporter, faults):
    return lambda: None


class MovedError(Exception):
    pass


@pytest.fixture
def works(monkeypatch):
    """This module, under a name by which worker processes can import it too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("test_worker_pool")


@pytest.fixture
def run(works, tmp_path):
    """Return a function that does tasks and returns their results and what was counted."""

    def run(*tasks, work="do_words", workers=1, stall_seconds=60.0):
        items = []
        results = run_tasks(
            [(tmp_path, words) for words in tasks],
            getattr(works, work),
            workers=workers,
            stall_seconds=stall_seconds,
            on_item=items.append,
        )
        return results, items

    return run


def wait_for_pids(folder, count):
    """Return the processes at a folder's gate."""
    path = folder / "at the gate"
    assert wait_until(lambda: path.exists() and len(path.read_text().split()) >= count)
    return path.read_text().split()


def ok(*words):
    return [(word, "ok") for word in words]


def crashed(word, message):
    return [(word, "CrashedError", message)]


def alive(pids):
    """Return those processes that still run; one that only waits to be reaped does not."""
    running = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            running |= {pid} if state != "Z" else set()
    return running


def wait_until(fact):
    for _ in range(600):  # no limit on speed: only so that a failure is not a hang
        if fact():
            return True
        time.sleep(0.1)
    return False


SEGV = "this video killed the worker process: SIGSEGV"
EXIT = "this video killed the worker process: exit status 3"


@pytest.mark.parametrize("workers", [1, 3])
def test_crashing_item_is_excluded_and_the_others_are_done(run, workers):
    results, items = run(["a", "segv", "b"], ["c"], ["exit", "d", "segv"], workers=workers)
    assert results == [
        [*ok("a"), *crashed("segv", SEGV), *ok("b")],
        ok("c"),
        [*crashed("exit", EXIT), *ok("d"), *crashed("segv", SEGV)],
    ]
    # Each item is counted once, although tasks were begun again.
    assert sorted(items) == [False] * 3 + [True] * 4


def test_silent_worker_is_stopped_with_its_children(run, tmp_path):
    results, items = run(["a", "hang", "b"], stall_seconds=1.0)
    message = "no progress for 1 s; the decoder was stopped"
    assert results == [[*ok("a"), ("hang", "StalledError", message), *ok("b")]]
    assert items == [True, False, True]
    assert alive((tmp_path / "pids").read_text().split()) == set()
    assert not Path((tmp_path / "temporary").read_text()).exists()


def test_beats_keep_a_long_item_alive(run):
    assert run(["slow"], stall_seconds=1.0) == ([ok("slow")], [True])


def test_worker_killed_once_is_not_the_items_fault(run):
    assert run(["innocent", "b"], ["c"]) == ([ok("innocent", "b"), ok("c")], [True] * 3)


def test_item_killed_again_on_its_own_is_excluded(run, tmp_path):
    results, _ = run(["oom"], ["a"], ["b"], work="count_neighbours", workers=3)
    message = "this video killed the worker process: SIGKILL, also with no other worker beside it"
    assert results == [crashed("oom", f"{message} (out of memory?)"), ok("a"), ok("b")]
    tries = (tmp_path / "tries").read_text().split()
    assert tries[0] != "0"  # otherwise the next line shows nothing
    assert tries[1:] == ["0", "0"]


def test_task_that_was_killed_can_be_done_elsewhere(works, tmp_path):
    def leave():
        raise MovedError

    with pytest.raises(MovedError):
        run_tasks(
            [(tmp_path, ["a", "innocent"])],
            works.do_words,
            workers=1,
            on_item=lambda _: None,
            on_killed=leave,
        )


def test_tasks_are_drawn_when_a_worker_is_free(works, tmp_path):
    """There may be so many that they do not fit into memory."""
    num_drawn, num_waiting = 0, []

    def draw():
        nonlocal num_drawn
        for number in range(12):
            num_drawn += 1
            yield tmp_path, [str(number)]

    def count(succeeded):
        num_waiting.append(num_drawn - len(num_waiting))

    results = run_tasks(draw(), works.do_words, workers=2, on_item=count)
    assert results == [ok(str(number)) for number in range(12)]
    assert max(num_waiting) <= 2


def test_tasks_that_cannot_be_drawn_end_the_job(works, tmp_path):
    def draw():
        yield tmp_path, ["a"]
        raise OSError(5, "Input/output error", "plan.json")

    with pytest.raises(OSError, match="plan.json"):
        run_tasks(draw(), works.do_words, workers=1, on_item=lambda _: None)
    assert multiprocessing.active_children() == []


def test_worker_that_dies_between_items_gets_one_more_chance(run):
    words = ["a", "die at one end"]
    assert run(words) == ([ok(*words)], [True, True])
    with pytest.raises(WorkerError, match="lost between videos: exit status 1"):
        run(["a", "die at the end"])


def test_work_that_ignores_exclusion_does_not_go_on_for_ever(run):
    with pytest.raises(WorkerError, match="lost between videos: exit status 3"):
        run(["a"], work="forget_to_exclude")


def test_exception_comes_with_its_traceback(run):
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(["a", "disk full"], ["b"])
    assert (caught.value.errno, caught.value.filename) == (28, "/shards")
    (note,) = caught.value.__notes__
    assert "in stop_or_fail" in note
    assert "test_worker_pool.py" in note


def test_what_cannot_be_sent_is_an_error_too(run):
    with pytest.raises(RuntimeError, match="Unpicklable: very odd") as caught:
        run(["odd error"])
    assert "in stop_or_fail" in caught.value.__notes__[0]
    with pytest.raises(AttributeError, match="return_a_function"):
        run(["a"], work="return_a_function")


def test_senseless_numbers_are_refused(run):
    with pytest.raises(ValueError, match="must be positive, got 0 and 60"):
        run(["a"], workers=0)
    with pytest.raises(ValueError, match="must be positive, got 1 and 0"):
        run(["a"], stall_seconds=0)
    assert run() == ([], [])


def test_beats_are_few():
    near, far = Pipe()
    reporter = Reporter(near, beat_seconds=1000.0)
    for _ in range(100_000):  # would fill the pipe, and block, if each were sent
        reporter.beat()
    assert not far.poll()


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_worker_pool
from gopstream.jobs.worker_pool import run_tasks
if __name__ == "__main__":
    tasks = [(Path(folder), ["hang", "a"]) for folder in sys.argv[2:]]
    run_tasks(tasks, test_worker_pool.do_words, workers=2, on_item=print)
"""


# The same as a command, with what the command line does about signals.
COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_worker_pool
from gopstream.jobs import cli
from gopstream.jobs.worker_pool import run_tasks
@cli.app.command
def job(*folders: Path, words: str) -> None:
    tasks = [(folder, words.split()) for folder in folders]
    run_tasks(tasks, test_worker_pool.do_words, workers=2, on_item=print)
if __name__ == "__main__":
    sys.exit(cli.main(["job", *sys.argv[2:]]))
"""


@pytest.fixture
def command(tmp_path):
    """Return a function that starts a command with two workers, in ``tmp_path``."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in (*folders, tmp_path / "temporary"):
        folder.mkdir()
    processes = []

    def start(words):
        processes.append(
            subprocess.Popen(
                [sys.executable, script, Path(__file__).parent, *folders, "--words", words],
                env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.fixture
def job(tmp_path):
    """A job whose two workers hang; yields its process and the pids of all that it started."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    script = tmp_path / "job.py"
    script.write_text(JOB)
    process = subprocess.Popen(
        [sys.executable, script, Path(__file__).parent, *folders],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pids = []
    try:
        assert wait_until(lambda: all((folder / "pids").exists() for folder in folders))
        wait_until(lambda: all((folder / "pids").read_text() for folder in folders))
        pids = [pid for folder in folders for pid in (folder / "pids").read_text().split()]
        assert alive(pids) == set(pids)
        yield process, pids
    finally:
        for pid in [process.pid, *map(int, pids)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_nothing_outlives_a_killed_parent(job, name):
    process, pids = job
    process.send_signal(signal.Signals[name])
    assert wait_until(lambda: not alive(pids))
    assert process.wait() == -signal.Signals[name]


def test_second_interrupt_does_not_wait_for_items(job):
    process, pids = job
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    time.sleep(1)
    assert alive(pids) == set(pids)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert wait_until(lambda: process.poll() is not None)
    assert alive(pids) == set()


def signal_all(pids, number):
    """Signal each process of a job, as a cluster's scheduler does."""
    for pid in pids:
        os.kill(int(pid), number)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signal_ends_the_present_items_and_no_more(command, tmp_path, name):
    process = command("gate b gate")
    folders = [tmp_path / "one", tmp_path / "two"]
    pids = [pid for folder in folders for pid in wait_for_pids(folder, 2)]
    signal_all([process.pid, *pids], signal.Signals[name])
    time.sleep(0.3)
    assert process.poll() is None
    assert alive(pids) == set(pids)
    for folder in folders:
        (folder / "open").touch()
    said = process.communicate()[1].decode()
    assert process.returncode == 128 + signal.Signals[name]
    by = "" if name == "SIGINT" else f" by {name}"
    expected = f"stopped{by}; what was finished is kept, and the same command continues"
    assert said.strip() == f"gopstream: {expected}"
    for folder in folders:
        assert (folder / "through").exists()  # not killed by the signal
        assert len(wait_for_pids(folder, 2)) == 2  # and the second gate not reached
    assert alive(pids) == set()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_second_signal_kills_at_once(command, tmp_path):
    process = command("gate")
    pids = [pid for name in ("one", "two") for pid in wait_for_pids(tmp_path / name, 2)]
    process.terminate()
    time.sleep(0.5)
    assert alive(pids) == set(pids)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert alive(pids) == set()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_signal_while_workers_start(command, tmp_path, delay):
    process = command("gate")
    assert wait_until(lambda: any((tmp_path / "temporary").iterdir()))
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGTERM)
    for name in ("one", "two"):
        (tmp_path / name / "open").touch()
    said = process.communicate()[1].decode()
    assert (process.returncode, said.count("stopped by SIGTERM")) == (143, 1)
    assert "Traceback" not in said
    assert list((tmp_path / "temporary").iterdir()) == []


def test_next_job_removes_what_killed_jobs_left(command, works, tmp_path, monkeypatch):
    process = command("gate")
    pids = [pid for name in ("one", "two") for pid in wait_for_pids(tmp_path / name, 2)]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    left = set((tmp_path / "temporary").iterdir())
    assert len(left) == 2
    run_tasks([(tmp_path, ["a"])], works.do_words, workers=1, on_item=lambda _: None)
    assert set((tmp_path / "temporary").iterdir()) == left  # they are in use
    signal_all([process.pid, *pids], signal.SIGKILL)
    assert wait_until(lambda: not alive([str(process.pid), *pids]))
    assert set((tmp_path / "temporary").iterdir()) == left
    run_tasks([(tmp_path, ["a"])], works.do_words, workers=1, on_item=lambda _: None)
    assert list((tmp_path / "temporary").iterdir()) == []
