"""A part of a video by time, and where decoding has to begin so that its frames come out right.

Time counts from the container's start time, as with FFmpeg's ``-ss``. Times are compared in whole
microseconds, FFmpeg's own unit: a frame belongs to a window if its rounded time is not less than
the rounded start and is less than the rounded end. Nothing but time stamps decides; where a
container rounds them (Matroska to milliseconds), the rounded ones count.

A seek leads to where the container's index says. Decoding begins at the last key frame that is
shown by the start of the window and that nothing after it looks behind: some frames that a
container calls key frames begin a gradual refresh, and what is shown before a key frame, although
it follows in the stream, looks behind it. The search goes back until it finds one, at worst to the
beginning of the file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import av.container
import av.error
import av.packet
import av.video.stream

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.h264_entry import EntryFinder
from gopstream.pipeline.probe import VideoFacts, best_video_stream, demux_packets, open_container

if TYPE_CHECKING:
    VideoPacket = av.packet.Packet[av.video.stream.VideoStream]  # generic in the stubs alone

_MICROSECONDS: Final = 1_000_000
_SEEK_TO_PTS: Final = 0x4000000
"""AVFMT_SEEK_TO_PTS."""
_FIRST_STEP_BACK: Final = 1.0
"""Seconds; doubled until a key frame is found."""


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The frames with ``start_seconds`` <= t < ``end_seconds``."""

    start_seconds: float
    end_seconds: float | None
    """None for the end of the video."""

    def __post_init__(self) -> None:
        """Refuse times that cannot be meant."""
        start, end = self.start_seconds, self.end_seconds
        if not (math.isfinite(start) and start >= 0):
            raise ValueError(f"a window must start at 0 s or later, got {start}")
        if end is not None and not (math.isfinite(end) and end > start):
            raise ValueError(f"a window must end after its start at {start} s, got {end}")

    def __str__(self) -> str:
        """Say it in words."""
        end = "the end" if self.end_seconds is None else f"{self.end_seconds:.6g} s"
        return f"{self.start_seconds:.6g} s to {end}"


@dataclass(frozen=True, slots=True)
class Landing:
    """The packet at which decoding begins."""

    seek_pts: int
    """Where to seek so that it comes, in the stream's time base."""
    pts: int
    dts: int | None
    seeks_by_pts: bool
    """Whether the container's index is searched by presentation times."""


@dataclass(frozen=True, slots=True)
class WindowCut:
    """A window in the time stamps of one stream."""

    window: TimeWindow
    first_pts: int
    """The least time stamp inside."""
    end_pts: int | None
    """The least one behind it."""
    origin_pts: int
    """The container's start time, to the nearest unit."""
    time_base: Fraction
    landing: Landing | None
    """None for the beginning of the file."""
    duration_seconds: float | None
    """Of the whole video, by the header."""

    def holds(self, pts: int) -> bool:
        """Tell whether a time stamp lies inside."""
        return pts >= self.first_pts and (self.end_pts is None or pts < self.end_pts)

    def empty_error(self, name: str) -> BitstreamError:
        """Return the error for a window without frames."""
        lasts = self.duration_seconds
        length = "does not say how long it is" if lasts is None else f"lasts {lasts:.6g} s"
        return BitstreamError(f"{name}: no frame from {self.window}; the video {length}")


def locate_window(facts: VideoFacts, window: TimeWindow) -> WindowCut:
    """Find where in a file a window lies, by seeking; decodes nothing.

    Args:
        facts: The video, from :func:`gopstream.pipeline.probe.open_video`.
        window: The part of it that is meant.

    Raises:
        BitstreamError: If no frame lies in it, or its frames have no time stamps.
    """
    path = facts.path
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        cut = _cut_without_landing(container, stream, window, lasts=facts.duration_seconds)
        # A deinterlacer looks at the frame before.
        latest = cut.first_pts - 1 if facts.may_be_interlaced else cut.first_pts
        landing = _search_landing(container, stream, path, latest=latest)
        cut = replace(cut, landing=landing)
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        for packet in window_packets(container, stream, cut, name=path.name):
            if packet.size and not packet.is_discard and cut.holds(packet_time(packet, path)):
                return cut
    raise cut.empty_error(path.name)


