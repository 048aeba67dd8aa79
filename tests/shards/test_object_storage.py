"""A dataset on a real S3 server that fails in the ways servers fail.

What is protected: an object is whole or absent, its bytes are those that were written, and what
cannot be done ends in one clear error after the configured patience.
"""

import hashlib
import http.client
import http.server
import ipaddress
import os
import pickle
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.dataset_files import FileRecord
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.storage import open_storage
from gopstream.shards.tar import TarWriter
from s3_server import EXPIRED, wait_until

UNSIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
# The smallest that S3 takes.
PART_BYTES = 5 << 20
# Two parts and a bit.
CONTENT = os.urandom(1 << 20) * 12


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    """Parts that are small, and single tries that are over long before patience is."""
    monkeypatch.setattr("gopstream.shards.object_storage.PART_BYTES", PART_BYTES)
    monkeypatch.setattr("gopstream.pipeline.object_store._ONE_TRY_SECONDS", 0.05)


def is_part(request):
    return request.is_part


def is_complete(request):
    return request.method == "POST" and "uploadId=" in request.target


def is_create(request):
    return request.method == "POST" and "uploads" in request.target


def is_listing(request):
    return "list-type" in request.target


def upload(storage, name="a", content=CONTENT):
    with storage.create(name) as writer:
        for start in range(0, len(content), 1 << 20):
            writer.write(content[start : start + (1 << 20)])
            writer.mark()
        writer.publish()


def check(s3, name="a", content=CONTENT):
    assert s3.keys() == [name]
    assert s3.content(name) == content


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("matches", [is_create, is_part, is_complete])
def test_an_upload_survives_errors_of_the_server(s3, status, matches):
    fault = s3.proxy.answer(status, times=2, matches=matches)
    upload(ObjectStorage(s3.url, s3.options()))
    assert fault.times == 0
    check(s3)
    assert s3.unfinished() == []


@pytest.mark.parametrize("after", [0, 100_000])
def test_an_upload_survives_cut_requests(s3, after):
    fault = s3.proxy.cut_request(after=after, times=2, matches=is_part)
    upload(ObjectStorage(s3.url, s3.options()))
    assert fault.times == 0
    check(s3)


@pytest.mark.parametrize("matches", [is_create, is_part, is_complete])
def test_an_upload_survives_cut_answers(s3, matches):
    fault = s3.proxy.cut_response(after=0, times=1, matches=matches)
    upload(ObjectStorage(s3.url, s3.options()))
    assert fault.times == 0
    check(s3)


def test_an_upload_survives_a_server_that_falls_silent(s3):
    fault = s3.proxy.hang(after=0, times=1, matches=is_part)
    upload(ObjectStorage(s3.url, s3.options(patience=2)))
    assert fault.times == 0
    check(s3)


def test_an_upload_survives_a_server_that_is_away_for_a_while(s3):
    storage = ObjectStorage(s3.url, s3.options())
    with storage.create("a") as writer:
        writer.write(CONTENT[: PART_BYTES + 1])
        writer.mark()
        wait_until(lambda: s3.proxy.count(is_part) > 0)
        with s3.proxy.away_for(1.5):
            writer.write(CONTENT[PART_BYTES + 1 :])
            writer.publish()
    check(s3)


@pytest.mark.parametrize("status", [500, 503])
def test_all_else_survives_errors_of_the_server(s3, status):
    storage = ObjectStorage(s3.url, s3.options())
    for action, expected in (
        (lambda: storage.write("d/a", b"1"), None),
        (lambda: storage.read("d/a"), b"1"),
        (lambda: storage.size("d/a"), 1),
        (lambda: storage.exists("d/a"), True),
        (lambda: storage.list_names("d"), ["a"]),
        (storage.list_folders, ["d"]),
        (lambda: storage.delete("d/a"), None),
    ):
        fault = s3.proxy.answer(status, times=2)
        assert action() == expected
        assert fault.times == 0
    assert s3.keys() == []


