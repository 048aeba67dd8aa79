"""``gopstream view``: a local web app that shows a target.

What it answers, all of it to GET alone:

==============================================  ==================================================
``/``, ``/static/NAME``                         the app itself: the files of ``static``, no others
``/api/target``                                 what is shown, and its splits
``/api/splits/SPLIT``                           classes, counts and settings
``/api/splits/SPLIT/motion``                    histogram of the samples' mean motion
``/api/samples?split=...``                      a page of the samples that match; see `_samples`
``/api/failures?split=...``                     a page of the failures that match
``/api/thumbnails/SPLIT/POSITION``              a JPEG of a sample
``/api/clips/SPLIT/POSITION``                   a clip's facts (``clip_payload``)
``/api/clips/SPLIT/POSITION/frames/INDEX``      one frame of it (``frame_payload``)
``/api/clips/SPLIT/POSITION/statistics/FIRST``  numbers of some frames, for the timeline
==============================================  ==================================================

A single clip is ``/api/clips/-/0``. Errors are ``{"error": MESSAGE}``.
"""

import math
import secrets
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.app_clips import pack_json
from gopstream.jobs.inspection.app_failures import FailureQuery, search_failures
from gopstream.jobs.inspection.app_guard import HEADERS, Guard, is_loopback, refuse
from gopstream.jobs.inspection.app_target import NotThereError, ViewedTarget
from gopstream.jobs.inspection.catalogue import MOTION_EDGES, SampleQuery
from gopstream.pipeline.errors import PipelineError, StoreError
from gopstream.pipeline.object_store import StoreOptions
from gopstream.shards.errors import ShardError
from gopstream.shards.where import WhereError

MAX_PAGE: Final = 200
"""Samples or failures of one answer."""

_STATIC: Final = Path(__file__).parent / "static"
_PAGE: Final = "app.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUS: Final[Mapping[type[Exception], int]] = {
    UserError: 400,
    WhereError: 400,
    NotThereError: 404,
    IndexError: 404,
    FileNotFoundError: 404,
    PipelineError: 422,
    ShardError: 422,
    StoreError: 502,
}
"""Of what is foreseen; the messages are for people and say what to do."""
_TOKEN_BYTES: Final = 24
_TEXT_BROWSERS: Final = frozenset({"www-browser", "links", "elinks", "lynx", "w3m"})
"""Those that Python finds where there is no screen; they run no scripts."""

Endpoint = Callable[[Request], Response]


