"""The command that shows clips and datasets in the browser. It needs no torch."""

from typing import Annotated

from cyclopts import Parameter

from gopstream.jobs.command_options import StoreArguments
from gopstream.jobs.errors import UserError
from gopstream.jobs.inspect_request import heartbeat

_STORE = StoreArguments()
_PACKAGES = ("starlette", "uvicorn", "anyio", "h11")
_MAX_PORT = 65535


def view(
    target: str,
    /,
    *,
    split: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token: Annotated[bool, Parameter(negative="")] = False,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    store: StoreArguments = _STORE,
) -> int:
    """Look at clips and datasets in the browser: a local web app, until Ctrl-C.

    A player shows frames, motion vectors and residuals of any clip. Datasets of any size are paged
    through, also in object storage, from which only what is shown is read; samples are found by
    key, label, motion or condition, failures by their reason. It needs pip install
    'gopstream[view]'. Without a network, 'gopstream inspect --html' writes a page instead.

    Example: `gopstream view shards` or `gopstream view video.mp4`

    Parameters
    ----------
    target
        A video; a folder of 'gopstream extract'; a dump of mvextractor; a dataset, its folder or
        address (s3://bucket/folder, https://host/folder); or one shard of it (train/000000.tar).
    split
        Of a dataset: the split to begin with; by default the first.
    host
        Address to listen at. By default only this machine can look; at another address, such as
        0.0.0.0 for all of this machine's, whoever has the link with its secret can.
    port
        To listen at; by default a free one.
    token
        Ask for the link's secret on this machine too. Use it where others have an account, as on a
        cluster's login node: without it whoever is logged in there can look.
    browser
        Open the browser; the link is printed either way.
    """
    if not 0 <= port <= _MAX_PORT:
        raise UserError(f"--port must be 0 to {_MAX_PORT}, got {port}")
    try:
        from gopstream.jobs.inspection.server import serve
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise UserError(
            f"{error.name} is not installed; the app needs: pip install 'gopstream[view]'"
        ) from error
    serve(
        target,
        host=host,
        port=port,
        open_browser=browser,
        split=split,
        store=store.options(),
        on_frames=heartbeat(target),
        with_token=token,
        say=_say,
    )
    return 0


def _say(message: str) -> None:
    """Print at once: the app runs on, and its address may be read through a pipe."""
    print(message, flush=True)
