"""What a video file is, learned from its header and its first frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import av.container
import av.error
import av.video.frame
import av.video.stream

from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.picture_folder import decode_first, list_pictures, picture_time_base

if TYPE_CHECKING:
    from av.packet import Packet

MAX_PIXELS: Final = 139_264 * 256
"""The largest picture of H.264 (level 6.2, MaxFS in macroblocks, table A-1): 8192x4352."""

# Demuxers that make a "video" of something that is none (text art, single pictures), or that
# read other files or addresses named inside the file (playlists).
_REFUSED_CONTAINERS: Final = frozenset(
    {"tty", "image2", "hls", "dash", "concat", "imf", "sdp", "webvtt", "lrc", "srt"}
)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """One video stream of a file, as its first frame shows it."""

    path: Path
    container: str
    """FFmpeg's name of the demuxer, such as ``mov,mp4,m4a,3gp,3g2,mj2``."""
    codec: str
    profile: str
    stream_index: int
    """Index of the chosen stream among all streams of the file."""
    width: int
    """Display width in pixels, before rotation and aspect."""
    height: int
    rotation: int
    """Degrees that FFmpeg turns the picture by when it shows it: 0, 90, 180 or 270."""
    sample_aspect_ratio: Fraction
    """Width of a pixel over its height; 1 when the file does not say."""
    pixel_format: str
    may_be_interlaced: bool
    """The stream does not promise progressive frames, or the first one is interlaced."""
    matrix: str
    """FFmpeg's name of the colour matrix; ``unspecified`` when the file does not say."""
    full_range: bool
    average_rate: Fraction
    """Frames per second by the header; 0 when the file does not say."""
    duration_seconds: float | None
    num_frames_by_header: int
    """What the container claims, often 0 or wrong: never a basis for anything exact."""
    time_base: Fraction | None = None
    """Seconds per unit of the time stamps, by the header."""
    picture_time_base: Fraction | None = None
    """Seconds from one picture to the next, where ``path`` is a folder of numbered pictures."""


_PROGRESSIVE: Final = 1

# ISO/IEC 23091-2, table 4 (MatrixCoefficients), under the names that FFmpeg's filters use.
_MATRIX_NAMES: Final = {
    0: "gbr",
    1: "bt709",
    2: "unspecified",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
}


