"""Write the pictures that ``inspect`` was asked for, and say what was written."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gopstream.jobs.console import printable, progress, say
from gopstream.jobs.inspect_request import InspectRequest
from gopstream.jobs.inspection.clip_summary import clip_content
from gopstream.jobs.inspection.inspected import InspectedClip
from gopstream.jobs.inspection.page import write_page
from gopstream.jobs.inspection.pictures.files import (
    SHEET_FRAMES,
    sheet_frames,
    style_of,
    write_pngs,
    write_sheet,
)
from gopstream.jobs.inspection.pictures.layers import choose_layers, layers_left_out
from gopstream.jobs.inspection.pictures.movement import Style
from gopstream.jobs.inspection.pictures.movie import write_movie
from gopstream.jobs.summaries import counted


def write_pictures(asked: InspectRequest, clip: InspectedClip, *, start: int, stop: int) -> None:
    """Write all that is asked for of frames ``start`` to ``stop`` - 1, and tell of it.

    Raises:
        UserError: If the clip has not what a layer shows, or a file cannot be what is asked for.
        PipelineError, ShardError: If the clip is damaged.
    """
    layers = choose_layers(asked.layer_names, facts=clip.facts)  # before anything is written
    style = None
    if {*asked.written} != {"--html"}:
        _tell_left_out(asked, clip)
        style = style_of(clip, first=start, last=stop - 1)
        if asked.span is not None:
            style = replace(style, span=asked.span)
    written: list[Path] = []
    lines = []
    for option, path in asked.written.items():
        files = _write(option, path, clip, layers=layers, shown=range(start, stop), style=style)
        written += files
        what = f"{counted(len(files), 'picture')} in {path}" if option == "--png" else str(path)
        lines.append(f"{printable(clip.facts.name)}: {what} ({size_of(files)})")
    content = clip_content(clip.facts) | {"written": [str(path) for path in written]}
    asked.tell("\n".join(lines), content)


def size_of(files: Sequence[Path]) -> str:
    """Return how large files are together."""
    num_bytes = sum(path.stat().st_size for path in files)
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.1f} kB"


def _write(
    option: str,
    path: Path,
    clip: InspectedClip,
    *,
    layers: Sequence[str],
    shown: range,
    style: Style | None,
) -> list[Path]:
    """Write what one option asks for; returns the files."""
    first, last = shown[0], shown[-1]
    kinds = clip.facts.kinds
    is_sheet = option == "--sheet"
    num_frames = len(sheet_frames(kinds, SHEET_FRAMES)) if is_sheet else len(shown)
    title = f"{'writing' if option == '--html' else 'drawing'} {path.name}"
    with progress(title, total=num_frames, unit="frames") as done:
        if option == "--png":
            return write_pngs(
                clip, path, layers=layers, first=first, last=last, style=style, on_frame=done
            )
        if option == "--movie":
            write_movie(
                clip, path, layers=layers, first=first, last=last, style=style, on_frame=done
            )
        elif is_sheet:
            write_sheet(clip, path, layers=layers, style=style, on_frame=done)
        else:
            write_page(clip, path, first=first, last=last, on_frame=done)
    return [path]


def _tell_left_out(asked: InspectRequest, clip: InspectedClip) -> None:
    """Say which of the usual layers, or of all, a clip does not have, and why."""
    names_of: dict[str, list[str]] = {}
    for name, reason in layers_left_out(asked.layer_names, facts=clip.facts).items():
        names_of.setdefault(reason, []).append(name)
    for reason, names in names_of.items():
        say(printable(f"{clip.facts.name}: without {', '.join(names)}: {reason}"))
