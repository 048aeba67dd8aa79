"""The whole job on a real S3 server that fails in the ways servers fail.

What is protected: objects have the bytes of the local files wherever videos and dataset lie; what
goes wrong for a while changes nothing; what goes wrong for longer is one clear error after the
configured patience, with nothing half-written to be seen, and the same command completes it.
"""

import csv
import functools
import http.server
import json
import re
import threading

import pytest

from gopstream.jobs import cli
from gopstream.jobs.bench.proof_videos import PROOF_VIDEOS, ProofVideo, make_proof_video
from gopstream.jobs.bench.sharding_runs import Command, leftovers
from gopstream.jobs.bench.sharding_videos import SEGMENT_FRAMES, write_small_videos
from s3_server import REGION, wait_until

NUM_SHARDS = 4
OPTIONS = ["--videos-per-shard", "3", "--workers", "2", "--segment-frames", str(SEGMENT_FRAMES)]


def is_report(request):
    return request.method == "PUT" and request.target.partition("?")[0].endswith(".report.jsonl")


def is_upload(request):
    return request.method in ("PUT", "POST")


def is_download(request):
    return request.method == "GET" and request.target.endswith(".mp4")


def read_folder(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eleven small videos, two broken and two cut, and one whose tars take several parts."""
    folder = tmp_path_factory.mktemp("s3") / "videos"
    write_small_videos(folder, count=11)
    with pytest.MonkeyPatch.context() as patch:
        noise = ProofVideo(320, 240, 84, PROOF_VIDEOS["noise"].draw)
        patch.setitem(PROOF_VIDEOS, "large", noise)
        make_proof_video("large", folder / "class-0")
    return folder


@pytest.fixture(scope="module")
def local(videos, tmp_path_factory):
    """The dataset in a local folder: content by name."""
    out = tmp_path_factory.mktemp("local") / "set"
    assert cli.main(["shard", str(videos), "--out", str(out), *OPTIONS]) == 0
    files = read_folder(out)
    assert max(map(len, files.values())) > 8 << 20  # more than one part
    assert len([name for name in files if name.endswith(".report.jsonl")]) == NUM_SHARDS
    assert sum(row.count(b"\n") for name, row in files.items() if "failures" in name) == 2
    return files


def store_options(s3, patience=20):
    return ["--endpoint", s3.proxy.url, "--region", REGION, "--patience", str(patience)]


@pytest.fixture
def words(s3, videos):
    """The command line that shards the local videos into the bucket."""
    return ["shard", str(videos), "--out", f"{s3.url}/set", *OPTIONS, *store_options(s3)]


def read_bucket(s3):
    names = [key.removeprefix("set/") for key in s3.keys() if key.startswith("set/")]  # noqa: SIM118
    return {name: s3.content(f"set/{name}") for name in names}


def check_visible(s3, local):
    """Each object is whole, and a shard with a report has all that belongs to it."""
    seen = read_bucket(s3)
    assert {name: local[name] == content for name, content in seen.items()} == dict.fromkeys(
        seen, True
    )
    for report in [name for name in seen if name.endswith(".report.jsonl")]:
        shard = report.removesuffix("report.jsonl")
        assert {name for name in local if name.startswith(shard)} <= seen.keys()
    return seen


def check_whole(s3, local):
    seen = check_visible(s3, local)
    assert seen.keys() == local.keys()


def test_from_bucket_to_bucket_gives_the_local_bytes(s3, videos, local):
    for name, content in read_folder(videos).items():
        s3.put(f"all/{name}", content)
    words = ["shard", f"{s3.url}/all", "--out", f"{s3.url}/set", *OPTIONS, *store_options(s3)]
    assert cli.main(words) == 0
    check_whole(s3, local)
    assert s3.unfinished() == []


def test_from_a_web_server_gives_the_local_bytes(s3, videos, local, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    listed = tmp_path / "list.csv"
    with listed.open("w", newline="") as file:
        names = sorted(read_folder(videos))
        rows = [("path", "label"), *((name, name.partition("/")[0]) for name in names)]
        csv.writer(file).writerows(rows)
    handler = functools.partial(Quiet, directory=str(videos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        words = ["shard", root, "--annotations", str(listed), "--out", f"{s3.url}/set"]
        assert cli.main([*words, *OPTIONS, *store_options(s3)]) == 0
        server.shutdown()
    check_whole(s3, local)


def test_errors_of_the_server_change_nothing(s3, videos, local):
    for name, content in read_folder(videos).items():
        s3.put(f"all/{name}", content)
    proxy = s3.proxy
    faults = [
        proxy.answer(500, times=3),
        proxy.answer(503, times=3, matches=is_upload),
        proxy.answer(503, times=2, matches=lambda request: request.is_part),
        proxy.cut_request(after=1000, times=2, matches=is_upload),
        proxy.cut_request(after=100_000, times=2, matches=lambda request: request.is_part),
        proxy.cut_response(after=0, times=2, matches=is_report),
        proxy.cut_response(after=1000, times=3, matches=is_download),
        proxy.answer(503, times=3, matches=is_download),
    ]
    words = ["shard", f"{s3.url}/all", "--out", f"{s3.url}/set", *OPTIONS, *store_options(s3)]
    assert cli.main(words) == 0
    assert [fault.times for fault in faults] == [0] * len(faults)
    check_whole(s3, local)


def test_server_that_is_away_for_a_while_changes_nothing(s3, words, local):
    """It goes after the first shard, while another is on its way."""
    threads = []

    def leave(request):
        if is_report(request) and not threads:
            threads.append(threading.Thread(target=come_back))
            s3.proxy.go_away()
            threads[0].start()

    def come_back():
        threading.Event().wait(2)
        s3.proxy.come_back()

    s3.proxy.before = leave
    assert cli.main(words) == 0
    threads[0].join()
    check_whole(s3, local)


def test_server_that_stays_away_is_a_clear_error_and_the_job_continues(s3, videos, local, capsys):
    reports = []

    def leave(request):
        if is_report(request):
            reports.append(request.target)
            if len(reports) == 2:
                s3.proxy.go_away()

    s3.proxy.before = leave
    words = ["shard", str(videos), "--out", f"{s3.url}/set", *OPTIONS]
    assert cli.main([*words, *store_options(s3, patience=2)]) == 1
    said = capsys.readouterr().err
    assert f"gopstream: {s3.url}/set/train/" in said
    assert "What is finished is kept: run the same command again when the store answers" in said
    assert "Traceback" not in said
    s3.proxy.reset()
    seen = check_visible(s3, local)
    assert "train/manifest.json" not in seen
    assert cli.main([*words, *store_options(s3)]) == 0
    check_whole(s3, local)


def test_server_that_takes_no_part_leaves_no_unfinished_upload(s3, videos, local, capsys):
    begun = []

    def note(request):
        if request.is_part:
            begun.extend(s3.unfinished())

    s3.proxy.before = note
    s3.proxy.answer(500, times=1_000_000, matches=lambda request: request.is_part)
    words = ["shard", str(videos), "--out", f"{s3.url}/set", *OPTIONS]
    assert cli.main([*words, *store_options(s3, patience=2)]) == 1
    said = capsys.readouterr().err
    assert re.search(r"uploading failed for \d+ seconds", said)
    assert "Traceback" not in said
    assert begun
    assert s3.unfinished() == []
    seen = check_visible(s3, local)
    assert len([name for name in seen if name.endswith(".report.jsonl")]) < NUM_SHARDS
    s3.proxy.reset()
    assert cli.main([*words, *store_options(s3)]) == 0
    check_whole(s3, local)


def test_videos_that_a_store_does_not_give_are_not_broken(s3, videos, local, capsys):
    """The job fails and continues later: they must not become rows of the report."""
    for name, content in read_folder(videos).items():
        s3.put(f"all/{name}", content)
    s3.proxy.answer(503, times=1_000_000, matches=is_download)
    words = ["shard", f"{s3.url}/all", "--out", f"{s3.url}/set", *OPTIONS]
    assert cli.main([*words, *store_options(s3, patience=1)]) == 1
    assert re.search(r"mp4: downloading failed for \d+ seconds", capsys.readouterr().err)
    assert not any(name.endswith(".report.jsonl") for name in check_visible(s3, local))
    s3.proxy.reset()
    assert cli.main([*words, *store_options(s3)]) == 0
    check_whole(s3, local)


def test_sigterm_leaves_no_unfinished_upload(s3, words, local, tmp_path):
    """It comes while a part of an object is on its way."""
    is_sending, is_stopped = threading.Event(), threading.Event()

    def hold(request):
        if request.is_part:
            is_sending.set()
            is_stopped.wait()

    s3.proxy.before = hold
    command = Command(words, temporary=tmp_path / "temporary")
    is_sending.wait()
    unfinished = s3.unfinished()
    command.process.terminate()
    is_stopped.set()
    assert command.wait() == 143
    assert unfinished
    assert s3.unfinished() == []
    assert "train/manifest.json" not in check_visible(s3, local)
    assert leftovers(command, tmp_path / "none") == []


def test_credentials_that_expire_in_the_middle_are_renewed(s3, words, local, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    printed = tmp_path / "credentials.json"
    keys = []

    def issue(key):
        keys.append(key)
        content = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": "secret"}
        printed.write_text(json.dumps(content))
        s3.proxy.valid_keys = {key}

    def expire(request):
        if is_report(request) and request.access_key == keys[-1] == "first":
            issue("second")

    issue("first")
    s3.proxy.before = expire
    assert cli.main([*words, "--credentials-command", f"cat {printed}"]) == 0
    assert keys == ["first", "second"]
    assert {request.access_key for request in s3.proxy.requests} == {"first", "second"}
    check_whole(s3, local)


def test_killed_job_is_continued(s3, words, local, tmp_path):
    command = Command(words, temporary=tmp_path / "temporary")
    wait_until(lambda: command.has_ended or s3.proxy.count(is_report) > 0)
    command.kill()
    assert command.wait() == 137
    seen = check_visible(s3, local)
    assert "train/manifest.json" not in seen
    assert cli.main(words) == 0
    check_whole(s3, local)


def test_verify_and_info_work_on_a_bucket(s3, local, capsys):
    for name, content in local.items():
        s3.put(f"set/{name}", content)
    url = f"{s3.url}/set"
    assert cli.main(["verify", url, *store_options(s3)]) == 0
    capsys.readouterr()
    assert cli.main(["info", url, "--json", "-", *store_options(s3)]) == 0
    train = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert (train["shards"], train["failures"], train["complete"]) == (NUM_SHARDS, 2, True)
    damaged = bytearray(local["train/000001.tar"])
    damaged[len(damaged) // 2] ^= 1
    s3.put("set/train/000001.tar", bytes(damaged))
    assert cli.main(["verify", url, *store_options(s3)]) == 1
    captured = capsys.readouterr()
    assert "train/000001.tar" in captured.out + captured.err