def test_all_else_survives_cut_answers(s3):
    storage = ObjectStorage(s3.url, s3.options())
    for action, expected in (
        (lambda: storage.write("d/a", b"12"), None),
        (lambda: storage.read("d/a"), b"12"),
        (lambda: storage.list_names("d"), ["a"]),
        (lambda: storage.delete("d/a"), None),
    ):
        cut = s3.proxy.cut_response(after=0, times=1)
        assert action() == expected
        assert cut.times == 0


def test_answers_that_end_in_the_middle_are_asked_for_again(s3):
    storage = ObjectStorage(s3.url, s3.options())
    s3.put("d/a", b"12")
    for action, expected in (
        (lambda: storage.read("d/a"), b"12"),
        (lambda: storage.list_names("d"), ["a"]),
        (storage.list_folders, ["d"]),
    ):
        cut = s3.proxy.cut_response(after=1, times=2)
        assert action() == expected
        assert cut.times == 0


def test_a_server_that_falls_silent_is_asked_again(s3):
    storage = ObjectStorage(s3.url, s3.options(patience=0.6))
    s3.put("d/a", b"12")
    for action, expected in (
        (lambda: storage.read("d/a"), b"12"),
        (lambda: storage.list_names("d"), ["a"]),
        (lambda: storage.delete("d/a"), None),
    ):
        silent = s3.proxy.hang(after=0, times=1)
        assert action() == expected
        assert silent.times == 0


def test_a_server_that_stays_away_is_a_clear_error(s3):
    storage = ObjectStorage(f"{s3.url}/set", s3.options(patience=0.5))
    with s3.proxy.away_for(2):
        with pytest.raises(StoreError, match=rf"{s3.url}/set/a: reading failed for \d+ seconds"):
            storage.read("a")
        with pytest.raises(StoreError, match=r"listing failed .* run the same command again"):
            storage.list_folders()
        with pytest.raises(StoreError, match=r"writing failed"):
            storage.write("a", b"1")


@pytest.fixture
def short_contact(monkeypatch):
    """What has never answered is soon given up; each test has words of its own to say."""
    monkeypatch.setattr("gopstream.pipeline.object_store._FIRST_CONTACT_SECONDS", 0.2)
    monkeypatch.setattr("gopstream.pipeline.object_store._SAID_AT", {})


def test_a_store_that_cannot_be_reached_is_soon_given_up_by_readers(s3, short_contact):
    storage = open_storage(f"{s3.url}/set", s3.options(patience=3))
    s3.proxy.go_away()
    server = s3.proxy.url
    with pytest.raises(
        StoreError,
        match=rf"{s3.url}/set/a: {server} cannot be reached \(Connection refused\), tried for 0",
    ) as raised:
        storage.read("a")
    assert "--endpoint" in str(raised.value) and "run the same command" not in str(raised.value)
    with pytest.raises(StoreError, match="cannot be reached"):  # still: it has never answered
        storage.list_folders()


@contextmanager
def secured_server(folder):
    """A server whose certificate nobody has signed, or without TLS if there is no folder."""
    silent = {"log_message": lambda *_: None}
    handler = type("Handler", (http.server.BaseHTTPRequestHandler,), silent)
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None
    if folder is not None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2120, 1, 1))
        made = made.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem += key.private_bytes(serialization.Encoding.PEM, *form)
        (folder / "pem").write_bytes(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("no name", "failed to lookup address"),
        ("no TLS", r"it does not speak TLS: perhaps http://"),
        ("no signature", r"its certificate is not accepted: \w+\)"),
    ],
)
def test_why_a_store_cannot_be_reached_is_said(short_contact, tmp_path, kind, cause):
    with secured_server(tmp_path if kind == "no signature" else None) as server:
        host = "https://no-such-host.invalid" if kind == "no name" else server
        web = open_storage(f"{host}/set", StoreOptions(patience_seconds=2))
        with pytest.raises(StoreError, match=rf"the server cannot be reached \({cause}.*address"):
            web.size("dataset.json")
        options = StoreOptions(
            endpoint=host, region="us-east-1", patience_seconds=2, anonymous=True
        )
        bucket = open_storage("s3://bucket/set", options)
        with pytest.raises(StoreError, match=rf"{host} cannot be reached \({cause}"):
            bucket.read("dataset.json")


