"""Write a movie of a clip, MP4 or GIF, with one or more layers side by side."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.inspected import ClipFacts, InspectedClip
from gopstream.jobs.inspection.pictures.canvas import Pixels, paper
from gopstream.jobs.inspection.pictures.files import draw_frames, fitted, tile
from gopstream.jobs.inspection.pictures.movement import Style
from gopstream.shards.layout import partial_path, publish

LONGEST_GIF: Final = 250
"""Frames; Pillow keeps those of a GIF in memory until it is written."""
_MP4_SIZE: Final = (1920, 1600)
_GIF_SIZE: Final = (960, 960)
_TICKS: Final = 90_000
"""Per second, of MP4's time stamps."""
_USUAL_RATE: Final = 25
"""Frames per second of a source without time stamps."""
_LEAST_GIF_DURATION: Final = 20
"""Milliseconds; browsers slow down what is faster."""


def write_movie(
    clip: InspectedClip,
    path: Path,
    *,
    layers: Sequence[str] | None = None,
    first: int = 0,
    last: int | None = None,
    style: Style | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Path:
    """Write frames ``first`` to ``last`` as a movie.

    Args:
        clip: What to look at.
        path: Ends in ``.mp4`` (H.264, at the clip's own times) or ``.gif``.
        layers: Names; None for the usual ones that the clip has.
        first: First frame.
        last: Last frame; None for the clip's last.
        style: Scales; None to make them of the first frames.
        on_frame: Called after each frame.

    Raises:
        UserError: If the ending is another, a GIF would be too long, or a layer or a frame is
            not there.
    """
    ending = path.suffix.lower()
    if ending not in (".mp4", ".gif"):
        raise UserError(f"expected a movie that ends in .mp4 or .gif, got {path.name}")
    end = clip.facts.num_frames - 1 if last is None else last
    if ending == ".gif" and end - first >= LONGEST_GIF:
        raise UserError(
            f"{path.name}: a GIF has at most {LONGEST_GIF} frames, got {end - first + 1}; choose "
            "fewer by the first and last frame, or write .mp4"
        )
    drawn = draw_frames(clip, layers=layers, first=first, last=end, style=style, on_frame=on_frame)
    size = _MP4_SIZE if ending == ".mp4" else _GIF_SIZE
    pages = (_one_page(list(frame.pages.values()), size) for frame in drawn)
    seconds = frame_seconds(clip.facts, first=first, last=end)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        write = _write_mp4 if ending == ".mp4" else _write_gif
        write(partial, pages, seconds)
        publish(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return path


def frame_seconds(facts: ClipFacts, *, first: int, last: int) -> npt.NDArray[np.float64]:
    """Return when each frame begins and the last one ends, from 0, in seconds.

    A source without time stamps is taken to have 25 frames per second.

    Returns:
        (last - first + 2,), rising by at least 1 ms.
    """
    times = facts.times[first : last + 1].astype(np.float64)
    if not facts.has_times:
        times = times / _USUAL_RATE
    steps = np.maximum(np.diff(times), 0.001)
    usual = float(np.median(steps)) if len(steps) else 1 / _USUAL_RATE
    return np.concatenate([[0.0], np.cumsum(np.append(steps, usual))])


def _one_page(pages: list[Pixels], size: tuple[int, int]) -> Pixels:
    """Set layers out, with even sides as 4:2:0 needs them."""
    page = fitted(tile(pages, columns=_columns(len(pages), size)), *size)
    height, width = (side + side % 2 for side in page.shape[:2])
    if page.shape[:2] == (height, width):
        return page
    even = paper(height, width)
    even[: page.shape[0], : page.shape[1]] = page
    return even


def _columns(num_pages: int, size: tuple[int, int]) -> int:
    """Return how many layers lie side by side: three in a wide movie, else those of a square."""
    if num_pages == 3 and size == _MP4_SIZE:
        return 3  # a square would have an empty quarter
    return math.ceil(math.sqrt(num_pages))


def _write_mp4(path: Path, pages: Iterator[Pixels], seconds: npt.NDArray[np.float64]) -> None:
    first = next(pages)
    rate = Fraction((len(seconds) - 1) / float(seconds[-1])).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(rate, Fraction(1, 10)))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = Fraction(1, _TICKS)
        # Slower presets take several times as long as all drawing, for a few percent.
        codec.options = {"preset": "superfast", "crf": "18"}
        codec.colorspace = codec.color_primaries = codec.color_trc = Colorspace.ITU709
        codec.color_range = ColorRange.MPEG
        for number in range(len(seconds) - 1):
            page = first if number == 0 else next(pages)
            picture = av.VideoFrame.from_ndarray(page, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            picture.pts = round(float(seconds[number]) * _TICKS)
            picture.time_base = Fraction(1, _TICKS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_gif(path: Path, pages: Iterator[Pixels], seconds: npt.NDArray[np.float64]) -> None:
    # A palette for each frame: one for all would have to be known before the first.
    images = (Image.fromarray(page).quantize(256, dither=Image.Dither.NONE) for page in pages)
    # GIF counts hundredths; the rounded times are kept, so that errors do not add up.
    ticks = np.diff(np.rint(seconds * 100)).astype(int) * 10
    durations = np.maximum(ticks, _LEAST_GIF_DURATION).tolist()
    next(images).save(
        path,
        format="GIF",
        save_all=True,
        append_images=images,
        duration=durations if len(durations) > 1 else durations[0],
        loop=0,
    )
