"""Addresses, and credentials that end in the middle of the work."""

import http.server
import json
import os
import pickle
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.object_store import (
    StoreOptions,
    is_address,
    local_path,
    open_place,
)
from gopstream.pipeline.store_credentials import CommandCredentials, ProfileCredentials
from gopstream.pipeline.store_errors import explain
from gopstream.pipeline.video_source import list_files, local_video
from gopstream.shards.object_storage import ObjectStorage
from gopstream.shards.storage import open_storage

# Prints K1, K2, ... with the lifetime that it is given, and counts in a file.
COMMAND = """
import datetime, json, pathlib, sys
counter = pathlib.Path(sys.argv[1])
number = int(counter.read_text()) + 1
counter.write_text(str(number))
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=float(sys.argv[2]))
print(json.dumps({"Version": 1, "AccessKeyId": f"K{number}", "SecretAccessKey": "s",
    "SessionToken": "t", "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")}))
"""


@pytest.fixture
def command(tmp_path):
    """A credentials command: lifetime in seconds -> command line; ``count()`` of its runs."""
    script, counter = tmp_path / "credentials.py", tmp_path / "counter"
    script.write_text(COMMAND)
    counter.write_text("0")

    def make(seconds):
        return f"'{sys.executable}' '{script}' '{counter}' {seconds}"

    make.count = lambda: int(counter.read_text())
    return make


@pytest.mark.parametrize(
    "place", ["s3://bucket", "s3://bucket/a b", "gs://b/x", "https://host/a.mp4", "S3://b"]
)
def test_addresses_are_known(place):
    assert is_address(place)


@pytest.mark.parametrize(
    "place", ["/data/videos", "videos", "c:/x", "file:///data", "a/s3://b", "FILE:///x", ""]
)
def test_local_places_are_known(place):
    assert not is_address(place)


def test_a_file_address_is_a_local_path(tmp_path):
    path = tmp_path / "a b%c"
    assert local_path(path.as_uri()) == path
    assert local_path("some/folder").as_posix() == "some/folder"


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("S3:/", "S3://"),
        ("https:/host/a.mp4", "https://host/a.mp4"),
        ("file:/x/y", "file:///x/y"),
    ],
)
def test_an_address_that_lacks_a_slash_is_no_local_folder(place, meant):
    """A dataset would be written to a folder named after the scheme."""
    message = rf"^{place}: an address has two slashes; write {meant}, or \./{place} if a folder"
    for use in (local_path, list_files, open_storage):
        with pytest.raises(StoreError, match=message):
            use(place)
    with pytest.raises(StoreError, match=message), local_video(place, "a.mp4"):
        pass


@pytest.mark.parametrize("place", ["c:/x", "./s3:/x", "/data/s3:/x", "s3:x", "a b:/x", "s3:"])
def test_colons_in_local_places_are_allowed(place):
    assert local_path(place) == Path(place)


@pytest.mark.parametrize("address", ["ftp://host/a", "s3://", "s3:///folder", "memory:///a"])
def test_unknown_addresses_are_refused_with_those_that_are_known(address):
    with pytest.raises(StoreError, match=r"not an address of object storage; give s3://BUCKET"):
        open_place(address, StoreOptions())


def test_options_travel_to_other_processes():
    options = StoreOptions(patience_seconds=3, endpoint="http://x", credentials_command="run me")
    assert pickle.loads(pickle.dumps(options)) == options


def test_a_key_may_have_any_characters(s3):
    s3.put("a%20b/c+d#e?f/x y", b"1")
    storage = ObjectStorage(f"{s3.url}/a%20b/c+d#e?f", s3.options())
    assert storage.read("x y") == b"1"
    assert storage.list_names("") == ["x y"]


def test_the_environment_is_read_by_the_store(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.proxy.url)
    ObjectStorage(s3.url, StoreOptions(region="us-east-1")).list_folders()
    assert s3.proxy.requests[-1].access_key == "from-environment"