def test_a_server_that_has_never_said_a_word_is_soon_given_up(s3, short_contact):
    storage = open_storage(f"{s3.url}/set", s3.options(patience=1))  # silence ends after half of it
    silent = s3.proxy.hang(after=0, times=100)
    with pytest.raises(StoreError, match=r"cannot be reached \(it does not answer\)"):
        storage.read("a")
    assert silent.times == 99


@pytest.mark.parametrize("answer", ["content", "absent", "slow down"])
def test_a_store_that_has_answered_once_has_all_patience(s3, short_contact, answer):
    storage = open_storage(f"{s3.url}/set", s3.options(patience=20))
    s3.put("set/a", b"12")
    if answer == "content":
        storage.read("a")
    elif answer == "absent":
        assert not storage.exists("b")
    else:
        s3.proxy.answer(503, times=3)
        storage.read("a")
    travelled = pickle.loads(pickle.dumps(storage))
    for one in (storage, travelled):
        with s3.proxy.away_for(0.8):
            assert one.read("a") == b"12"


@pytest.mark.parametrize("write", [False, True])
def test_a_job_that_writes_may_begin_while_its_store_is_away(s3, short_contact, write):
    s3.put("set/a", b"12")
    storage = open_storage(f"{s3.url}/set", s3.options(patience=20), for_writing=not write)
    with s3.proxy.away_for(0.8):
        if write:
            storage.write("a", b"12")
        else:
            assert storage.read("a") == b"12"


def test_a_server_that_is_busy_at_first_has_all_patience(s3, short_contact):
    storage = open_storage(f"{s3.url}/set", s3.options(patience=20))
    s3.put("set/a", b"12")
    busy = s3.proxy.answer(503, times=6)
    assert storage.read("a") == b"12"
    assert busy.times == 0


def test_readers_are_not_told_of_work_that_is_kept(s3):
    storage = open_storage(f"{s3.url}/set", s3.options(patience=0.4))
    assert not storage.exists("a")
    with s3.proxy.away_for(1), pytest.raises(StoreError, match="reading failed for") as raised:
        storage.read("a")
    assert "kept" not in str(raised.value)
    s3.proxy.valid_keys = {"another"}
    with pytest.raises(StoreError, match="or do not allow it$"):
        storage.read("a")


def test_waiting_for_a_store_is_said_once(s3, short_contact, monkeypatch, caplog):
    monkeypatch.setattr("gopstream.pipeline.object_store._SILENT_WAIT_SECONDS", 0.3)
    storage = open_storage(f"{s3.url}/set", s3.options(patience=20))
    s3.put("set/a", b"12")
    assert storage.read("a") == b"12"
    assert caplog.messages == []
    for _ in range(2):
        with s3.proxy.away_for(1.0):
            assert storage.read("a") == b"12"
    (message,) = caplog.messages
    assert message.startswith(f"{s3.url}/set/a: reading has failed for 0 seconds (Connection ref")
    assert message.endswith("given up after about 20 seconds")
    assert {record.name for record in caplog.records} == {"gopstream"}


def test_an_upload_to_a_server_that_stays_away_fails_and_leaves_no_object(s3):
    storage = ObjectStorage(s3.url, s3.options(patience=0.5))
    with s3.proxy.away_for(1.5), pytest.raises(StoreError, match="a: uploading failed for"):
        upload(storage)
    assert s3.keys() == []


def test_after_an_error_nothing_more_is_taken(s3):
    """A video's error is a row of the report; an object with a hole must not be published."""
    storage = ObjectStorage(s3.url, s3.options())
    s3.proxy.answer(400, times=1, matches=is_part)
    with storage.create("a") as writer:
        with pytest.raises(StoreError, match="uploading failed"):
            for _ in range(100):
                writer.write(bytes(PART_BYTES))
                writer.mark()
        for use in (lambda: writer.write(b"1"), writer.mark, writer.publish):
            with pytest.raises(StoreError, match="uploading failed"):
                use()
    assert s3.keys() == []
    assert s3.unfinished() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_upload_that_is_left_is_aborted(s3, error):
    storage = ObjectStorage(s3.url, s3.options())
    with pytest.raises(error), storage.create("a") as writer:
        writer.write(CONTENT)
        writer.mark()
        assert s3.unfinished() == ["a"]
        raise error
    assert s3.unfinished() == []
    assert s3.keys() == []


