"""The whole job on a real Ray cluster of two nodes on this machine.

What is protected: the dataset has the bytes of the local engine's, also when a node dies while it
works; and with videos and dataset on object storage nothing is read from the driver's disk.
"""

import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from gopstream.jobs import cli
from gopstream.jobs.bench.sharding_videos import SEGMENT_FRAMES, write_small_videos
from s3_server import REGION, wait_until

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# A dead node is noticed after half a second instead of half a minute.
IMPATIENT = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 100,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 5,
}
OPTIONS = ["--videos-per-shard", "2", "--segment-frames", str(SEGMENT_FRAMES)]
NUM_SHARDS = 6


def read_folder(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose files and processes are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets must be short
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        # Nodes have credentials of their own; the driver hands on addresses alone.
        patch.setenv("AWS_ACCESS_KEY_ID", "node")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        handler = signal.getsignal(signal.SIGTERM)
        cluster = Cluster(True, head_node_args=NODE | {"_system_config": IMPATIENT})
        # Before there is another node on this machine, to which the driver could belong as well:
        # the node that dies is not the driver's own.
        ray.init(cluster.address, log_to_driver=False, logging_level="error")
        signal.signal(signal.SIGTERM, handler)  # Ray's would end the tests' own process
        cluster.add_node(**NODE)
        pids = [
            info.process.pid
            for node in cluster.list_all_nodes()
            for infos in node.all_processes.values()
            for info in infos
        ]
        yield cluster
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder)
        wait_until(lambda: not alive(pids))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twelve small videos, two broken and two cut."""
    folder = tmp_path_factory.mktemp("ray") / "videos"
    write_small_videos(folder, count=12)
    return folder


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    """The dataset as the local engine makes it: content by name."""
    out = tmp_path_factory.mktemp("local") / "set"
    assert cli.main(["shard", str(videos), "--out", str(out), "--workers", "2", *OPTIONS]) == 0
    files = read_folder(out)
    assert len([name for name in files if name.endswith(".report.jsonl")]) == NUM_SHARDS
    return files


@pytest.fixture
def on_ray(cluster):
    """Words of the command line that name the cluster."""
    return [*OPTIONS, "--engine", "ray", "--ray-address", cluster.address]


def test_only_object_storage_is_needed(s3, videos, local, on_ray, tmp_path, monkeypatch):
    """The folder with the videos is away, and the driver stands in an empty one."""
    for name, content in read_folder(videos).items():
        s3.put(f"all/{name}", content)
    store = ["--endpoint", s3.proxy.url, "--region", REGION]
    away = videos.rename(tmp_path / "away")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    try:
        words = ["shard", f"{s3.url}/all", "--out", f"{s3.url}/set", *on_ray, *store]
        assert cli.main(words) == 0
    finally:
        away.rename(videos)
    names = [key for key in s3.keys() if key.startswith("set/")]  # noqa: SIM118
    assert {name.removeprefix("set/"): s3.content(name) for name in names} == local
    assert os.listdir(empty) == []  # noqa: PTH208
    # The driver lists, plans and publishes; the videos are the nodes' to fetch.
    fetched = {r.access_key for r in s3.proxy.requests if r.method == "GET" and ".mp4" in r.target}
    assert fetched == {"node"}


def test_node_that_dies_changes_nothing(cluster, videos, local, on_ray, tmp_path):
    """Must be the last test: one node is left."""
    out = tmp_path / "set"
    (node,) = cluster.worker_nodes
    at_death = []

    def kill_node():
        wait_until(lambda: len(list(out.glob("train/*.report.jsonl"))) >= 2)
        cluster.remove_node(node, allow_graceful=False)
        at_death.append(len(list(out.glob("train/*.report.jsonl"))))

    killer = threading.Thread(target=kill_node)
    killer.start()
    assert cli.main(["shard", str(videos), "--out", str(out), *on_ray]) == 0
    killer.join()
    assert 2 <= at_death[0] < NUM_SHARDS
    assert read_folder(out) == local
