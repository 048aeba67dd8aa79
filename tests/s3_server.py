"""A real S3 server on loopback, and a proxy before it that breaks things on purpose.

The server is moto's, in a process of its own; the proxy speaks HTTP/1.1 and is what clients
talk to. Tests take the fixture ``s3``, a new bucket.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import boto3
import botocore.config

from gopstream.pipeline.object_store import StoreOptions

_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""

REGION = "us-east-1"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """What the proxy saw of a request."""

    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name."""

    @property
    def access_key(self) -> str:
        """The key that signed it, empty for none."""
        return self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]

    @property
    def is_part(self) -> bool:
        """Whether it sends a part of a multipart upload."""
        return self.method == "PUT" and "partNumber=" in self.target


@dataclass
class Fault:
    """What happens to the next requests that match."""

    kind: Literal["answer", "cut request", "cut response", "hang"]
    times: int
    matches: Callable[[Request], bool]
    status: int = 503
    num_bytes: int = 0
    """How many bytes of the body pass before the connection is cut or hangs."""


def anything(request: Request) -> bool:
    """Match every request."""
    del request
    return True


@dataclass
class FaultProxy:
    """Passes requests on to a server, unless told otherwise."""

    upstream: int
    """Port of the server."""
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    valid_keys: set[str] | None = None
    """Access keys that are taken; others get 403 ExpiredToken. None takes all."""
    port: int = 0
    before: Callable[[Request], None] | None = None
    """Called with each request before it is passed on."""
    _listener: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """The address that clients use."""
        return f"http://127.0.0.1:{self.port}"

    def answer(
        self, status: int, *, times: int, matches: Callable[[Request], bool] = anything
    ) -> Fault:
        """Answer with an error."""
        return self._add(Fault("answer", times, matches, status=status))

    def cut_request(
        self, *, after: int, times: int, matches: Callable[[Request], bool] = anything
    ) -> Fault:
        """Close the connection after so many bytes of a request's body; the server sees none."""
        return self._add(Fault("cut request", times, matches, num_bytes=after))

    def cut_response(
        self, *, after: int, times: int, matches: Callable[[Request], bool] = anything
    ) -> Fault:
        """Close the connection after so many bytes of an answer's body; 0 cuts before its head."""
        return self._add(Fault("cut response", times, matches, num_bytes=after))

    def hang(
        self, *, after: int, times: int, matches: Callable[[Request], bool] = anything
    ) -> Fault:
        """Fall silent after so many bytes of an answer's body, until the client gives up."""
        return self._add(Fault("hang", times, matches, num_bytes=after))

    def count(self, matches: Callable[[Request], bool] = anything) -> int:
        """Return how many requests came."""
        return sum(map(matches, list(self.requests)))

    def reset(self) -> None:
        """Forget requests and faults; be there."""
        self.requests.clear()
        self.faults.clear()
        self.valid_keys = self.before = None
        if self._listener is None:
            self.come_back()

    def go_away(self) -> None:
        """Refuse connections and cut those that are open."""
        with self._lock:
            if self._listener is not None:
                # A thread that waits in accept() keeps a closed socket alive; this wakes it.
                with suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Listen again, on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    @contextmanager
    def away_for(self, seconds: float) -> Iterator[None]:
        """Be away for so long, from now on, while the body of the context runs."""
        self.go_away()
        timer = threading.Timer(seconds, self.come_back)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def _add(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        with suppress(OSError), connection, connection.makefile("rb") as incoming:
            while self._one_request(connection, incoming):
                pass
        with self._lock:
            self._open.discard(connection)

    def _take_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.matches(request):
                    fault.times -= 1
                    return fault
        return None

    def _one_request(self, connection: socket.socket, incoming: Any) -> bool:  # noqa: ANN401
        """Handle a request; returns whether the connection can take another."""
        head = _read_head(incoming)
        if head is None:
            return False
        request = _parse(head)
        length = int(request.headers.get("content-length", 0))
        fault = self._take_fault(request)
        if self.before is not None:
            self.before(request)
        if fault is not None and fault.kind == "cut request":
            incoming.read(min(fault.num_bytes, length))
            return False
        body = incoming.read(length)
        if len(body) < length:
            return False
        if self.valid_keys is not None and request.access_key not in self.valid_keys:
            return _answer(connection, 403, EXPIRED)
        if fault is not None and fault.kind == "answer":
            return _answer(connection, fault.status, SLOW_DOWN if fault.status == 503 else b"")
        with socket.create_connection(("127.0.0.1", self.upstream)) as upstream:
            upstream.sendall(_with_close(head))
            upstream.sendall(body)
            return _pass_answer(upstream, connection, fault, method=request.method)


def _read_head(incoming: Any) -> bytes | None:  # noqa: ANN401
    lines = []
    while True:
        line = incoming.readline()
        if not line:
            return None
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            return b"".join(lines)


def _parse(head: bytes) -> Request:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in rest if line)
    return Request(method, target, {name.lower(): value.strip() for name, _, value in pairs})