def test_an_endpoint_that_is_given_goes_before_those_of_the_environment(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert ObjectStorage(s3.url, s3.options(patience=0.2)).list_folders() == []


def test_anonymous_requests_are_not_signed(s3):
    ObjectStorage(s3.url, s3.options(anonymous=True)).list_folders()
    assert "authorization" not in s3.proxy.requests[-1].headers


def test_a_place_that_refuses_anonymous_access_blames_no_credentials(s3):
    storage = ObjectStorage(s3.url, s3.options(anonymous=True))
    s3.proxy.answer(403, times=9)
    for use in (storage.list_folders, lambda: storage.read("a")):
        with pytest.raises(StoreError, match="the place does not allow anonymous access") as raised:
            use()
        assert "leave --anonymous out, and give --profile" in str(raised.value)
        assert "credentials are wrong" not in str(raised.value)


def test_missing_credentials_name_the_options_that_give_some(s3):
    """obstore asks the metadata server of an instance at last; a test's machine may have one."""
    error = GenericError("Generic S3 error: PUT http://169.254.169.254/latest/api/token failed")
    place = open_place(s3.url, s3.options())
    message = str(explain(error, place=place, what="listing", seconds=1))
    assert message.startswith(f"{s3.url}: no credentials were found; ")
    words = "--profile AWS_PROFILE --credentials-command AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY"
    for word in [*words.split(), "--anonymous"]:
        assert word in message


def test_a_profile_without_credentials_names_the_other_ways(tmp_path, monkeypatch):
    pytest.importorskip("botocore")
    config = tmp_path / "config"
    config.write_text("[profile empty]\nregion = us-east-1\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="'empty' holds no credentials; give --profile .* --anon"):
        ProfileCredentials("empty")


def test_missing_boto3_names_the_other_ways(monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)  # as of what is not there
    with pytest.raises(StoreError, match="pip install boto3; or .* --credentials-command"):
        ProfileCredentials("work")


def test_credentials_of_a_command_are_used_until_they_end(s3, command):
    storage = ObjectStorage(s3.url, s3.options(credentials_command=command(3600)))
    storage.write("a", b"1")
    assert storage.read("a") == b"1"
    assert {request.access_key for request in s3.proxy.requests} == {"K1"}
    assert command.count() == 1


def test_new_credentials_are_made_before_the_old_end_in_the_middle_of_an_upload(s3, command):
    """The server takes each key for four seconds from its first use, as its Expiration says."""
    valid = {}

    def expire(request):
        now = datetime.now(UTC)
        valid.setdefault(request.access_key, now + timedelta(seconds=4))
        s3.proxy.valid_keys = {key for key, end in valid.items() if now < end}

    s3.proxy.before = expire
    storage = ObjectStorage(s3.url, s3.options(credentials_command=command(4)))
    started = datetime.now(UTC)
    with storage.create("a") as writer:
        num_blocks = 0
        while datetime.now(UTC) < started + timedelta(seconds=5):
            writer.write(bytes(9 << 20))
            writer.mark()
            num_blocks += 1
            time.sleep(0.4)  # a video takes its time
        writer.publish()
    keys = {request.access_key for request in s3.proxy.requests}
    assert len(keys) >= 3
    assert command.count() <= 6, "not for each request"
    assert s3.client.head_object(Bucket=s3.name, Key="a")["ContentLength"] == num_blocks * 9 << 20


def test_refused_credentials_are_made_anew_once(s3, command):
    """A key that was withdrawn before its time."""
    storage = ObjectStorage(s3.url, s3.options(credentials_command=command(3600)))
    storage.list_folders()
    s3.proxy.valid_keys = {"K2"}
    assert storage.list_folders() == []
    assert command.count() == 2
    s3.proxy.valid_keys = set()
    with pytest.raises(StoreError, match="listing was refused"):
        storage.list_folders()
    assert command.count() == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("no-such-command --x", "cannot be started"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"log in first\")'", "status 1: log in first"),
        (f"{sys.executable} -c 'print(1)'", "must print JSON with AccessKeyId"),
        ('echo \'{"AccessKeyId": "secret-key"}\'', "must print JSON with AccessKeyId"),
        ("echo 'unbalanced", "cannot be started"),
    ],
)
def test_a_credentials_command_that_fails_is_named_at_once(s3, words, message):
    storage = ObjectStorage(s3.url, s3.options(credentials_command=words))
    for use in (storage.list_folders, lambda: storage.write("a", b"1")):
        with pytest.raises(StoreError, match=message):
            use()
    with pytest.raises(StoreError, match=message), storage.create("a") as writer:
        writer.write(b"1")
        writer.publish()
    assert s3.keys() == []


