"""The app of ``gopstream view``: what it answers, to whom, and what it costs."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from app_cases import (
    CLASSES,
    NUM_FRAMES,
    SAMPLES,
    SECRET,
    large_dataset,
    make_samples,
    running_app,
)
from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection import app_clips, server
from gopstream.jobs.inspection.app_clips import OpenClips
from gopstream.jobs.inspection.app_guard import HEADERS
from gopstream.jobs.inspection.app_target import ViewedTarget
from gopstream.jobs.inspection.clip_payload import clip_payload, frame_payload, unpack_array
from gopstream.jobs.inspection.sample_clip import SampleClip
from gopstream.jobs.inspection.video_clip import VideoClip
from gopstream.shards.reader import ShardDataset
from inspection_cases import HOSTILE_LABEL, make_video
from web_server import running_web_server


@pytest.fixture(scope="module")
def large():
    return large_dataset()


@pytest.fixture(scope="module")
def app(large):
    with running_app(large) as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("small"), train=[2, 3, 4], val=[1])


def found(app, **question):
    answer = app.get("/api/samples", params={"limit": 200, **question})
    assert answer.status_code == 200, answer.text
    return answer.json()


def positions(app, **question):
    page = found(app, **question)
    return [sample["position"] for sample in page["samples"]], page["total"]


# ---- what it answers ----


def test_the_app_and_its_files_are_there(app):
    page = app.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'src="static/app.js"' in page.text
    static = Path(server.__file__).parent / "static"
    for name in ("app.js", "app.css", "player.js", "player.css"):
        answer = app.get(f"/static/{name}")
        assert answer.content == (static / name).read_bytes()
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))


def test_it_says_what_is_shown(app, large):
    assert app.get("/api/target").json() == {
        "target": str(large),
        "kind": "dataset",
        "is_clip": False,
        "splits": ["train", "val"],
        "unfinished": [],
    }
    facts = app.get("/api/splits/train").json()
    assert (facts["samples"], facts["shards"], facts["unlabelled"]) == (SAMPLES, 1, 0)
    assert [row["name"] for row in facts["classes"]] == list(CLASSES)
    assert [row["samples"] for row in facts["classes"]] == [667, 667, 666]


def test_pages_follow_each_other(app):
    first = found(app, limit=3)
    assert (first["total"], first["of"], first["offset"]) == (SAMPLES, SAMPLES, 0)
    assert [row["key"] for row in first["samples"]] == [f"train-0000000{i}" for i in range(3)]
    assert first["samples"][1]["label"] == HOSTILE_LABEL
    assert first["samples"][1]["zero_residual_share"] is None  # NaN is no JSON
    # Across a border of row groups, and the end.
    assert positions(app, offset=695, limit=10)[0] == list(range(695, 705))
    assert positions(app, offset=1995, limit=10) == ([1995, 1996, 1997, 1998, 1999], SAMPLES)
    assert positions(app, offset=SAMPLES)[0] == []


def test_samples_are_found_by_what_is_asked(app):
    assert positions(app, query="TRAIN-00000123") == ([123], 1)
    assert positions(app, query="folder 3/3.mp4") == ([3], 1)
    assert positions(app, query=".*") == ([], 0)
    assert positions(app, label=HOSTILE_LABEL, limit=2) == ([1, 4], 667)
    assert positions(app, label="") == ([], 0)
    assert positions(app, motion_min=19.97) == ([1997, 1998, 1999], 3)
    assert positions(app, motion_min=0.02, motion_max=0.04) == ([2, 3], 2)
    assert positions(app, where="damaged_frames > 0 and label == 'run'") == ([5], 1)
    together = {"query": "folder 2/", "label": "run", "motion_max": 1, "where": "frames > 3"}
    expected = [i for i in range(100) if i % 7 == 2 and i % 3 == 2]
    assert positions(app, **together) == (expected, len(expected))


def test_samples_come_in_the_order_that_is_asked_for(app):
    assert positions(app, order="-mean_motion_pixels", limit=3)[0] == [1999, 1998, 1997]
    assert positions(app, order="-mean_motion_pixels", label="walk", offset=1, limit=2)[0] == [
        1995,
        1992,
    ]
    assert positions(app, order="-damaged_frames", limit=3)[0] == [5, 0, 1]
    assert positions(app, order="zero_residual_share", limit=2)[0] == [0, 1]


def test_the_motion_histogram_counts_every_sample(app):
    bins = app.get("/api/splits/train/motion").json()
    motion = np.arange(SAMPLES) / 100
    expected = np.histogram(motion, [*bins["edges"], np.inf])[0]
    assert bins["counts"] == expected.tolist()
    assert sum(bins["counts"]) == SAMPLES


def test_failures_are_found_by_reason_and_text(app):
    whole = app.get("/api/failures").json()
    assert (whole["total"], whole["of"]) == (3, 3)
    assert whole["reasons"] == [
        {"reason": "decode: BitstreamError", "count": 2},
        {"reason": "probe: NotAVideoError", "count": 1},
    ]
    asked = {"reason": "decode: BitstreamError", "query": "FRAME 2"}
    page = app.get("/api/failures", params=asked).json()
    assert [row["source"] for row in page["failures"]] == [f"{HOSTILE_LABEL}/2.mp4"]
    assert app.get("/api/failures", params={"offset": 2}).json()["failures"][0]["key"][-1] == "2"


def test_a_clip_is_what_its_arrays_are(app, large):
    clip = SampleClip(ShardDataset(large, "train"), 1234)
    assert app.get("/api/clips/train/1234").json() == clip_payload(clip.facts)
    for frame in clip.frames():
        answer = app.get(f"/api/clips/train/1234/frames/{frame.index}").json()
        assert np.array_equal(unpack_array(answer["motion"]), frame.motion.motion)
        assert np.array_equal(unpack_array(answer["coverage"]), frame.motion.coverage)
        assert answer == frame_payload(frame, clip.facts)


def test_a_thumbnail_is_the_jpeg_as_it_is_stored(app, large):
    answer = app.get("/api/thumbnails/train/7")
    assert answer.headers["content-type"] == "image/jpeg"
    middle = np.array([NUM_FRAMES // 2])
    assert answer.content == bytes(ShardDataset(large, "train").read_jpegs(7, middle)[0])


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/samples?where=frame>3", 400, "did you mean 'frames'"),
        ("/api/samples?label=wlak", 400, "did you mean 'walk'"),
        ("/api/samples?order=codec", 400, "does not hold numbers"),
        ("/api/samples?order=moton", 400, "there is no column 'moton'"),
        ("/api/samples?limit=201", 400, "from 0 to 200"),
        ("/api/samples?offset=-1", 400, "offset must be a whole number"),
        ("/api/samples?motion_min=nan", 400, "motion_min must be a number"),
        ("/api/samples?split=tset", 404, "no finished split 'tset'"),
        ("/api/splits/test", 404, "no finished split"),
        ("/api/clips/train/2000", 404, "has no sample 2000"),
        ("/api/clips/train/0/frames/4", 404, "has no frame 4"),
        ("/api/clips/train/0/statistics/4", 404, "has no frame 4"),
        ("/api/clips/train/-1", 404, "Not Found"),
        ("/api/thumbnails/train/2000", 404, "sample 2000"),
        ("/api/nothing", 404, "Not Found"),
    ],
)
def test_what_cannot_be_meant_is_said(app, path, status, said):
    answer = app.get(path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_damage_is_said_and_ends_nothing(large, tmp_path):
    names = ("dataset.json", "train/plan.json", "train/manifest.json", "train/000000.index.npz")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((large / name).read_bytes())
    (tmp_path / "train" / "samples.parquet").write_bytes(b"no table")
    tar = (large / "train" / "000000.tar").read_bytes()
    (tmp_path / "train" / "000000.tar").write_bytes(bytes(1 << 20) + tar[1 << 20 :])
    with running_app(tmp_path) as address, httpx.Client(base_url=address) as app:
        for path, said in (
            ("/api/samples", "samples.parquet: not a whole table"),
            ("/api/clips/train/0", "do not match their checksum"),
            ("/api/thumbnails/train/0", "do not match their checksum"),
        ):
            answer = app.get(path)
            assert (answer.status_code, said in answer.json()["error"]) == (422, True), answer.text
        assert app.get("/api/failures").status_code == 404
        assert app.get("/api/clips/train/1999").status_code == 200


def test_one_shard_of_several_is_shown_alone(small):
    shard = small / "train" / "000001.tar"
    with running_app(shard) as address, httpx.Client(base_url=address) as app:
        assert app.get("/api/target").json()["kind"] == "shard"
        for question in ({}, {"order": "mean_motion_pixels"}, {"query": "train-"}):
            page = found(app, **question)
            assert (page["total"], page["of"]) == (3, 3)
            assert [row["position"] for row in page["samples"]] == [0, 1, 2]
            assert [row["key"][-1] for row in page["samples"]] == ["2", "3", "4"]
        assert positions(app, label="walk") == ([1], 1)
        assert app.get("/api/clips/train/1").json()["stream"]["key"] == "train-00000003"
        assert sum(app.get("/api/splits/train/motion").json()["counts"]) == 3


def test_the_split_that_is_asked_for_comes_first(small):
    with (
        running_app(small, split="val") as address,
        httpx.Client(base_url=address) as app,
    ):
        assert app.get("/api/target").json()["splits"] == ["val", "train"]
        assert found(app)["samples"][0]["key"] == "val-00000000"
        assert found(app, split="train")["total"] == 9
    with pytest.raises(UserError, match=r"no finished split 'test'; there is train, val"):
        server.make_app(str(small), token=None, split="test")


# ---- frames of a video ----


def test_frames_of_a_video_come_in_any_order(tmp_path):
    video = make_video(tmp_path, b_frames=True)
    clip = VideoClip(video)
    frames = [frame_payload(frame, clip.facts) for frame in clip.frames()]
    with running_app(video) as address, httpx.Client(base_url=address) as app:
        assert app.get("/api/target").json()["is_clip"] is True
        assert app.get("/api/clips/-/0").json()["kinds"] == clip.facts.kinds
        for index in (7, 3, 11, 0, 5, 4, 11):
            assert app.get(f"/api/clips/-/0/frames/{index}").json() == frames[index]
        numbers = app.get("/api/clips/-/0/statistics/2").json()
        assert numbers == {"first": 2, "statistics": [row["statistics"] for row in frames[2:]]}
        assert app.get("/api/clips/train/0").status_code == 404
        assert app.get("/api/samples").status_code == 404
    with pytest.raises(UserError, match="--split is for datasets"):
        server.make_app(str(video), token=None, split="train")


class CountingClip:
    """A clip that says how often it was gone through, and how far."""

    def __init__(self, clip):
        self._clip = clip
        self.facts = clip.facts
        self.starts = []
        self.num_read = 0

    def frames(self, start=0, stop=None):
        self.starts.append(start)
        for frame in self._clip.frames(start, stop):
            self.num_read += 1
            yield frame


@pytest.fixture
def counted(tmp_path):
    clip = CountingClip(VideoClip(make_video(tmp_path, num_frames=40)))
    return clip, OpenClips(lambda key: clip, lock=app_clips.RLock())


def test_a_player_that_goes_on_reads_each_frame_once(counted):
    clip, clips = counted
    for index in (1, 0, 2, 3, 5, 4, 7, 6, 8, 9, 5, 30):
        clips.frame(("-", 0), index)
    # Frame 0 is before the first that was asked for; the rest is on the way.
    assert (clip.starts, clip.num_read) == ([1, 0], 32)


def test_stepping_back_does_not_begin_anew_each_time(counted):
    clip, clips = counted
    clips.frame(("-", 0), 39)
    for index in range(38, -1, -1):
        clips.frame(("-", 0), index)
    assert len(clip.starts) <= 5


def test_packed_frames_are_kept_within_bounds(counted, monkeypatch):
    clip, clips = counted
    size = len(clips.frame(("-", 0), 0))
    monkeypatch.setattr(app_clips, "_BYTES_KEPT", 6 * size)
    frames = [clips.frame(("-", 0), index) for index in range(40)]
    assert 0 < clips.num_bytes <= 6 * size
    assert clips.num_bytes >= sum(map(len, frames[-3:]))
    read = clip.num_read
    assert clips.frame(("-", 0), 39) == frames[39]
    assert clip.num_read == read


# ---- to whom ----


def raw(app, request):
    """Send bytes as they are: clients tidy up paths."""
    with socket.create_connection((app.base_url.host, app.base_url.port)) as connection:
        connection.sendall(request.encode())
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    return answer.decode("latin-1")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/static/../../../secret.txt",
        "/static/..%2f..%2fsecret.txt",
        "/static/%2e%2e/%2e%2e/secret.txt",
        "/static//etc/passwd",
        "/static/..\\..\\secret.txt",
        "/static/app.html%00.js",
        "/api/clips/../0",
        "/api/clips/..%2f..%2fsecret.txt/0",
        "/api/thumbnails/%2e%2e/0",
        "/api/samples?split=../../secret.txt",
        "/api/failures?split=..",
    ],
)
def test_no_path_leads_out(app, path):
    answer = raw(app, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert answer.startswith("HTTP/1.1 404 ")
    assert SECRET not in answer
    assert "root:" not in answer


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil:80"]
)
def test_another_host_name_is_refused(app, host):
    for path in ("/", "/api/target", "/static/app.js"):
        answer = app.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert "127.0.0.1 and localhost" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8:80", "localhost:1234", "[::1]:80", "LOCALHOST"]
)
def test_this_machines_names_are_taken(app, host):
    assert app.get("/api/target", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_get_is_answered(app, method):
    assert app.request(method, "/api/target").status_code == 405


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/samples", "/api/nothing"])
def test_every_answer_ties_the_browsers_hands(app, path):
    headers = app.get(path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in headers["content-security-policy"]


def test_a_fault_of_ours_is_told_without_its_words(large, monkeypatch):
    def fail(target):
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(ViewedTarget, "facts", fail)
    with running_app(large) as address:
        answer = httpx.get(f"{address}/api/target")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("ZeroDivisionError: the terminal")
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_a_secret_is_asked_for_once_and_kept_in_a_cookie(small):
    with running_app(small, token="right") as address, httpx.Client(base_url=address) as app:
        for path in ("/", "/api/target", "/static/app.js", "/?token=wrong", "/?token="):
            assert app.get(path).status_code == 403
        answer = app.get("/?token=right&x=1")
        assert answer.status_code == 200
        assert 'http-equiv="refresh" content="0; url=./?x=1"' in answer.text
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert app.get("/api/target").status_code == 200  # the client has kept the cookie
        other = {"Host": "machine.example:8000"}
        assert app.get("/api/target", headers=other).status_code == 200
        name = cookie.partition("=")[0]
    with running_app(small, token="another") as address:
        assert httpx.get(f"{address}/", cookies={name: "right"}).status_code == 403


def test_an_address_does_not_lead_to_another_server(small):
    with running_app(small, token="right") as address, httpx.Client(base_url=address) as app:
        answer = app.get(f'{address}//evil.example/?token=right&"><script>')
        assert re.findall(r'(?:url=|href=")([^"]*)"', answer.text) == 2 * ["./?%22%3E%3Cscript%3E="]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
    ],
)
def test_only_loopback_needs_no_secret(host, expected):
    assert server.is_loopback(host) is expected


def test_a_port_that_is_taken_is_said(small):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*another --port"):
            server.serve(str(small), port=port, open_browser=False, say=print)


# ---- what it costs ----


def look_around(address, samples):
    with httpx.Client(base_url=address) as app:
        for question in ({}, {"offset": samples - 10}, {"query": "folder 1/"}):
            assert found(app, **question)["samples"]
        assert found(app, order="-mean_motion_pixels", label="run")["samples"]
        for position in range(0, samples, max(1, samples // 20)):
            assert app.get(f"/api/thumbnails/train/{position}").status_code == 200
        for index in range(NUM_FRAMES):
            assert app.get(f"/api/clips/train/{samples - 1}/frames/{index}").status_code == 200


def test_a_large_shard_takes_no_more_memory_than_a_small_one(large, tmp_path):
    """In a process that shows one after the other, and tells its peak of memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    few = make_samples(tmp_path, train=[20])
    code = (
        "import sys; from pathlib import Path; from app_cases import running_app\n"
        "for target in sys.argv[1:]:\n"
        "    with running_app(target) as address:\n"
        "        print(address, flush=True)\n"
        "        sys.stdin.readline()\n"
        "        print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
    )
    command = [sys.executable, "-c", code, str(few), str(large)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    tests = Path(__file__).parents[2]
    peaks = []
    with subprocess.Popen(command, **streams, cwd=tests) as process:
        for samples in (20, SAMPLES):
            look_around(process.stdout.readline().strip(), samples)
            process.stdin.write("\n")
            process.stdin.flush()
            peaks.append(int(process.stdout.readline()) / 1024)
    # The tar alone has 25 MiB.
    assert (large / "train" / "000000.tar").stat().st_size > 25 << 20
    assert peaks[1] - peaks[0] < 16, peaks


class Told(Exception):
    """The app would begin now."""


def address_of(target, **options):
    """Return the address that ``serve`` tells, and end it there."""

    def say(text):
        raise Told(text)

    with pytest.raises(Told) as told:
        server.serve(str(target), open_browser=False, say=say, **options)
    return httpx.URL(str(told.value).split(" is shown at ")[1].split()[0])


def test_a_new_secret_is_in_the_address_where_others_can_reach_it(small):
    assert "token" not in address_of(small).params
    secrets = [
        address_of(small, **options).params["token"]
        for options in ({"host": "0.0.0.0"}, {"with_token": True}, {"with_token": True})
    ]
    assert len(set(secrets)) == 3
    assert min(map(len, secrets)) >= 32


def test_a_dataset_on_a_web_server_is_read_by_ranges(large):
    with running_web_server(large) as web:
        with pytest.raises(UserError, match="its splits cannot be listed.*--split"):
            server.make_app(web.url, token=None)
        with (
            running_app(web.url, split="train") as address,
            httpx.Client(base_url=address) as app,
        ):
            assert app.get("/api/target").json()["splits"] == ["train"]
            assert positions(app, limit=3)[0] == [0, 1, 2]
            assert app.get("/api/clips/train/1999/frames/2").json()["index"] == 2
            assert app.get("/api/thumbnails/train/7").status_code == 200
            assert app.get("/api/failures").json()["of"] == 3


def test_of_object_storage_only_what_is_looked_at_is_read(s3, large):
    for path in large.rglob("*"):
        if path.is_file():
            s3.put(path.relative_to(large).as_posix(), path.read_bytes())
    with (
        running_app(s3.url, store=s3.options()) as address,
        httpx.Client(base_url=address) as app,
    ):
        assert positions(app, limit=3)[0] == [0, 1, 2]
        assert positions(app, motion_min=19.98)[0] == [1998, 1999]
        assert app.get("/api/clips/train/1999/frames/2").json()["index"] == 2
        assert app.get("/api/thumbnails/train/1999").status_code == 200
        assert app.get("/api/failures").json()["of"] == 3
    asked = [(request.target, request.headers.get("range")) for request in s3.proxy.requests]
    tars = [part for target, part in asked if target.endswith(".tar")]
    assert 0 < len(tars) <= 6
    assert all(part is not None for part in tars)
    spans = [[int(end) for end in part.removeprefix("bytes=").split("-")] for part in tars]
    assert sum(end - start + 1 for start, end in spans) < 100_000
    assert len(asked) <= 40, asked
