"""What the commands share: where results go, and which folders are understood."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gopstream.jobs.errors import UserError

JsonFile = Annotated[
    str | None,
    Parameter(
        name="--json",
        help="Write the result as JSON to this file; - is standard output.",
        allow_leading_hyphen=True,
    ),
]


def report(content: dict[str, Any], target: str | None) -> None:
    """Write a result as JSON where ``--json`` says."""
    if target is None:
        return
    text = json.dumps(content, indent=2, sort_keys=True)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def local_folder(url: str) -> Path:
    """Return the path of a dataset.

    Raises:
        UserError: If it is an address.
    """
    if "://" in url:
        raise UserError(f"{url}: only local folders are supported yet; give a path")
    return Path(url)


def ffmpeg_binary() -> str:
    """Return the FFmpeg that ``GOPSTREAM_FFMPEG`` names, or the one of imageio-ffmpeg."""
    from gopstream.pipeline.transcode import default_ffmpeg

    return os.environ.get("GOPSTREAM_FFMPEG") or default_ffmpeg()