def test_what_may_still_be_dropped_is_not_sent(s3):
    storage = ObjectStorage(s3.url, s3.options())
    with storage.create("a") as writer:
        mark = writer.mark()
        writer.write(CONTENT)
        assert s3.proxy.count() == 0
        writer.rewind(mark)
        writer.write(b"1")
        writer.publish()
    assert s3.content("a") == b"1"


def test_only_the_last_mark_can_be_gone_back_to(s3):
    with ObjectStorage(s3.url, s3.options()).create("a") as writer:
        first = writer.mark()
        writer.write(b"1")
        writer.mark()
        with pytest.raises(AssertionError, match="only the last mark"):
            writer.rewind(first)


BIG_UPLOAD = """
import re, sys
from pathlib import Path
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.storage import open_storage
storage = open_storage(sys.argv[1], StoreOptions(endpoint=sys.argv[2], region="us-east-1"))
storage.write("small", b"1")
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
with storage.create("large") as writer:
    for _ in range(20):
        writer.mark()
        for _ in range(13):
            writer.write(bytes(1 << 20))
    writer.publish()
print(peak() - before)
"""


def test_a_large_object_needs_little_memory(s3):
    """260 MiB, made of videos of 13 MiB."""
    server = f"http://127.0.0.1:{s3.proxy.upstream}"
    command = [sys.executable, "-c", BIG_UPLOAD, s3.url, server]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert kilobytes < 64 << 10
    assert s3.client.head_object(Bucket=s3.name, Key="large")["ContentLength"] == 260 << 20


def test_a_tar_with_a_dropped_video_is_the_tar_without_it(s3, tmp_path):
    """The same bytes and sha256 as on a disk."""
    from gopstream.shards.storage import LocalStorage

    facts = []
    for storage in (ObjectStorage(s3.url, s3.options()), LocalStorage(tmp_path)):
        with TarWriter(storage, "a.tar") as tar:
            tar.add("one", CONTENT[:1000])
            mark = tar.mark()
            tar.add("bad", CONTENT)
            tar.rewind(mark)
            tar.add("two", CONTENT[:2000])
            facts.append(tar.publish())
    assert facts[0] == facts[1]
    content = s3.content("a.tar")
    assert content == (tmp_path / "a.tar").read_bytes()
    assert facts[0] == FileRecord(len(content), hashlib.sha256(content).hexdigest())


def test_more_objects_than_one_page_are_listed(s3):
    storage = ObjectStorage(s3.url, s3.options())
    connection = http.client.HTTPConnection("127.0.0.1", s3.proxy.upstream)
    for number in range(1001):  # a page has 1000
        connection.request("PUT", f"/{s3.name}/train/{number:04d}", headers=UNSIGNED)
        connection.getresponse().read()
    assert storage.list_names("train") == [f"{i:04d}" for i in range(1001)]


def test_a_bucket_that_does_not_exist_is_named(s3):
    storage = ObjectStorage(f"{s3.url}-no/set", s3.options())
    for use in (
        storage.list_folders,
        lambda: storage.read("a"),
        lambda: storage.write("a", b"1"),
        lambda: upload(storage),
    ):
        with pytest.raises(StoreError, match=rf"{s3.url}-no/set.*: there is no such bucket"):
            use()


def test_refused_credentials_are_named_at_once(s3):
    storage = ObjectStorage(s3.url, s3.options())
    s3.proxy.valid_keys = {"another"}
    for use in (
        storage.list_folders,
        lambda: storage.read("a"),
        lambda: storage.write("a", b"1"),
        lambda: upload(storage),
    ):
        before = s3.proxy.count()
        with pytest.raises(StoreError, match=r"was refused \(ExpiredToken\); the credentials"):
            use()
        assert s3.proxy.count() - before <= 2
    assert b"ExpiredToken" in EXPIRED
