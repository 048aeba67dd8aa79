"""Object storage: what an address is, how it is opened, and how long we are patient with it.

S3 and what speaks its protocol is tested. The other stores of obstore (``gs://``, ``az://``) are
opened the same way and are not. Web servers (``http://``, ``https://``) are for reading.

The environment variables that obstore reads itself (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``, roles of instances, containers and web identities, ...) hold where the
options say nothing.

A job that is killed cannot abort its uploads. The bucket needs a lifecycle rule that removes
incomplete multipart uploads after some days, or they cost money for ever.
"""

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.forked_client import leave_client_behind
from gopstream.pipeline.store_credentials import CommandCredentials, ProfileCredentials
from gopstream.pipeline.store_errors import (
    cause_of,
    describe,
    explain,
    is_refused,
    is_unreached,
    may_pass,
    status_of,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

_Result = TypeVar("_Result")

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Two characters before the colon at least: C:/videos is a path.
_ONE_SLASH: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_S3: Final = ("s3", "s3a")
_WEB: Final = ("http", "https")
_OTHERS: Final = ("gs", "az", "azure", "adl", "abfs", "abfss")
# Requests end after so long, so that Ctrl-C is heard while a store is away; we ask again.
_ONE_TRY_SECONDS: Final = 5.0
# A store that has never answered is mistyped more often than it is away for a while. With what the
# last try takes this ends after 10 to 15 seconds.
_FIRST_CONTACT_SECONDS: Final = 8.0
# So long is waited without a word.
_SILENT_WAIT_SECONDS: Final = 5.0
_LONGEST_PAUSE_SECONDS: Final = 5.0
# obstore asks a provider at most every 100 ms.
_CREDENTIALS_PAUSE_SECONDS: Final = 0.2
# A link of a list is more often dead than its server is away for a while, and each costs a worker.
_DEAD_LINK_SECONDS: Final = 60.0
# A server that says nothing for so long is taken for dead. While a part is sent it says nothing,
# and so uploads wait longer: 8 MiB in 300 s are 28 kB/s.
_SILENT_READ_SECONDS: Final = 60.0
_SILENT_UPLOAD_SECONDS: Final = 300.0

_LOGGER: Final = logging.getLogger("gopstream")
# When this process has last said that it waits, by store.
_SAID_AT: Final[dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How object storage is reached. Plain values, so that it travels to other processes."""

    patience_seconds: float = 600.0
    """How long a store that fails or is away is asked again before it becomes an error.

    A dataset that is only read is given up sooner if its store has never answered: after some 10
    seconds if it cannot be reached, after a minute if it says nothing. So is a link to a web
    server in a list of videos, after a minute.
    """
    endpoint: str | None = None
    """Address of an S3-compatible server; None is the provider's own."""
    region: str | None = None
    anonymous: bool = False
    """Send no credentials: for public buckets."""
    credentials_command: str | None = None
    """A command that prints AWS's ``credential_process`` JSON; run again before it expires."""
    profile: str | None = None
    """Name of a profile of AWS's configuration files; needs boto3."""


class Place(NamedTuple):
    """Where an address leads."""

    store: "ObjectStore"
    path: str
    """Below the store's root; empty for the root itself."""
    credentials: CommandCredentials | ProfileCredentials | None
    """The provider of our own, if there is one."""
    address: str
    """For messages: without a query, which may hold a signature."""
    is_anonymous: bool = False
    """Whether no credentials are sent though the place could take them."""
    is_link: bool = False
    """Whether it is an address of a web server, as lists of videos hold them: one of many."""
    is_for_reading: bool = False
    """Whether it is of a dataset that is read, for messages: no work is kept there."""


def is_address(place: str) -> bool:
    """Tell an address (``s3://...``, ``https://...``) from a local path; ``file://`` is local."""
    return _ADDRESS.match(place) is not None and not place.lower().startswith("file://")


def is_web_address(place: str) -> bool:
    """Tell whether an address is one of a web server, which can be read by name alone."""
    return is_address(place) and urlsplit(place).scheme.lower() in _WEB


def local_path(place: str) -> Path:
    """Return the path of a local place, which may be a ``file://`` address.

    Raises:
        StoreError: If it looks like an address that lacks a slash, such as ``s3:/bucket``.
    """
    if found := _ONE_SLASH.match(place):
        scheme = found[1]
        slashes = ":///" if scheme.lower() == "file" else "://"
        raise StoreError(
            f"{place}: an address has two slashes; write {scheme}{slashes}{place[found.end() :]}, "
            f"or ./{place} if a folder has that name"
        )
    if not place.lower().startswith("file://"):
        return Path(place)
    return Path(url2pathname(urlsplit(place).path))


def open_place(address: str, options: StoreOptions, *, for_upload: bool = False) -> Place:
    """Return the store and the path that an address means; nothing is asked of the server.

    Args:
        address: Of a folder or an object.
        options: How to reach it.
        for_upload: Retry single requests for all of the patience: a part of an upload cannot be
            sent again by anyone else.

    Raises:
        StoreError: If the address is of an unknown kind or incomplete, or its credentials cannot
            be made.
    """
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    bucket, _, path = rest.partition("/")
    if scheme not in (*_S3, *_WEB, *_OTHERS) or not bucket:
        raise StoreError(
            f"{address}: not an address of object storage; give s3://BUCKET/FOLDER, "
            "gs://BUCKET/FOLDER, az://ACCOUNT/CONTAINER/FOLDER or https://HOST/PATH"
        )
    shown = address.partition("?")[0] if scheme in _WEB else address
    if scheme not in _S3:
        # The path is a part of these stores: accounts, containers and queries differ in form.
        store = _open_other(address, options, for_upload, os.getpid())
        return Place(store, "", None, shown, is_link=scheme in _WEB)
    store, credentials = _open_bucket(bucket, options, for_upload, os.getpid())
    return Place(store, path.strip("/"), credentials, shown, options.anonymous)


# A process that was forked opens its own: the threads and locks of its parent's are not there.
os.register_at_fork(after_in_child=leave_client_behind)


@lru_cache(maxsize=8)
def _open_bucket(
    bucket: str, options: StoreOptions, for_upload: bool, process: int
) -> "tuple[ObjectStore, CommandCredentials | ProfileCredentials | None]":
    from obstore.store import S3Store

    credentials = _credentials(options, process)
    region = options.region
    if isinstance(credentials, ProfileCredentials):
        region = region or credentials.region
    # One object is deleted at a time, and not all servers know how to delete many.
    config: S3Config = {"disable_bulk_delete": True}
    if options.endpoint is not None:
        # Not "endpoint", before which AWS_ENDPOINT_URL_S3 of the environment goes.
        config["aws_endpoint_url_s3"] = options.endpoint
    if region is not None:
        config["region"] = region
    if options.anonymous:
        config["skip_signature"] = True
    store = S3Store(
        bucket,
        config=config,
        client_options=_client(options, for_upload),
        retry_config=_retries(options, for_upload),
        credential_provider=credentials,
    )
    return store, credentials


@lru_cache(maxsize=8)
def _credentials(
    options: StoreOptions, process: int
) -> CommandCredentials | ProfileCredentials | None:
    """Return the provider of our own, one for all buckets."""
    del process
    if options.anonymous:
        return None
    if options.credentials_command is not None:
        patience = options.patience_seconds
        return CommandCredentials(options.credentials_command, patience_seconds=patience)
    return None if options.profile is None else ProfileCredentials(options.profile)


@lru_cache(maxsize=8)
def _open_other(
    address: str, options: StoreOptions, for_upload: bool, process: int
) -> "ObjectStore":
    del process
    from obstore.exceptions import BaseError
    from obstore.store import HTTPStore, from_url

    client, retries = _client(options, for_upload), _retries(options, for_upload)
    try:
        if is_web_address(address):
            # Not from_url, which takes a signed address of S3 for a bucket.
            return HTTPStore.from_url(address, client_options=client, retry_config=retries)
        return from_url(address, client_options=client, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise StoreError(f"{address.partition('?')[0]}: {describe(error)}") from error


def _client(options: StoreOptions, for_upload: bool) -> "ClientConfig":
    silent = _SILENT_UPLOAD_SECONDS if for_upload else _SILENT_READ_SECONDS
    return {
        # An endpoint without TLS is used only if someone names one.
        "allow_http": True,
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=min(silent, options.patience_seconds / 2)),
        # Of a whole request; silence is what tells a dead server, not slowness.
        "timeout": timedelta(hours=6),
    }


def _retries(options: StoreOptions, for_upload: bool) -> "RetryConfig":
    seconds = options.patience_seconds
    if not for_upload:
        seconds = min(seconds, _ONE_TRY_SECONDS)
    return {
        "max_retries": 1_000_000,  # time is what counts
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=_LONGEST_PAUSE_SECONDS),
            "base": 2,
        },
    }