@contextmanager
def open_container(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file for demuxing, refusing what only looks like a video.

    Raises:
        NotAVideoError: If FFmpeg does not know the format, or it is text, a single picture
            or a playlist that leads to other files.
    """
    try:
        # "file:" keeps a name such as "http:x.mp4" or "-" from being read as an address.
        container = av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file") from error
        reason = f"FFmpeg cannot read it ({getattr(error, 'strerror', None) or error})"
        if path.stat().st_size == 0:
            reason = "the file is empty"
        raise NotAVideoError(f"{path.name}: not a video: {reason}") from error
    with container:
        names = set(container.format.name.split(","))
        if names & _REFUSED_CONTAINERS or any(name.endswith("_pipe") for name in names):
            raise NotAVideoError(
                f"{path.name}: not a video: FFmpeg reads it as {container.format.long_name!r} "
                f"({container.format.name})"
            )
        yield container


def best_video_stream(
    container: av.container.InputContainer, path: Path
) -> av.video.stream.VideoStream:
    """Choose the stream that a player would show; cover pictures do not count.

    Raises:
        NotAVideoError: If there is none.
    """
    stream = container.streams.best("video")
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams})
        raise NotAVideoError(f"{path.name}: no video stream, only {', '.join(kinds) or 'nothing'}")
    assert isinstance(stream, av.video.stream.VideoStream)
    if stream.codec_context is None:
        raise NotAVideoError(f"{path.name}: FFmpeg does not know the codec of its video stream")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise NotAVideoError(f"{path.name}: no video stream, only an attached picture")
    return stream


def demux_packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> "Iterator[Packet[av.video.stream.VideoStream]]":
    """Yield the packets of a stream, then the empty one that flushes its decoder.

    Raises:
        av.error.FFmpegError: Where the file cannot be read.
    """
    is_flushed = False
    try:
        for packet in container.demux(stream):
            is_flushed = packet.size == 0
            yield packet
    except IndexError:
        # At the end PyAV flushes the decoder of each stream, also of those that a transport or
        # program stream shows only later, which it does not know.
        if not is_flushed:
            raise


def open_video(path: Path, *, picture_rate: float | None = None) -> VideoFacts:
    """Read the facts of a file's best video stream; decodes one frame.

    With ``picture_rate``, the path is a folder of numbered JPEG pictures, such as ``00001.jpg``:

    * They are shown in the order of their numbers, which need not begin with 1, at that rate.
    * Missing numbers leave a gap in time, and a warning in the clip.
    * A picture that is cut or broken is shown as far as it decodes, counts as damaged, and is
      named in a warning. One that yields no picture at all fails the extraction.
    * A picture of another size than the first one that decodes is scaled to its size; a warning.
    * Other files are passed over with a warning, those whose names begin with a dot silently.
      Links are followed, but nothing that a file names is ever read.
    * A ``.jpg`` that is no JPEG, or has no number or one that another has, or is named otherwise
      in front of the number than the rest, is an error. So is a folder without pictures.
    * Pixels are square. Only canonical mode takes such a folder: it has no motion vectors.

    Args:
        path: A local file, or a folder of pictures.
        picture_rate: Pictures per second of such a folder.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        NotAVideoError: If nothing in it can be decoded as video, or a folder's pictures are not
            as described.
        ValueError: If the rate is not above 0 and at most 1000.
    """
    path = Path(path)
    if picture_rate is not None:
        return _open_pictures(path, picture_rate)
    if not path.is_file():
        what = "no such file"
        if path.is_dir():
            what = "a folder; one of numbered JPEG pictures needs a picture rate"
        elif path.exists():
            what = "not a regular file"
        raise FileNotFoundError(f"{path}: {what}")
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        frame = _first_frame(container, stream, path)
        duration = container.duration
        if stream.duration is not None and stream.time_base is not None:
            duration_seconds: float | None = float(stream.duration * stream.time_base)
        else:
            duration_seconds = None if duration is None else duration / av.time_base
        return VideoFacts(
            path=path,
            container=container.format.name,
            codec=stream.codec_context.name,
            profile=str(stream.profile or ""),
            stream_index=stream.index,
            width=frame.width,
            height=frame.height,
            rotation=frame.rotation % 360,
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            pixel_format=frame.format.name,
            may_be_interlaced=frame.interlaced_frame or _field_order(stream) > _PROGRESSIVE,
            matrix=_MATRIX_NAMES.get(int(frame.colorspace), "unspecified"),
            full_range=_is_full_range(frame),
            average_rate=Fraction(stream.average_rate or 0),
            duration_seconds=duration_seconds,
            num_frames_by_header=stream.frames,
            time_base=stream.time_base,
        )


def _open_pictures(folder: Path, picture_rate: float) -> VideoFacts:
    time_base = picture_time_base(picture_rate)
    pictures = list_pictures(folder)
    frame = decode_first(pictures, max_pixels=MAX_PIXELS)
    return VideoFacts(
        path=folder,
        container="image2",
        codec="mjpeg",
        profile="",
        stream_index=0,
        width=frame.width,
        height=frame.height,
        rotation=frame.rotation % 360,
        sample_aspect_ratio=Fraction(1),
        pixel_format=frame.format.name,
        may_be_interlaced=False,
        matrix=_MATRIX_NAMES.get(int(frame.colorspace), "unspecified"),
        full_range=_is_full_range(frame),
        average_rate=1 / time_base,
        duration_seconds=float((pictures.times[-1] + 1) * time_base),
        num_frames_by_header=len(pictures.paths),
        time_base=time_base,
        picture_time_base=time_base,
    )


def _is_full_range(frame: av.video.frame.VideoFrame) -> bool:
    return int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")


def _field_order(stream: av.video.stream.VideoStream) -> int:
    """Return AVFieldOrder of the stream: 0 not known, 1 progressive, more interlaced."""
    return int(getattr(stream.codec_context, "field_order", 0))


def _first_frame(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, path: Path
) -> av.video.frame.VideoFrame:
    """Decode until one frame comes out; a few broken packets at the start are passed over."""
    stream.codec_context.thread_type = "NONE"
    # Unaligned: otherwise columns that are cropped at the left stay, for the sake of alignment.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), "flags": "+unaligned"}
    last_error: av.error.FFmpegError | None = None
    try:
        for packet in demux_packets(container, stream):
            try:
                for frame in packet.decode():
                    assert isinstance(frame, av.video.frame.VideoFrame)
                    return frame
            except av.error.FFmpegError as error:
                last_error = error
    except av.error.FFmpegError as error:
        last_error = error  # the file cannot be read on
    reason = f" ({last_error.strerror})" if last_error else ""
    raise NotAVideoError(
        f"{path.name}: the {stream.codec_context.name} stream has no frame that decodes{reason}"
    )
