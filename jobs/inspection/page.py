"""Write a clip as one page that needs nothing else: the player with all frames in it.

The page loads nothing: its policy forbids all but its own script and style, known by their hashes,
and pictures that it carries. Names and labels are data for the player, which shows them as text.
"""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any, BinaryIO, Final

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.clip_payload import clip_payload, frame_payload
from gopstream.jobs.inspection.frame_range import frame_range
from gopstream.jobs.inspection.inspected import InspectedClip
from gopstream.shards.layout import partial_path, publish

STATIC: Final = Path(__file__).parent / "static"
MODULES: Final = (
    "elements.js",
    "payloads.js",
    "blocks.js",
    "layers.js",
    "stage.js",
    "timeline.js",
    "controls.js",
    "panels.js",
    "player.js",
    "page.js",
)
"""The page's modules, each after those that it imports."""
MAX_BYTES: Final = 200_000_000
"""Browsers open larger pages slowly or not at all."""

_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z_]+\.js";\n', re.MULTILINE)
_BODY: Final = """<main id="player"></main>
<noscript>This page shows a clip with a script of its own; please allow it to run.</noscript>
"""


def write_page(
    clip: InspectedClip,
    path: Path,
    *,
    first: int = 0,
    last: int | None = None,
    max_bytes: int = MAX_BYTES,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Write a page with frames of a clip; one frame is in memory at a time.

    Args:
        clip: What to show.
        path: The file; it appears whole or not at all.
        first: The first frame of the page.
        last: The last one; None for the clip's.
        max_bytes: What the page may have.
        on_frame: Called after each frame.

    Raises:
        IndexError: If the clip does not have these frames.
        UserError: If they would not fit.
        PipelineError, ShardError: If the clip is damaged.
    """
    facts = clip.facts
    stop = None if last is None else last + 1
    chosen = frame_range(first, stop, num_frames=facts.num_frames, name=facts.name)
    head, tail = _around(facts.name)
    statistics = []
    with written_whole(path) as file:
        file.write(head)
        for frame in clip.frames(chosen.start, chosen.stop):
            payload = frame_payload(frame, facts)
            statistics.append(payload["statistics"])
            file.write(json_block(f"frame-{frame.index}", payload))
            if file.tell() + len(tail) > max_bytes:
                raise _too_large(path, f"frames {first} to {frame.index} alone", max_bytes)
            on_frame()
        content = clip_payload(facts) | {
            "first": chosen.start,
            "last": chosen.stop - 1,
            "statistics": statistics,
        }
        file.write(json_block("clip", content))
        file.write(tail)
        if file.tell() > max_bytes:
            raise _too_large(path, f"frames {first} to {chosen.stop - 1}", max_bytes)


def page_html(*, title: str, body: str, style: str, script: str | None = None) -> str:
    """Return a page that may run and load only what is in it.

    Args:
        title: As it is; becomes text.
        body: Markup; every text in it is escaped.
        style: Of the page.
        script: A module, or None for a page without one.
    """
    policy = ["default-src 'none'", f"style-src {_hash(style)}", "img-src data:"]
    if script is not None:
        policy.append(f"script-src {_hash(script)}")
    policy += ["base-uri 'none'", "form-action 'none'"]
    return Template((STATIC / "page.html").read_text("ascii")).substitute(
        policy="; ".join(policy),
        title=html.escape(title),
        style=style,
        body=body,
        script="" if script is None else f'<script type="module">{script}</script>',
    )


def json_block(name: str, content: Mapping[str, Any]) -> bytes:
    """Return data as an element that a script finds by its id.

    Without ``<`` nothing in it can end the element or begin another.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'.encode("ascii")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that gets its name at the end, or vanishes."""
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_static(name: str) -> str:
    """Return one of the files that the page is made of."""
    return (STATIC / name).read_text("ascii")


def encode_page(page: str) -> bytes:
    """Return a page as bytes; what ASCII does not have becomes references.

    File names may hold bytes that are no text, which UTF-8 cannot carry either.
    """
    return page.encode("ascii", "xmlcharrefreplace")


def _too_large(path: Path, what: str, max_bytes: int) -> UserError:
    return UserError(
        f"{path}: {what} are more than {max_bytes / 1e6:,.4g} MB; choose fewer with --first and "
        "--last, or use 'gopstream view', which reads frames when they are looked at"
    )


def _around(name: str) -> tuple[bytes, bytes]:
    """Return what comes before and after the frames."""
    modules = (_IMPORT.sub("", read_static(module)) for module in MODULES)
    page = page_html(
        title=f"{name} - gopstream",
        body=_BODY,
        style=read_static("player.css"),
        script="\n".join(modules),
    )
    # The script comes last, and the frames before it: it finds them all.
    head, opening, script = page.rpartition('<script type="module">')
    return encode_page(head), encode_page(opening + script)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