class Patience:
    """Decides whether what failed is tried again; one for each thing that is tried.

    Single requests are retried by obstore. What it cannot repeat is repeated here: a listing
    that is cut in the middle, a download, a request whose credentials have expired.
    """

    def __init__(
        self, place: Place, what: str, *, options: StoreOptions, was_reached: bool = True
    ) -> None:
        """Begin to wait.

        Args:
            place: Where.
            what: What is tried, for the message, such as ``listing``.
            options: Say for how long.
            was_reached: Whether the store has answered before; otherwise it is soon given up.
        """
        self._place = place
        self._what = what
        self._limit = options.patience_seconds
        self._was_reached = was_reached
        self.refresh()

    def refresh(self) -> None:
        """Begin anew, since there was progress."""
        self._started = time.monotonic()
        self._pause = 0.1
        self._may_renew = self._place.credentials is not None

    def wait_or_raise(self, error: Exception) -> None:
        """Wait before the next try, if there is to be one.

        Raises:
            FileNotFoundError: If the object does not exist.
            StoreError: If another try is hopeless, or patience is at an end.
        """
        time.sleep(self.pause_or_raise(error))

    def pause_or_raise(self, error: Exception) -> float:
        """Return how many seconds to wait before the next try; see :meth:`wait_or_raise`."""
        if self._may_renew and is_refused(error):
            assert self._place.credentials is not None
            self._place.credentials.forget()
            self._may_renew = False
            return _CREDENTIALS_PAUSE_SECONDS
        elapsed = time.monotonic() - self._started
        self._was_reached = self._was_reached or not is_unreached(error)
        limit = self._limit_for(error)
        if not may_pass(error, self._place) or elapsed + self._pause > limit:
            raise explain(
                error,
                place=self._place,
                what=self._what,
                seconds=elapsed,
                was_reached=self._was_reached,
            ) from error
        if elapsed >= _SILENT_WAIT_SECONDS and not self._place.is_link:
            self._say_once(error, elapsed=elapsed, limit=limit)
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause

    def _limit_for(self, error: Exception) -> float:
        if not self._was_reached:
            return min(self._limit, _FIRST_CONTACT_SECONDS)
        is_dead_link = self._place.is_link and status_of(error) is None
        return min(self._limit, _DEAD_LINK_SECONDS) if is_dead_link else self._limit

    def _say_once(self, error: Exception, *, elapsed: float, limit: float) -> None:
        """Tell the log that we wait: once per store, however many requests do."""
        store = "/".join(self._place.address.split("/")[:3])
        now = time.monotonic()
        if now - _SAID_AT.get(store, -self._limit) < self._limit:
            return
        _SAID_AT[store] = now
        _LOGGER.warning(
            "%s: %s has failed for %.0f seconds (%s); it is given up after about %.0f seconds",
            *(self._place.address, self._what, elapsed, cause_of(error), limit),
        )


def patiently(
    action: Callable[[], _Result],
    *,
    place: Place,
    what: str,
    options: StoreOptions,
    was_reached: bool = True,
) -> _Result:
    """Do something with a store, again and again until it succeeds.

    Args:
        action: What to do; raises obstore's errors. It must be harmless to do twice.
        place: Where, for the message.
        what: Its name, for the message, such as ``listing``.
        options: Say for how long.
        was_reached: Whether the store has answered before; otherwise it is soon given up.

    Raises:
        FileNotFoundError: If the object does not exist.
        StoreError: If the store refuses, or does not answer in time.
    """
    from obstore.exceptions import BaseError

    patience = Patience(place, what, options=options, was_reached=was_reached)
    while True:
        try:
            return action()
        except (BaseError, FileNotFoundError) as error:
            patience.wait_or_raise(error)
