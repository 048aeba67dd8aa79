"""Options of the command line that are wrong end with a message that names them."""

import math
import re
from pathlib import Path

import pytest

from gopstream.jobs import cli
from gopstream.jobs.command_options import ReadingArguments, StoreArguments
from gopstream.jobs.errors import UserError
from gopstream.shards.byte_ranges import Cache, ReadOptions

VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
NO_ADDRESSES = [
    "127.0.0.1:9",
    "localhost",
    "localhost:9000",
    "",
    "http://",
    "http:/host",
    "http://:9",
    "http://host:port",
    "http://host:99999",
    "http://[::1",
    "http://-",
    "http://h h",
    "http://h/a b",
    "http://h\n",
    "http://h?x=1",
    "http://b\u00fccher.example",
    "ftp://host",
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("endpoint", NO_ADDRESSES)
def test_an_endpoint_that_is_not_an_address_is_named(endpoint, monkeypatch):
    """The object store would panic at it."""
    with pytest.raises(UserError, match=r"^--endpoint must be an address such as http://HOST"):
        StoreArguments(endpoint=endpoint).options()
    for name in VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, endpoint)
            with pytest.raises(UserError, match=rf"^{name} must be an address") as raised:
                StoreArguments().options()
            assert repr(endpoint) in str(raised.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9",
        "https://s3.example.com",
        "HTTP://[::1]:9000/",
        "https://storage_1.local:65535/a/b~c%20",
    ],
)
def test_endpoints_are_taken_as_they_are(endpoint, monkeypatch):
    assert StoreArguments(endpoint=endpoint).options().endpoint == endpoint
    for name in VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, endpoint)
            assert StoreArguments().options().endpoint == endpoint
    assert StoreArguments().options().endpoint is None


def test_the_option_goes_before_the_variables_and_the_one_of_s3_before_the_others(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, f"http://{name}")
    assert StoreArguments().options().endpoint == "http://AWS_ENDPOINT_URL_S3"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert StoreArguments(endpoint="http://x").options().endpoint == "http://x"


def test_a_command_says_it_without_a_traceback(capsys):
    words = ["merge", "s3://bucket/set", "--endpoint", "127.0.0.1:9"]
    assert cli.main(words) != 0
    said = capsys.readouterr().err
    assert "--endpoint must be an address" in said
    assert "Traceback" not in said and "panic" not in said


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds the folder 'held'."""
    (tmp_path / "held").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of-mine")


@pytest.mark.parametrize(
    ("arguments", "cache"),
    [
        ({}, "auto"),
        ({"cache": "off"}, None),
        ({"cache": "/scratch/me", "cache_gb": 2}, Cache(Path("/scratch/me"), 2 * 10**9)),
        ({"cache": "./auto", "cache_gb": 0.5}, Cache(Path("auto"), 5 * 10**8)),
        ({"cache": "held", "cache_gb": 1e-9}, Cache(Path("held"), 1)),
        ({"cache": "~/a", "cache_gb": 1}, Cache(Path("/home/of-mine/a"), 10**9)),
        ({"cache": "/scratch/me"}, Cache(Path("/scratch/me"))),
        ({"cache_gb": 5}, Cache(max_bytes=5 * 10**9)),
    ],
)
def test_the_cache_is_the_one_that_was_named(here, arguments, cache):
    assert ReadingArguments(**arguments).options() == ReadOptions(cache=cache)
    if cache is not None:
        whole = ReadingArguments(**arguments, fetch="shards").options()
        assert whole == ReadOptions(cache=cache, fetch="shards")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"cache": "off", "cache_gb": 5}, "--cache-gb is the size of a cache, got --cache off"),
        ({"cache": "none", "cache_gb": 5}, "--cache must be auto, off or a folder such as"),
        ({"cache": "Auto"}, "--cache must be auto, off or a folder such as ./cache, got 'Auto'"),
        ({"cache": ""}, "--cache must be auto, off or a folder such as ./cache, got ''"),
        ({"cache": "s3://a/b", "cache_gb": 5}, "--cache must be auto, off or a folder"),
        ({"cache": "off", "fetch": "shards"}, "--fetch shards needs a cache, got --cache off"),
        *[
            ({"cache": cache, "cache_gb": size}, f"--cache-gb must be a size above 0, got {size:g}")
            for cache in ("/scratch", "auto", "off")
            for size in (0.0, -1.0, 1e-12, math.inf, -math.inf, math.nan)
        ],
    ],
)
def test_reading_that_cannot_be_meant_is_refused(here, arguments, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        ReadingArguments(**arguments).options()
