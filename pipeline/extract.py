"""From a video file to clips: the one place where the steps of the pipeline are put together."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gopstream.pipeline.canonical_clips import CanonicalSource
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.decode import CodedStream, open_coded
from gopstream.pipeline.errors import BitstreamError, TranscodeError
from gopstream.pipeline.frame_spool import FrameSpool
from gopstream.pipeline.mvextractor_backend import replace_vectors
from gopstream.pipeline.native import plan_native
from gopstream.pipeline.native_clips import NativeReader
from gopstream.pipeline.options import ExtractionOptions, OnProgress
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.transcode import default_ffmpeg


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
        on_progress=lambda: None,
    )
    return next(clips)


def extract_segments(
    path: Path | str,
    *,
    facts: VideoFacts | None = None,
    options: ExtractionOptions | None = None,
    ffmpeg_binary: str | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Clip]:
    """Extract a video as clips of at most ``segment_frames``.

    Canonical clips, and native ones with a residual, begin with an I-frame. Memory holds one clip
    at a time, however long the video is.

    Args:
        path: A local video file.
        facts: What :func:`open_video` says of it, where that is known already.
        options: Mode, sizes, quality and planes.
        ffmpeg_binary: The FFmpeg to use; by default the one of imageio-ffmpeg.
        on_progress: Called every few frames; may raise to stop.

    Raises:
        FileNotFoundError: If there is no such file.
        PipelineError: If it is no video, or cannot be transcoded or decoded.
    """
    return _extract(
        Path(path),
        options or ExtractionOptions(),
        ffmpeg_binary or default_ffmpeg(),
        whole=False,
        facts=facts,
        on_progress=on_progress or (lambda: None),
    )


def _extract(
    path: Path,
    options: ExtractionOptions,
    binary: str,
    *,
    whole: bool,
    facts: VideoFacts | None,
    on_progress: OnProgress,
) -> Iterator[Clip]:
    """Yield clips; errors that arise below the file's level are given its name."""
    try:
        facts = facts or open_video(path)
        yield from _clips(facts, options, binary, whole=whole, on_progress=on_progress)
    except (BitstreamError, TranscodeError) as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path.name}: {error}") from error


def _clips(
    facts: VideoFacts,
    options: ExtractionOptions,
    binary: str,
    *,
    whole: bool,
    on_progress: OnProgress,
) -> Iterator[Clip]:
    if options.mode == "native":
        native = plan_native(facts, short_side=options.canonical.short_side)
        limit = None if whole else options.segment_frames
        with _open(facts.path, options) as stream:
            reader = NativeReader(native, stream, options, limit=limit, on_progress=on_progress)
            while (clip := reader.next_clip()) is not None:
                yield clip
                del clip  # the next one is built without it
        return
    with (
        tempfile.TemporaryDirectory(prefix="gopstream-") as folder,
        (Path(folder) / "frames.mjpeg").open("w+b") as spool_file,
    ):
        source = CanonicalSource(
            facts,
            Path(folder) / "canonical.nut",
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
def _open(path: Path, options: ExtractionOptions) -> Iterator[CodedStream]:
    """Open a stream with the vectors of the chosen backend."""
    with open_coded(path, with_vectors=options.backend == "pyav") as stream:
        if options.backend == "mvextractor":
            stream.frames = replace_vectors(stream.frames, path)
        yield stream
