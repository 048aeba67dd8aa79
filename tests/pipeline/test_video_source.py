"""Videos from a folder, an S3 server that fails, and web servers of different skill."""

import errno
import http.server
import os
import socket
import subprocess
import sys
import threading

import pytest

from gopstream.pipeline.errors import SourceError, StoreError
from gopstream.pipeline.object_store import StoreOptions
from gopstream.pipeline.video_source import (
    list_files,
    local_pictures,
    local_video,
    video_address,
)

CONTENT = os.urandom(1 << 20) * 6
PATIENT = StoreOptions(patience_seconds=3)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    for name in ("b/2.mp4", "a b/1.mp4", "top.webm", "b/deep/\u00e4.mkv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


NAMES = ["a b/1.mp4", "b/2.mp4", "b/deep/\u00e4.mkv", "top.webm"]


def upload_folder(s3, folder, prefix):
    for name in NAMES:
        s3.put(f"{prefix}/{name}", (folder / name).read_bytes())
    s3.put(f"{prefix}-other/c.mp4", b"not below")


def read(root, name, **options):
    with local_video(root, name, **options) as path:
        return path.read_bytes()


def test_files_are_listed_alike_on_a_disk_and_in_a_bucket(folder, s3):
    assert list_files(str(folder)) == NAMES
    assert list_files(folder.as_uri()) == NAMES
    upload_folder(s3, folder, "some videos/v1")
    for root in (f"{s3.url}/some videos/v1", f"{s3.url}/some videos/v1/"):
        assert list_files(root, s3.options()) == NAMES
    assert len(list_files(s3.url, s3.options())) == 5


def test_linked_folders_are_listed_and_circles_end(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.mp4").write_bytes(b"x")
    (folder / "one").symlink_to(tmp_path / "elsewhere")
    (folder / "two").symlink_to(tmp_path / "elsewhere")
    (folder / "b" / "circle").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nothing")
    assert list_files(str(folder)) == sorted([*NAMES, "one/x.mp4", "two/x.mp4"])
    assert read(str(folder), "one/x.mp4") == b"x"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_files(str(tmp_path / "none"))


def test_a_web_server_cannot_be_listed():
    with pytest.raises(StoreError, match="https://host/a: a web server cannot be listed"):
        list_files("https://host/a?key=secret")


def test_a_local_video_is_the_file_itself(folder):
    with local_video(str(folder), "b/2.mp4") as path:
        assert path == folder / "b/2.mp4"
    assert path.exists()


def test_a_remote_video_is_a_temporary_file_of_the_same_name(folder, s3):
    upload_folder(s3, folder, "v")
    beats = []
    options = s3.options()
    with local_video(
        f"{s3.url}/v", NAMES[2], options=options, on_progress=lambda: beats.append(1)
    ) as path:
        assert path.read_bytes() == NAMES[2].encode()
        assert path.name == "\u00e4.mkv"
    assert not path.parent.exists()
    assert beats


def test_a_name_may_be_an_address_of_its_own(folder, s3):
    upload_folder(s3, folder, "v")
    assert read(str(folder), f"{s3.url}/v/top.webm", options=s3.options()) == b"top.webm"
    assert read("https://host/x", f"{s3.url}/v/top.webm", options=s3.options()) == b"top.webm"


@pytest.mark.parametrize("name", ["../videos.txt", "/etc/passwd", "b/../../x", "", "a\0b"])
def test_a_name_cannot_lead_out(folder, name):
    for root in (str(folder), "s3://bucket/videos"):
        for give in (local_video, local_pictures):
            with pytest.raises(SourceError, match="leads out"), give(root, name):
                pass


def test_what_is_not_there_is_a_file_not_found(folder, s3):
    for root, options in ((str(folder), StoreOptions()), (s3.url, s3.options())):
        for give in (local_video, local_pictures):
            with (
                pytest.raises(FileNotFoundError, match="none"),
                give(root, "none", options=options),
            ):
                pass


def test_folders_of_pictures_come_whole(tmp_path, s3):
    for number in range(3):
        s3.put(f"v/clip 1/{number:05d}.jpg", str(number).encode())
        (tmp_path / "clip 1").mkdir(exist_ok=True)
        (tmp_path / "clip 1" / f"{number:05d}.jpg").write_bytes(str(number).encode())
    s3.put("v/clip 10/00000.jpg", b"another")
    for root, options in ((str(tmp_path), StoreOptions()), (f"{s3.url}/v", s3.options())):
        with local_pictures(root, "clip 1", options=options) as path:
            assert path.name == "clip 1"
            found = {file.name: file.read_bytes() for file in path.iterdir()}
        assert found == {f"{number:05d}.jpg": str(number).encode() for number in range(3)}
        assert path.exists() == (root == str(tmp_path))


@pytest.mark.parametrize("status", [500, 503])
def test_errors_of_the_server_are_waited_for(s3, status):
    s3.put("a.mp4", CONTENT)
    s3.proxy.answer(status, times=2)
    assert read(s3.url, "a.mp4", options=s3.options()) == CONTENT
    s3.proxy.answer(status, times=2)
    assert list_files(s3.url, s3.options()) == ["a.mp4"]


@pytest.mark.parametrize("after", [0, 1, 1 << 20, len(CONTENT) - 1])
def test_a_download_that_is_cut_goes_on_where_it_ended(s3, after):
    s3.put("a.mp4", CONTENT)
    s3.proxy.cut_response(after=after, times=2)
    assert read(s3.url, "a.mp4", options=s3.options()) == CONTENT
    ranges = [request.headers.get("range", "") for request in s3.proxy.requests]
    assert len(ranges) > 1
    if after > 0:
        assert ranges[1].startswith(f"bytes={after}-")


@pytest.fixture
def short_tries(monkeypatch):
    """obstore gives up at once, as it does after ten seconds; the rest is ours."""
    monkeypatch.setattr("gopstream.pipeline.object_store._ONE_TRY_SECONDS", 0.01)


def test_a_download_goes_on_after_an_outage_longer_than_one_try(s3, short_tries):
    s3.put("a.mp4", CONTENT)
    s3.proxy.cut_response(after=1 << 20, times=1)
    s3.proxy.answer(503, times=6, matches=lambda request: "range" in request.headers)
    assert read(s3.url, "a.mp4", options=s3.options()) == CONTENT
    last = s3.proxy.requests[-1].headers
    assert last["range"].startswith(f"bytes={1 << 20}-")
    assert last["if-match"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_listing_waits_for_an_outage_longer_than_one_try(s3, status, short_tries):
    s3.put("a.mp4", CONTENT)
    s3.proxy.answer(status, times=4)
    assert list_files(s3.url, s3.options()) == ["a.mp4"]


def test_patience_begins_anew_when_bytes_arrive(s3, short_tries):
    """Each outage is shorter than the patience, all of them together are not."""
    s3.put("a.mp4", CONTENT)
    for _ in range(4):
        s3.proxy.cut_response(after=1 << 20, times=1)
        s3.proxy.answer(503, times=2)
    assert read(s3.url, "a.mp4", options=s3.options(patience=1.5)) == CONTENT


def test_a_listing_that_is_cut_is_asked_for_again(s3):
    s3.put("a.mp4", b"1")
    s3.proxy.cut_response(after=30, times=2)
    assert list_files(s3.url, s3.options()) == ["a.mp4"]


def test_a_server_that_goes_away_in_the_middle_is_waited_for(s3):
    s3.put("a.mp4", CONTENT)
    s3.proxy.cut_response(after=1 << 20, times=1)

    def leave(request):
        s3.proxy.before = None
        s3.proxy.go_away()
        threading.Timer(1, s3.proxy.come_back).start()

    s3.proxy.before = lambda request: setattr(s3.proxy, "before", leave)
    assert read(s3.url, "a.mp4", options=s3.options()) == CONTENT


def test_silence_in_the_middle_is_a_cut(s3):
    s3.put("a.mp4", CONTENT)
    s3.proxy.hang(after=1 << 20, times=1)
    assert read(s3.url, "a.mp4", options=s3.options(patience=1)) == CONTENT


def test_an_object_that_changes_meanwhile_is_an_error(s3):
    """Half of one video and half of another would decode to something."""
    s3.put("a.mp4", CONTENT)
    s3.proxy.cut_response(after=1 << 20, times=1)

    def change(request):
        if request.headers.get("range"):
            s3.proxy.before = None
            s3.put("a.mp4", CONTENT[::-1])

    s3.proxy.before = change
    with pytest.raises(SourceError, match=r"a\.mp4: the object changed while it was read"):
        read(s3.url, "a.mp4", options=s3.options())


def test_a_store_that_stays_away_is_a_clear_error(s3):
    with (
        s3.proxy.away_for(1.5),
        pytest.raises(StoreError, match=r"a\.mp4: downloading failed for \d+ seconds"),
    ):
        read(s3.url, "a.mp4", options=s3.options(patience=0.5))


SMALL_DISK = """
import resource, signal, sys
from gopstream.pipeline.object_store import StoreOptions
from gopstream.pipeline.video_source import local_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    options = StoreOptions(endpoint=sys.argv[2], region="us-east-1")
    with local_video(sys.argv[1], "a.mp4", options=options):
        pass
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_full_temporary_folder_is_the_disks_fault(s3):
    """A limit on files' sizes stands in for the disk."""
    s3.put("a.mp4", CONTENT)
    command = [sys.executable, "-c", SMALL_DISK, s3.url, s3.proxy.url]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.split() == ["OSError", str(errno.EFBIG)]


class WebServer(http.server.BaseHTTPRequestHandler):
    """A server without ranges, like Python's own; cuts the first answers of ``cut``."""

    protocol_version = "HTTP/1.1"
    cuts = 0

    def log_message(self, *words):
        pass

    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path.startswith("/gone"):
            self.send_error(410)
            return
        if self.path.startswith(("/busy", "/secret")):
            is_secret = self.path.startswith("/secret")
            self.send_error(403 if is_secret else 503)
            return
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path.startswith("/cut") and self.server.paths.count(self.path) < 3:
            self.wfile.write(CONTENT[: 2 << 20])
            self.close_connection = True
            return
        self.wfile.write(CONTENT)


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebServer)
    server.paths = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_videos_come_from_web_servers(web):
    assert read(f"{web.url}/folder", "a b%/c.mp4", options=PATIENT) == CONTENT
    assert web.paths == ["/folder/a%20b%25/c.mp4"]


def test_a_query_is_a_part_of_an_address(web):
    address = f"{web.url}/a%20b.mp4?sig=x%2Fy&n=1"
    with local_video("unused", address, options=PATIENT) as path:
        assert path.read_bytes() == CONTENT
        assert path.name == "a b.mp4"
    assert web.paths == ["/a%20b.mp4?sig=x%2Fy&n=1"]


def test_a_web_server_without_ranges_is_asked_for_all_again(web):
    assert read(web.url, "cut.mp4", options=PATIENT) == CONTENT
    assert web.paths == ["/cut.mp4"] * 3


def test_what_a_web_server_does_not_give_is_that_videos_fault(web):
    """The others of the list may be elsewhere; and a signature is not for reports."""
    with pytest.raises(SourceError, match=r"gone.mp4: downloading .*410") as raised:
        read("unused", f"{web.url}/gone.mp4?signature=hush", options=PATIENT)
    assert "hush" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4: not there"):
        read("unused", f"{web.url}/missing.mp4", options=PATIENT)
    web.shutdown()
    web.server_close()
    with pytest.raises(SourceError, match=r"a\.mp4: downloading failed for \d+ seconds"):
        read(web.url, "a.mp4", options=StoreOptions(patience_seconds=0.3))


def test_what_a_web_server_refuses_is_said_with_words_for_web_servers(web):
    """No store, no credentials of ours, and the job goes on without it."""
    for name, message in (
        ("secret.mp4", r"downloading was refused \(403\); the web server does not give it"),
        ("gone.mp4", r"downloading failed for 0 seconds: .*410 Gone"),
        ("busy.mp4", r"downloading failed for \d seconds: .*503"),
    ):
        with pytest.raises(SourceError, match=message) as raised:
            read(web.url, name, options=StoreOptions(patience_seconds=0.3))
        assert "--retry-failed tries it again" in str(raised.value)
        for word in ("store", "credentials", "What is finished", "same command"):
            assert word not in str(raised.value)


def test_dead_links_are_given_up_long_before_patience_ends(short_tries, monkeypatch, s3, web):
    """A minute, here shortened, where nobody answers; a server that answers has all of it."""
    monkeypatch.setattr("gopstream.pipeline.object_store._DEAD_LINK_SECONDS", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for root in (dead, "http://no-such-host.invalid"):
            with pytest.raises(
                SourceError, match=r"downloading failed for [0-4] seconds: .*sending"
            ):
                read(root, "a.mp4", options=StoreOptions(patience_seconds=8))
    with pytest.raises(SourceError, match="downloading failed for [12] seconds: .*503"):
        read(web.url, "busy.mp4", options=StoreOptions(patience_seconds=2))
    s3.put("a.mp4", CONTENT)
    with s3.proxy.away_for(1.5):  # a store's patience is as it was
        assert read(s3.url, "a.mp4", options=s3.options(patience=60)) == CONTENT


def test_patience_below_a_minute_holds_for_web_servers_too(short_tries):
    with pytest.raises(SourceError, match="downloading failed for 0 seconds"):
        read("http://127.0.0.1:9", "a.mp4", options=StoreOptions(patience_seconds=0.3))


def test_addresses_are_put_together():
    assert video_address("s3://b/v/", "a b.mp4") == "s3://b/v/a b.mp4"
    assert video_address("https://h/v", "a b.mp4") == "https://h/v/a%20b.mp4"
    assert video_address("/local", "https://h/v?x=1") == "https://h/v?x=1"