def _cut_without_landing(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    window: TimeWindow,
    *,
    lasts: float | None,
) -> WindowCut:
    time_base = stream.time_base or Fraction(1, _MICROSECONDS)
    unit = time_base * _MICROSECONDS
    half = Fraction(1, 2)
    origin = math.floor((container.start_time or 0) / unit + half)

    def bound(seconds: float) -> int:
        """Return the least time stamp whose time, in rounded microseconds, is not earlier."""
        return origin + math.ceil((round(seconds * _MICROSECONDS) - half) / unit)

    end = window.end_seconds
    return WindowCut(
        window=window,
        first_pts=bound(window.start_seconds),
        end_pts=None if end is None else bound(end),
        origin_pts=origin,
        time_base=time_base,
        landing=None,
        duration_seconds=lasts,
    )


def _search_landing(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    path: Path,
    *,
    latest: int,
) -> Landing | None:
    """Seek ever further back until a key frame is found that is shown at ``latest`` or before."""
    time_base = stream.time_base or Fraction(1, _MICROSECONDS)
    start = 0 if stream.start_time is None else stream.start_time
    entries = None
    if stream.codec_context.codec.canonical_name == "h264":
        entries = EntryFinder(stream.codec_context.extradata)
    back = 0.0
    while (target := latest - math.ceil(back / float(time_base))) > start:
        landing = None
        try:
            container.seek(target, stream=stream)
            for packet in demux_packets(container, stream):
                if packet.size == 0 or (packet.dts is not None and packet.dts > latest):
                    break
                if (
                    packet.is_keyframe
                    and packet_time(packet, path) <= latest
                    and (entries is None or entries.is_entry(bytes(packet)))
                ):
                    landing = _landing_at(packet, container, seek_pts=target)
        except av.error.FFmpegError:
            return None  # no index, or a broken one: all is decoded, and dropped by time
        if landing is not None:
            return landing
        back = max(_FIRST_STEP_BACK, 2 * back)
    return None


def _landing_at(
    packet: "VideoPacket", container: av.container.InputContainer, *, seek_pts: int
) -> Landing:
    assert packet.pts is not None
    by_pts = bool(container.format.flags & _SEEK_TO_PTS)
    return Landing(seek_pts=seek_pts, pts=packet.pts, dts=packet.dts, seeks_by_pts=by_pts)


def packet_time(packet: "VideoPacket", path: Path) -> int:
    """Return a packet's time stamp.

    Raises:
        BitstreamError: If it has none, as in a bare stream without a container, or one that is
            guessed: AVI keeps only the order of decoding.
    """
    is_guessed = packet.pts != packet.dts and packet.stream.container.format.name == "avi"
    if packet.pts is None or is_guessed:
        raise BitstreamError(
            f"{path.name}: frames without time stamps of their own, so that no window can be cut; "
            "put the stream into MP4 or Matroska, or take the whole video"
        )
    return packet.pts


def window_packets(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    cut: WindowCut,
    *,
    name: str,
) -> "Iterator[VideoPacket]":
    """Yield the packets that a decoder needs for a window, then the empty one that flushes it.

    The first one is the landing; what comes before it in the file is passed over.

    Raises:
        av.error.FFmpegError: Where the file cannot be read.
        BitstreamError: If seeking does not lead to the landing, as it did before.
    """
    landing = cut.landing
    has_landed = landing is None
    if landing is not None:
        container.seek(landing.seek_pts, stream=stream)
    for packet in demux_packets(container, stream):
        if landing is not None and not has_landed:
            has_landed = packet.size > 0 and packet.is_keyframe and packet.pts == landing.pts
            if packet.size == 0:
                raise BitstreamError(f"{name}: a second seek leads elsewhere; remux the file")
            if not has_landed:
                continue
        if cut.end_pts is not None and packet.dts is not None and packet.dts >= cut.end_pts:
            # Nothing is shown before it is decoded: the window is complete.
            flush = av.packet.Packet()
            flush.stream = stream
            yield flush  # type: ignore[misc]  # its stream is set, which the stub cannot know
            return
        yield packet


def window_times(facts: VideoFacts, cut: WindowCut) -> list[int]:
    """Return the time stamps that the packets of a window promise, rising, without twins.

    Raises:
        BitstreamError: If a packet has none.
    """
    path = facts.path
    times: set[int] = set()
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        try:
            for packet in window_packets(container, stream, cut, name=path.name):
                if packet.size and not packet.is_discard and cut.holds(packet_time(packet, path)):
                    times.add(packet_time(packet, path))
        except av.error.FFmpegError:
            pass  # a cut file: what the decoders make of it is compared
    return sorted(times)
