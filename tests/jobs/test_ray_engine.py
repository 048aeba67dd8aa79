"""A real cluster of two nodes on this machine: tasks, workers and a node really die."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from gopstream.jobs.engines.ray_engine import run_on_ray
from gopstream.jobs.errors import UserError
from gopstream.jobs.worker_pool import WorkerError, run_tasks

TOOLS = {"ffmpeg": "8.0", "libavcodec": "62.11.100"}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# A dead node is noticed after seconds instead of half a minute.
IMPATIENT = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}


def find_tools():
    return dict(TOOLS)


def find_other_tools():
    return TOOLS | {"ffmpeg": "7.1"}


def find_no_tools():
    raise FileNotFoundError(2, "No such file", "/opt/ffmpeg")


def crash_ray(task, reporter, faults):
    """Kill the pool's parent, a process of Ray's; by the third try it works."""
    folder, _ = task
    tries = folder / "tries"
    with tries.open("a") as file:
        file.write("x")
    if tries.stat().st_size < 3:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return "done"


def count_finished(task, reporter, faults):
    """Let one item be killed at each try, and note how many others are done by then."""
    folder, (word,) = task
    if 0 in faults:
        return faults[0].error
    reporter.started(0)
    if word == "oom":
        with (folder / "tries").open("a") as file:
            file.write(f"{len(list(folder.glob('done-*')))}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.7)
    (folder / f"done-{word}").touch()
    reporter.finished(0, succeeded=True)
    return word


def find_script(task, reporter, faults):
    return getattr(sys.modules["__main__"], "__file__", None)


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose files and processes are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets must be short
    (folder / "ray").mkdir()
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", here)  # the nodes import these works
        patch.syspath_prepend(here)
        handler = signal.getsignal(signal.SIGTERM)
        cluster = Cluster(True, head_node_args=NODE | {"_system_config": IMPATIENT})
        # One connection for all jobs, so that Ray's processes serve more than one; the commands
        # below make their own. Made before there is a second node, whose death would end it.
        ray.init(cluster.address, log_to_driver=False, logging_level="error")
        signal.signal(signal.SIGTERM, handler)  # Ray's would end the tests' own process
        cluster.add_node(**NODE)
        pids = [
            str(info.process.pid)
            for node in cluster.list_all_nodes()
            for infos in node.all_processes.values()
            for info in infos
        ]
        yield cluster
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder)
        pool = importlib.import_module("test_worker_pool")
        assert pool.wait_until(lambda: not pool.alive(pids))


@pytest.fixture
def pool(cluster):
    """The tests of the local pool: the same works are done here."""
    return importlib.import_module("test_worker_pool")


@pytest.fixture
def ours(cluster):
    """This module, by a name under which the nodes can import it."""
    return importlib.import_module("test_ray_engine")


@pytest.fixture
def run(cluster, pool, ours, tmp_path):
    """Return a function that does tasks on the cluster; returns results and what was counted."""

    def run(*tasks, work=pool.do_words, work_versions=ours.find_tools, **others):
        items = []
        results = run_on_ray(
            ((tmp_path, words) for words in tasks),
            work,
            versions=TOOLS,
            work_versions=work_versions,
            on_item=items.append,
            address=cluster.address,
            **others,
        )
        return results, items

    return run


def test_cluster_that_is_not_there_is_said_at_once():
    """Comes before the cluster: a connection that there is already would be used."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for url in (address, f"ray://{address}"):
            with pytest.raises(UserError, match=f"no Ray cluster could be reached at {url}: "):
                run_on_ray([], id, versions={}, work_versions=dict, on_item=id, address=url)
    with pytest.raises(UserError, match="at nonsense: Invalid address format"):
        run_on_ray([], id, versions={}, work_versions=dict, on_item=id, address="nonsense")


def test_missing_ray_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as the import system marks what is not there
    with pytest.raises(UserError, match=r"pip install 'gopstream\[ray\]'"):
        run_on_ray([], id, versions={}, work_versions=dict, on_item=id)


def test_same_results_as_on_one_machine(run, pool, tmp_path):
    """With items that kill and hang their worker, and one that is killed for want of memory."""
    tasks = [["a", "segv", "b"], ["oom", "c"], ["hang", "d"], ["innocent"]]
    results, items = run(*tasks, stall_seconds=1.0)
    (tmp_path / "killed").unlink()
    local = []
    assert results == run_tasks(
        [(tmp_path, words) for words in tasks],
        pool.do_words,
        workers=2,
        stall_seconds=1.0,
        on_item=local.append,
    )
    assert sorted(items) == sorted(local)
    assert "SIGKILL, also with no other worker beside it" in results[1][0][2]


def test_killed_item_is_tried_again_after_all_others(run, ours, tmp_path):
    results, _ = run(["oom"], ["a"], ["b"], ["c"], work=ours.count_finished)
    assert results == ["CrashedError", "a", "b", "c"]
    first, *later = (tmp_path / "tries").read_text().split()
    assert int(first) < 3  # it was not the last from the beginning
    assert set(later) == {"3"}