def make_app(
    target: str,
    *,
    token: str | None,
    split: str | None = None,
    store: StoreOptions | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> Starlette:
    """Return the app for a target, which is opened.

    Args:
        target: A video, a folder of ``gopstream extract``, a dump of mvextractor, a dataset, or
            one shard of a dataset.
        token: The secret that a browser must bring; None asks for none, and answers to the names
            of this machine alone.
        split: The split to begin with.
        store: How object storage is reached; None takes the defaults.
        on_frames: Called with numbers of frames while all of a video is read once; may raise.

    Raises:
        UserError: If the target is nothing that can be shown.
        ShardError, PipelineError, StoreError: If it cannot be read.
    """
    viewed = ViewedTarget(target, split=split, store=store, on_frames=on_frames)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        viewed.close()

    return Starlette(
        routes=_routes(viewed),
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={
            **dict.fromkeys(_STATUS, _foreseen),
            HTTPException: _http_error,
            Exception: _unforeseen,
        },
        lifespan=lifespan,
    )


def serve(
    target: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    split: str | None = None,
    store: StoreOptions | None = None,
    on_frames: Callable[[int], None] | None = None,
    with_token: bool = False,
    say: Callable[[str], None],
) -> None:
    """Serve a target until Ctrl-C or SIGTERM.

    Args:
        target: As `make_app` takes it.
        host: Address to listen at. Where others can reach it, a new secret is in the address that
            is told, and nobody gets in without it.
        port: To listen at; 0 takes a free one.
        open_browser: Whether to show the app in the user's browser.
        split: The split to begin with.
        store: How object storage is reached; None takes the defaults.
        on_frames: As `make_app` takes it.
        with_token: Ask for the secret on this machine too: others may have an account on it.
        say: Told the address, once the app is ready.

    Raises:
        UserError: If host and port cannot be had, or the target is nothing that can be shown.
        ShardError, PipelineError, StoreError: If it cannot be read.
    """
    needs_token = with_token or not is_loopback(host)
    token = secrets.token_urlsafe(_TOKEN_BYTES) if needs_token else None
    with _listen(host, port) as listener:  # before a long video is read
        app = make_app(target, token=token, split=split, store=store, on_frames=on_frames)
        address = _address(host, listener.getsockname()[1], token)
        say(f"{target} is shown at {address} (Ctrl-C ends it)")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        if open_browser:
            _open_browser(address)
        with suppress(KeyboardInterrupt):  # which is how it ends
            uvicorn.Server(config).run(sockets=[listener])


def _open_browser(address: str) -> None:
    """Show an address in the user's browser, unless that would take the terminal.

    Some browsers' commands return when they are closed; the app does not wait for them.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return  # there is none
    if Path(getattr(browser, "name", "")).name not in _TEXT_BROWSERS:
        # The port is open already: a browser that comes too early waits.
        Thread(target=browser.open, args=(address,), daemon=True).start()


def _listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UserError: If it cannot be had.
    """
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        return socket.create_server((name, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error}; give another --port (0 takes a free "
            "one) or --host"
        ) from error


def _address(host: str, port: int, token: str | None) -> str:
    """Return the address for a browser."""
    name = host.strip("[]")
    if name in ("", "0.0.0.0", "::"):  # noqa: S104 - all addresses of this machine
        name = socket.gethostname()
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _routes(viewed: ViewedTarget) -> list[Route]:
    """Return what is answered; each function runs in a thread of its own."""
    files = {path.name: path for path in _STATIC.iterdir() if path.suffix in _TYPES}

    def page(request: Request) -> Response:
        del request
        return _file(files[_PAGE])

    def static(request: Request) -> Response:
        # By name among the files that there are: no path is ever made of a request.
        path = files.get(request.path_params["name"])
        if path is None:
            raise NotThereError("there is no such file")
        return _file(path)

    def about(request: Request) -> Response:
        del request
        return _json(viewed.facts())

    def split(request: Request) -> Response:
        return _json(viewed.split_facts(request.path_params["split"]))

    def motion(request: Request) -> Response:
        counts = viewed.split(request.path_params["split"]).catalogue.motion_histogram()
        return _json({"edges": list(MOTION_EDGES), "counts": counts})

    def thumbnail(request: Request) -> Response:
        return Response(viewed.thumbnail(_clip_key(request)), media_type="image/jpeg")

    def clip(request: Request) -> Response:
        return _packed(viewed.clips.facts(_clip_key(request)))

    def frame(request: Request) -> Response:
        return _packed(viewed.clips.frame(_clip_key(request), request.path_params["index"]))

    def statistics(request: Request) -> Response:
        return _packed(viewed.clips.statistics(_clip_key(request), request.path_params["first"]))

    clip_path = "{split}/{position:int}"
    answers: dict[str, Endpoint] = {
        "/": page,
        "/static/{name}": static,
        "/api/target": about,
        "/api/splits/{split}": split,
        "/api/splits/{split}/motion": motion,
        "/api/samples": lambda request: _samples(viewed, request),
        "/api/failures": lambda request: _failures(viewed, request),
        f"/api/thumbnails/{clip_path}": thumbnail,
        f"/api/clips/{clip_path}": clip,
        f"/api/clips/{clip_path}/frames/{{index:int}}": frame,
        f"/api/clips/{clip_path}/statistics/{{first:int}}": statistics,
    }
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in answers.items()]


def _samples(viewed: ViewedTarget, request: Request) -> Response:
    """Answer with a page of samples.

    Parameters: ``split``, ``offset``, ``limit``, ``query`` (in key or source), ``label`` (a class;
    empty for samples without one), ``motion_min``, ``motion_max``, ``where`` and ``order``.
    """
    asked = request.query_params
    name = asked.get("split", viewed.splits[0] if viewed.splits else "")
    catalogue = viewed.split(name).catalogue
    offset, limit = _page_of(request)
    query = SampleQuery(
        text=asked.get("query", ""),
        label=asked.get("label"),
        motion_min=_number(request, "motion_min"),
        motion_max=_number(request, "motion_max"),
        where=asked.get("where", ""),
        order=asked.get("order", ""),
    )
    found = catalogue.search(query, offset=offset, limit=limit)
    return _json(
        {
            "split": name,
            "offset": offset,
            "total": found.total,
            "of": len(catalogue),
            "samples": found.rows,
        }
    )


def _failures(viewed: ViewedTarget, request: Request) -> Response:
    """Answer with a page of failures: ``split``, ``offset``, ``limit``, ``query``, ``reason``."""
    asked = request.query_params
    name = asked.get("split", viewed.splits[0] if viewed.splits else "")
    offset, limit = _page_of(request)
    query = FailureQuery(asked.get("query", ""), asked.get("reason"), offset, limit)
    found = search_failures(viewed.split(name).storage, name, query)
    return _json(
        {
            "split": name,
            "offset": offset,
            "total": found.total,
            "of": found.num_failures,
            "reasons": [{"reason": reason, "count": count} for reason, count in found.reasons],
            "failures": found.rows,
        }
    )


def _clip_key(request: Request) -> tuple[str, int]:
    return request.path_params["split"], request.path_params["position"]


def _page_of(request: Request) -> tuple[int, int]:
    """Return (offset, limit).

    Raises:
        UserError: If they are no whole numbers in range.
    """
    found = []
    for name, usual, most in (("offset", 0, sys.maxsize), ("limit", 60, MAX_PAGE)):
        text = request.query_params.get(name, str(usual))
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= most):
            raise UserError(f"{name} must be a whole number from 0 to {most}, got {text[:40]!r}")
        found.append(int(text))
    return found[0], found[1]


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {text[:40]!r}")
    return value


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), headers={"Content-Type": _TYPES[path.suffix]})


def _json(content: object) -> Response:
    return _packed(pack_json(content))


def _packed(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _foreseen(request: Request, error: Exception) -> Response:
    del request
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return refuse(status, str(error))


def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, error.detail)


def _unforeseen(request: Request, error: Exception) -> Response:
    """Answer to a fault of ours; the server tells where it was on standard error."""
    del request
    what = f"{type(error).__name__}: the terminal of 'gopstream view' shows where"
    answer = refuse(500, what)
    answer.headers.update(HEADERS)  # it does not pass the guard
    return answer