def test_what_a_credentials_command_prints_is_kept_to_ourselves(s3, tmp_path):
    output = tmp_path / "output"
    output.write_text('{"AccessKeyId": "A", "SecretAccessKey": "hush"')
    storage = ObjectStorage(s3.url, s3.options(credentials_command=f"cat '{output}'"))
    with pytest.raises(StoreError, match="must print JSON") as raised:
        storage.list_folders()
    assert "hush" not in str(raised.value)


def test_while_the_old_credentials_are_good_a_failing_command_does_no_harm(tmp_path):
    output = tmp_path / "output"
    end = datetime.now(UTC) + timedelta(seconds=100)
    content = {"AccessKeyId": "K1", "SecretAccessKey": "s", "Expiration": end.isoformat()}
    output.write_text(json.dumps(content))
    credentials = CommandCredentials(f"cat '{output}'", patience_seconds=600)
    assert credentials()["access_key_id"] == "K1"
    credentials._renew_at = datetime.now(UTC)  # half of its life is over
    output.unlink()
    assert credentials()["access_key_id"] == "K1"
    credentials._renew_at = credentials._expires_at = datetime.now(UTC)
    with pytest.raises(StoreError, match="ended with status 1"):
        credentials()


def test_a_profile_is_read_from_awss_files_and_renewed(s3, command, tmp_path, monkeypatch):
    """botocore renews what has less than ten minutes left; nothing holds it longer than that."""
    pytest.importorskip("botocore")
    config = tmp_path / "config"
    config.write_text(f"[profile work]\ncredential_process = {command(300)}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage = ObjectStorage(s3.url, s3.options(profile="work"))
    storage.list_folders()
    time.sleep(0.2)  # the store asks at most every 100 ms
    storage.list_folders()
    first, second = (request.access_key for request in s3.proxy.requests)
    assert first.startswith("K") and second.startswith("K") and first != second


def test_a_profile_whose_credentials_cannot_be_renewed_is_named(s3, command, tmp_path, monkeypatch):
    pytest.importorskip("botocore")
    config = tmp_path / "config"
    config.write_text(f"[profile old]\ncredential_process = {command(-10)}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage = ObjectStorage(s3.url, s3.options(profile="old"))
    with pytest.raises(StoreError, match="credentials of the profile 'old' cannot be renewed"):
        storage.list_folders()


def test_a_profile_that_does_not_exist_is_named(s3, tmp_path, monkeypatch):
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="the profile 'play' cannot be used"):
        ObjectStorage(s3.url, s3.options(profile="play"))


class ContainerRole(http.server.BaseHTTPRequestHandler):
    """What a container's role asks for credentials; each lasts four minutes."""

    def log_message(self, *words):
        pass

    def do_GET(self):
        self.server.count += 1
        end = datetime.now(UTC) + timedelta(minutes=4)
        content = {"AccessKeyId": f"R{self.server.count}", "SecretAccessKey": "s", "Token": "t"}
        body = json.dumps(content | {"Expiration": end.isoformat(), "Code": "Success"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_roles_are_renewed_by_the_store_itself(s3, tmp_path, monkeypatch):
    """obstore does it when less than five minutes are left; nothing here may switch that off."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ContainerRole) as server:
        server.count = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        (tmp_path / "token").write_text("token")
        uri = f"http://127.0.0.1:{server.server_port}/role"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        storage = ObjectStorage(s3.url, s3.options())
        storage.list_folders()
        time.sleep(0.2)
        storage.list_folders()
        server.shutdown()
    assert [request.access_key for request in s3.proxy.requests] == ["R1", "R2"]