def test_exception_ends_the_job_with_its_own_type(run):
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(["a"], ["disk full"], ["b"])
    assert type(caught.value) is OSError
    assert (caught.value.errno, caught.value.filename) == (28, "/shards")
    assert "in stop_or_fail" in caught.value.__notes__[0]
    assert f"On the node {socket.gethostname()}" in caught.value.__notes__[1]
    with pytest.raises(RuntimeError, match="Unpicklable: very odd"):
        run(["odd error"])
    with pytest.raises(WorkerError, match="lost between videos"):
        run(["a", "die at the end"])


def test_node_with_other_tools_is_refused(run, ours, tmp_path):
    name = socket.gethostname()
    message = f"the node {name} has another ffmpeg: 7.1, here it is 8.0; it decides the bytes"
    with pytest.raises(UserError, match=message):
        run(["exit"], work_versions=ours.find_other_tools)
    with pytest.raises(FileNotFoundError, match="/opt/ffmpeg"):
        run(["exit"], work_versions=ours.find_no_tools)


def test_lost_task_is_done_again_but_not_for_ever(run, ours, tmp_path):
    assert run(["a"], work=ours.crash_ray, retries=2) == (["done"], [])
    (tmp_path / "tries").unlink()
    with pytest.raises(WorkerError, match="lost 1 times with its node or process"):
        run(["a"], work=ours.crash_ray, retries=0)


def test_worker_processes_do_not_carry_ray(run, ours):
    """A worker process imports its parent's script, which here is Ray's."""
    assert run([], work=ours.find_script) == ([None], [])


def test_tasks_are_drawn_when_there_is_room(cluster, pool, ours, tmp_path):
    num_drawn, num_waiting = 0, []

    def draw():
        nonlocal num_drawn
        for number in range(8):
            num_drawn += 1
            yield tmp_path, [str(number)]

    results = run_on_ray(
        draw(),
        pool.do_words,
        versions=TOOLS,
        work_versions=ours.find_tools,
        on_item=lambda _: num_waiting.append(num_drawn - len(num_waiting)),
        address=cluster.address,
    )
    assert results == [pool.ok(str(number)) for number in range(8)]
    assert max(num_waiting) <= 4  # two for each processor


# A command on the cluster, with what the command line does about signals.
COMMAND = """
import sys
from pathlib import Path
import test_ray_engine, test_worker_pool
from gopstream.jobs import cli
from gopstream.jobs.engines.ray_engine import run_on_ray
@cli.app.command
def job(address: str, *folders: Path) -> None:
    run_on_ray(
        [(folder, ["gate", *["slow"] * 100]) for folder in folders],
        test_worker_pool.do_words,
        versions=test_ray_engine.TOOLS,
        work_versions=test_ray_engine.find_tools,
        on_item=print,
        address=address,
    )
sys.exit(cli.main(["job", *sys.argv[1:]]))
"""


@pytest.fixture
def command(cluster, tmp_path):
    """A command with a task at the gate on each node and one in wait; its process, the folders."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, cluster.address, *folders],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    yield process, folders
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


def test_sigterm_ends_the_present_items_and_no_more(command, pool):
    """All items would take ten minutes."""
    process, folders = command
    pids = [pid for folder in folders[:2] for pid in pool.wait_for_pids(folder, 2)]
    os.killpg(process.pid, signal.SIGTERM)
    assert pool.alive(pids) == set(pids)
    for folder in folders[:2]:
        (folder / "open").touch()
    said = process.communicate()[1].decode()
    assert process.returncode == 143
    assert "gopstream: stopped by SIGTERM; what was finished is kept" in said
    assert "Traceback" not in said
    assert all((folder / "through").exists() for folder in folders[:2])
    assert not (folders[2] / "at the gate").exists()
    assert pool.wait_until(lambda: not pool.alive(pids))


def test_second_signal_kills_at_once(command, pool):
    process, folders = command
    pids = [pid for folder in folders[:2] for pid in pool.wait_for_pids(folder, 2)]
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    assert pool.alive(pids) == set(pids)
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert pool.wait_until(lambda: not pool.alive(pids))


def test_node_that_dies_loses_nothing(cluster, run, pool, tmp_path):
    """Must be the last test: one node is left."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()

    def kill_node():
        pids = [pid for folder in folders for pid in pool.wait_for_pids(folder, 2)]
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        assert pool.wait_until(lambda: len(pool.alive(pids)) == 2)
        for folder in folders:
            (folder / "open").touch()

    killer = threading.Thread(target=kill_node)
    killer.start()
    items = []
    results = run_on_ray(
        [(folder, ["a", "gate", "b"]) for folder in folders],
        pool.do_words,
        versions=TOOLS,
        work_versions=importlib.import_module("test_ray_engine").find_tools,
        on_item=items.append,
        address=cluster.address,
    )
    killer.join()
    assert results == [pool.ok("a", "gate", "b")] * 2
    assert items == [True] * 6
    begun = [len(pool.wait_for_pids(folder, 2)) for folder in folders]
    assert sorted(begun) == [2, 4]  # one of them was begun again
