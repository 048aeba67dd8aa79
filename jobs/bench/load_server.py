"""A small web server on loopback that speaks as much of S3 as reading a dataset needs.

It is here because no S3 server that installs with pip is fast enough to be measured against
(moto answers some hundred requests a second): it takes ``GET`` and ``HEAD`` of objects with
``Range``, path style, keeps connections open, and sends files from the kernel. It does not check
signatures, lists nothing and takes no writes. It counts what it is asked, which is the other
side of what the loader says of itself.
"""

import multiprocessing
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

BUCKET: Final = "bench"
_START_SECONDS: Final = 60.0


class Served(NamedTuple):
    """What a server did so far."""

    requests: int
    """Answered with bytes of an object."""
    bytes_sent: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the processes share."""

    requests: Any
    bytes_sent: Any
    cpu_seconds: Any
    rate: Any


@dataclass(frozen=True, slots=True)
class LoopbackServer:
    """A running server."""

    endpoint: str
    _shared: _Shared

    def served(self) -> Served:
        """Return what was done so far."""
        shared = self._shared
        return Served(shared.requests.value, shared.bytes_sent.value, shared.cpu_seconds.value)

    def throttle(self, requests_per_second: float | None) -> None:
        """Answer no more requests than this, evenly spaced; None ends that."""
        self._shared.rate.value = requests_per_second or 0.0


@contextmanager
def loopback_server(folder: Path) -> Iterator[LoopbackServer]:
    """Serve a folder as the bucket :data:`BUCKET`, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    shared = _Shared(
        *(context.Value("q", 0), context.Value("q", 0), context.Value("d", 0.0)),
        rate=context.Value("d", 0.0),
    )
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs, shared), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise RuntimeError(f"the loopback server did not start in {_START_SECONDS:g} s")
        yield LoopbackServer(f"http://127.0.0.1:{ours.recv()}", shared)
    finally:
        process.terminate()
        process.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, shared: _Shared) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.folder = folder
        self.shared = shared
        self._lock = threading.Lock()
        self._next_turn = 0.0

    def wait_for_turn(self) -> None:
        """Wait until the rate allows another request."""
        rate = self.shared.rate.value
        if rate <= 0:
            return
        with self._lock:
            turn = max(self._next_turn, time.monotonic())
            self._next_turn = turn + 1 / rate
        time.sleep(max(0.0, turn - time.monotonic()))

    def count(self, num_bytes: int) -> None:
        """Add an answer."""
        with self._lock:
            self.shared.requests.value += 1
            self.shared.bytes_sent.value += num_bytes
            self.shared.cpu_seconds.value = time.process_time()


class _Connection(socketserver.StreamRequestHandler):
    """All requests of one connection."""

    server: _Server

    def handle(self) -> None:
        """Answer until the client leaves."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while self._answer():
                pass
        except OSError:
            return  # the client has gone

    def _answer(self) -> bool:
        first = self.rfile.readline()
        if not first:
            return False
        method, target, _ = first.decode("latin-1").split(" ", 2)
        wanted = None
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"range":
                wanted = value.strip().decode("latin-1")
        bucket, _, key = unquote(target.partition("?")[0]).lstrip("/").partition("/")
        path = self.server.folder / key
        is_below = path.resolve().is_relative_to(self.server.folder.resolve())
        if method not in ("GET", "HEAD") or "list-type=" in target:
            self._head(HTTPStatus.NOT_IMPLEMENTED)
        elif bucket != BUCKET or not is_below or not path.is_file():
            self._head(HTTPStatus.NOT_FOUND)
        else:
            self._send(path, wanted, with_body=method == "GET")
        return True

    def _send(self, path: Path, wanted: str | None, *, with_body: bool) -> None:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start, end = _bounds(wanted, status.st_size)
            if not 0 <= start < max(end, 1):
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.server.wait_for_turn()
            lines = [
                f"Last-Modified: {formatdate(status.st_mtime, usegmt=True)}",
                f'ETag: "{status.st_size:x}-{status.st_mtime_ns:x}"',
                "Accept-Ranges: bytes",
            ]
            if wanted is not None:
                lines.append(f"Content-Range: bytes {start}-{end - 1}/{status.st_size}")
            code = HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT
            self._head(code, lines, length=end - start)
            if with_body:
                self._send_body(file.fileno(), start, end)
                self.server.count(end - start)

    def _send_body(self, descriptor: int, start: int, end: int) -> None:
        while start < end:
            sent = os.sendfile(self.connection.fileno(), descriptor, start, end - start)
            if sent == 0:
                raise ConnectionError("the file became shorter")
            start += sent

    def _head(self, status: HTTPStatus, lines: list[str] | None = None, *, length: int = 0) -> None:
        head = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Length: {length}"]
        head += [*(lines or []), "Connection: keep-alive", "", ""]
        self.connection.sendall("\r\n".join(head).encode("latin-1"))


def _bounds(wanted: str | None, size: int) -> tuple[int, int]:
    """Return first byte and end of a ``Range`` header (RFC 9110, section 14.2)."""
    if wanted is None:
        return 0, size
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _serve(folder: Path, pipe: Connection, shared: _Shared) -> None:
    with _Server(folder, shared) as server:
        pipe.send(server.server_address[1])
        server.serve_forever()
