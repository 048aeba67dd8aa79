"""Options of the command line that are wrong end with a message that names them."""

import pytest

from gopstream.jobs import cli
from gopstream.jobs.command_options import StoreArguments
from gopstream.jobs.errors import UserError

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