def _with_close(head: bytes) -> bytes:
    """Ask the server to end the connection after its answer, so that its end is known."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


def _answer(connection: socket.socket, status: int, body: bytes) -> bool:
    head = f"HTTP/1.1 {status} Fault\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection.sendall(head + body)
    return True


def _pass_answer(
    upstream: socket.socket, connection: socket.socket, fault: Fault | None, *, method: str
) -> bool:
    with upstream.makefile("rb") as answer:
        head = _read_head(answer) or b""
        if fault is not None and fault.num_bytes == 0:
            if fault.kind == "hang":
                connection.recv(1)  # until the client gives up
            return False
        connection.sendall(head)
        left = None if fault is None else fault.num_bytes
        while method != "HEAD" and (block := answer.read1(1 << 16)):
            connection.sendall(block if left is None else block[:left])
            if left is not None:
                left -= min(left, len(block))
                if left == 0:
                    break
        if fault is not None and fault.kind == "hang":
            connection.recv(1)
    # The server closed its side, and so the client must be told unless it counts bytes.
    return False if fault is not None else b"content-length" in head.lower()


@dataclass(frozen=True)
class S3Server:
    """A server, and the proxy before it."""

    proxy: FaultProxy
    client: Any
    """boto3's client, straight to the server."""

    def make_bucket(self, name: str) -> "S3Bucket":
        """Make a bucket."""
        self.client.create_bucket(Bucket=name)
        return S3Bucket(name, self.proxy, self.client)


@dataclass(frozen=True)
class S3Bucket:
    """A bucket, seen from behind the proxy."""

    name: str
    proxy: FaultProxy
    client: Any

    @property
    def url(self) -> str:
        """Its address."""
        return f"s3://{self.name}"

    def options(self, *, patience: float = 20.0, **more: Any) -> StoreOptions:  # noqa: ANN401
        """Return options that lead to the proxy."""
        return StoreOptions(
            endpoint=self.proxy.url, region=REGION, patience_seconds=patience, **more
        )

    def put(self, key: str, content: bytes) -> None:
        """Put an object there, past the proxy."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def keys(self) -> list[str]:
        """Return the names of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def content(self, key: str) -> bytes:
        """Return an object's bytes."""
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    def unfinished(self) -> list[str]:
        """Return the names of the multipart uploads that were neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", [])]


@contextmanager
def running_server() -> Iterator[S3Server]:
    """Run server and proxy."""
    command = [sys.executable, "-c", _SERVE]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        proxy = FaultProxy(port)
        proxy.come_back()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=REGION,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=botocore.config.Config(s3={"addressing_style": "path"}),
        )
        try:
            yield S3Server(proxy, client)
        finally:
            proxy.go_away()
            process.terminate()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or process does."""
    while not condition():
        time.sleep(0.01)
