"""From a video file to clips: the one place where the steps of the pipeline are put together."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gopstream.pipeline.canonical_clips import CanonicalSource, SourcePart
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.decode import CodedStream, open_coded
from gopstream.pipeline.errors import BitstreamError, TranscodeError
from gopstream.pipeline.frame_spool import FrameSpool
from gopstream.pipeline.mvextractor_backend import replace_vectors
from gopstream.pipeline.native import plan_native
from gopstream.pipeline.native_clips import NativeReader
from gopstream.pipeline.options import ExtractionOptions, OnProgress
from gopstream.pipeline.picture_folder import pack_pictures
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.transcode import default_ffmpeg
from gopstream.pipeline.window import TimeWindow, WindowCut, locate_window


def extract_clip(
    path: Path | str,
    *,
    options: ExtractionOptions | None = None,
    ffmpeg_binary: str | None = None,
) -> Clip:
    """Extract a whole video as one clip, all of it in memory.

    Args:
        path: A local video file.
        options: Mode, sizes, quality and planes; ``segment_frames`` is ignored.
        ffmpeg_binary: The FFmpeg to use; by default the one of imageio-ffmpeg.

    Raises:
        FileNotFoundError: If there is no such file.
        PipelineError: If it is no video, or cannot be transcoded or decoded.
    """
    clips = _extract(
        Path(path),
        options or ExtractionOptions(),
        ffmpeg_binary or default_ffmpeg(),
        whole=True,
        facts=None,
        window=None,
        on_progress=lambda: None,
    )
    return next(clips)


def extract_segments(
    path: Path | str,
    *,
    facts: VideoFacts | None = None,
    window: TimeWindow | None = None,
    options: ExtractionOptions | None = None,
    ffmpeg_binary: str | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Clip]:
    """Extract a video, or a part of it, as clips of at most ``segment_frames``.

    Canonical clips, and native ones with a residual, begin with an I-frame. Memory holds one clip
    at a time, however long the video is.

    A window is cut by seeking: what is decoded besides its frames lies between them and the key
    frame before. ``first_frame`` and the stored frames count from the window's first one, ``pts``
    do not: they are those of the whole video. Native clips keep the vectors of their first frame
    as the stream has them, which lead to a frame outside of the clip, as in every later segment;
    motion is accumulated between frames of a clip and never follows them. They have a residual
    only where the window begins with an I-frame.

    Args:
        path: A local video file, or a folder of pictures (with its ``facts``).
        facts: What :func:`open_video` says of it, where that is known already.
        window: The part that is meant; None for all.
        options: Mode, sizes, quality and planes.
        ffmpeg_binary: The FFmpeg to use; by default the one of imageio-ffmpeg.
        on_progress: Called every few frames; may raise to stop.

    Raises:
        FileNotFoundError: If there is no such file.
        PipelineError: If it is no video, or cannot be transcoded or decoded; if no frame lies in
            the window, or it cannot be cut exactly.
    """
    return _extract(
        Path(path),
        options or ExtractionOptions(),
        ffmpeg_binary or default_ffmpeg(),
        whole=False,
        facts=facts,
        window=window,
        on_progress=on_progress or (lambda: None),
    )


def _extract(
    path: Path,
    options: ExtractionOptions,
    binary: str,
    *,
    whole: bool,
    facts: VideoFacts | None,
    window: TimeWindow | None,
    on_progress: OnProgress,
) -> Iterator[Clip]:
    """Yield clips; errors that arise below the file's level are given its name."""
    try:
        facts = facts or open_video(path)
        if options.mode == "native":
            yield from _native_clips(
                facts, options, whole=whole, window=window, on_progress=on_progress
            )
            return
        with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
            part = _source_part(facts, Path(folder), window=window, on_progress=on_progress)
            yield from _canonical_clips(
                part, options, binary, Path(folder), whole=whole, on_progress=on_progress
            )
    except (BitstreamError, TranscodeError) as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path.name}: {error}") from error


def _source_part(
    facts: VideoFacts, folder: Path, *, window: TimeWindow | None, on_progress: OnProgress
) -> SourcePart:
    """Find the window; pictures become a video file first, whose name is that of their folder."""
    pictures = None
    if facts.picture_time_base is not None:
        (folder / "source").mkdir()
        packed = folder / "source" / (facts.path.absolute().name or "pictures")
        pictures = pack_pictures(
            facts.path,
            packed,
            size=(facts.width, facts.height),
            time_base=facts.picture_time_base,
            on_progress=on_progress,
        )
        facts = replace(facts, path=packed)
    cut = None if window is None else locate_window(facts, window)
    return SourcePart(facts, cut, pictures)


def _native_clips(
    facts: VideoFacts,
    options: ExtractionOptions,
    *,
    whole: bool,
    window: TimeWindow | None,
    on_progress: OnProgress,
) -> Iterator[Clip]:
    if facts.picture_time_base is not None:
        raise BitstreamError(
            f"{facts.path.name}: a folder of pictures has no motion vectors; canonical mode makes "
            "a stream of them that has"
        )
    if window is not None and options.backend == "mvextractor":
        raise BitstreamError(
            f"{facts.path.name}: mvextractor reads a file from its beginning and cannot cut a "
            "window out of it; choose backend pyav"
        )
    cut = None if window is None else locate_window(facts, window)
    native = plan_native(facts, short_side=options.canonical.short_side, cut=cut)
    limit = None if whole else options.segment_frames
    with _open(facts.path, options, cut=cut) as stream:
        reader = NativeReader(
            native,
            stream,
            options,
            limit=limit,
            on_progress=on_progress,
            is_window=cut is not None,
        )
        while (clip := reader.next_clip()) is not None:
            yield clip
            del clip  # the next one is built without it


def _canonical_clips(
    part: SourcePart,
    options: ExtractionOptions,
    binary: str,
    folder: Path,
    *,
    whole: bool,
    on_progress: OnProgress,
) -> Iterator[Clip]:
    with (folder / "frames.mjpeg").open("w+b") as spool_file:
        source = CanonicalSource(
            part,
            folder / "canonical.nut",
            FrameSpool(spool_file, stride=options.frame_stride),
            options=options,
            binary=binary,
            on_progress=on_progress,
        )
        with _open(source.stream_path, options) as stream:
            step = source.num_frames if whole else options.frames_per_segment
            for first in range(0, source.num_frames, step):
                yield source.read_clip(stream, first_frame=first, limit=step)


@contextmanager
def _open(
    path: Path, options: ExtractionOptions, *, cut: WindowCut | None = None
) -> Iterator[CodedStream]:
    """Open a stream with the vectors of the chosen backend."""
    with open_coded(path, with_vectors=options.backend == "pyav", cut=cut) as stream:
        if options.backend == "mvextractor":
            stream.frames = replace_vectors(stream.frames, path)
        yield stream
