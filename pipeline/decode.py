"""Decode a stream to its coded pictures and exported motion vectors, packet by packet.

Only ever with one decoding thread: under frame threading FFmpeg exports wrong vectors from
streams with B-frames, silently and differently in each run, while the pictures stay right
(measured). Work is spread over videos instead.

A packet that does not decode costs its own pictures, never the rest of the stream: decoding goes
on, and every picture that may show the damage is marked.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import av
import av.error
import av.packet
import av.video.frame
import av.video.stream
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType

from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import Planes
from gopstream.pipeline.luma import plane_view
from gopstream.pipeline.motion import VECTOR_DTYPE
from gopstream.pipeline.probe import MAX_PIXELS, best_video_stream, demux_packets, open_container

MAX_PACKETS_WITHOUT_PICTURE: Final = 3000
"""A stream that goes on without yielding a picture is given up after this many packets."""
_MAX_LISTED_FAULTS: Final = 20
_ONE_PICTURE_PER_PACKET: Final = ("h264", "mpeg1video", "mpeg2video")
_JUMP_STEPS: Final = 8
"""A longer pause, in frames of the average rate, is reported."""
_EARLY_END_SHARE, _EARLY_END_SECONDS = 0.1, 0.25


if TYPE_CHECKING:
    VideoPacket = av.packet.Packet[av.video.stream.VideoStream]  # generic in the stubs alone


class DecodedFrame(NamedTuple):
    """One picture in presentation order."""

    picture: av.video.frame.VideoFrame
    """The coded picture, cropping not applied."""
    kind: str
    """``I``, ``P`` or ``B``."""
    pts: int
    """Presentation time in units of the stream's time base."""
    vectors: npt.NDArray[np.void] | None
    """(K,) records, FFmpeg's AVMotionVector; None in an I-frame."""
    is_key: bool
    """Nothing after it, in decoding order, is predicted from anything before it."""
    is_interlaced: bool
    is_damaged: bool
    """The decoder concealed something in it, or lost a packet right before it. Pictures predicted
    from it are not marked here: see :mod:`gopstream.pipeline.damage`."""
    follows_hidden_key: bool
    """An edit list of the container hides a key picture before it, which was decoded."""

    @property
    def planes(self) -> Planes:
        """The planes, where FFmpeg keeps them: valid as long as ``picture`` is."""
        return coded_planes(self.picture)


@dataclass(slots=True)
class CodedStream:
    """A stream being decoded."""

    codec: str
    stream_index: int
    display_width: int
    display_height: int
    time_base: Fraction
    """Seconds per unit of pts."""
    frames: Iterator[DecodedFrame]
    faults: list[str] = field(default_factory=list)
    """What was wrong so far, in words; grows while ``frames`` is consumed."""
    lost_at_end: bool = False
    """Packets after the last picture did not decode."""
    num_hidden: int = 0
    """Pictures so far that an edit list of the container hides; they were decoded."""


@contextmanager
def open_coded(
    path: Path,
    *,
    with_vectors: bool = True,
    on_packet: "Callable[[VideoPacket], None] | None" = None,
) -> Iterator[CodedStream]:
    """Open a video for decoding; leaving the context closes the file.

    Args:
        path: A local file.
        with_vectors: Whether the decoder exports motion vectors.
        on_packet: Called with each packet before it is decoded, in the stream's order; not with
            the empty one at the end.

    Raises:
        NotAVideoError: If it is none.
        BitstreamError: From the iterator, when the file ends before the first picture, or
            yields no picture for very long.
    """
    with open_container(path) as container:
        stream = best_video_stream(container, path)
        context = stream.codec_context
        coded = CodedStream(
            codec=context.name,
            stream_index=stream.index,
            display_width=context.width,
            display_height=context.height,
            time_base=stream.time_base or Fraction(1, av.time_base),
            frames=iter(()),
        )
        context.thread_type = "NONE"
        # The container's cropping would hide coded columns and rows, which predictions read.
        context.options = decoder_options(with_vectors=with_vectors)
        coded.frames = _decode_frames(container, stream, coded, path=path, on_packet=on_packet)
        yield coded


def decoder_options(*, with_vectors: bool) -> dict[str, str]:
    """Return libavcodec's options: whole coded pictures, of bounded size."""
    options = {"apply_cropping": "0", "max_pixels": str(MAX_PIXELS)}
    return options | ({"flags2": "+export_mvs"} if with_vectors else {})


def _decode_frames(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    coded: CodedStream,
    *,
    path: Path,
    on_packet: "Callable[[VideoPacket], None] | None",
) -> Iterator[DecodedFrame]:
    clock = _Clock(stream, coded.faults)
    account = _Account(stream.codec_context.codec.canonical_name, coded)
    num_frames = num_barren = 0
    for number, packet in enumerate(_packets(container, stream, coded.faults)):
        if on_packet is not None and packet.size:
            on_packet(packet)
        account.add(packet)
        try:
            pictures = packet.decode()
        except av.error.FFmpegError as error:
            pictures = []
            account.lose(packet)
            add_fault(coded.faults, f"packet {number} does not decode ({error.strerror})")
        num_barren = 0 if pictures else num_barren + 1
        if num_barren > MAX_PACKETS_WITHOUT_PICTURE:
            raise BitstreamError(
                f"{path.name}: no picture came out of {num_barren} packets after frame "
                f"{num_frames}; the stream is broken"
            )
        num_frames += len(pictures)
        while pictures:
            # Popped, so that nothing here keeps a picture alive: the decoder uses its buffer again.
            yield _decoded_frame(pictures.pop(0), clock, account)
    if num_frames == 0:
        why = f": {coded.faults[0]}" if coded.faults else ""
        raise BitstreamError(f"{path.name}: no picture decodes{why}")
    account.close()
    clock.check_end(container, stream)


def _packets(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    faults: list[str],
) -> "Iterator[VideoPacket]":
    """Yield packets until the file ends or cannot be read on; then the decoder is flushed."""
    try:
        yield from demux_packets(container, stream)
    except av.error.FFmpegError as error:
        # A cut file: what came before it is good.
        add_fault(faults, f"the file cannot be read to its end ({error.strerror})")
        flush = av.packet.Packet()
        flush.stream = stream
        yield flush  # type: ignore[misc]  # its stream is set, which the stub cannot know


def add_fault(faults: list[str], fault: str) -> None:
    """List a fault; after the first twenty only say that there are more."""
    if len(faults) < _MAX_LISTED_FAULTS:
        faults.append(fault)
    elif len(faults) == _MAX_LISTED_FAULTS:
        faults.append("and more")


def _decoded_frame(
    picture: av.video.frame.VideoFrame, clock: "_Clock", account: "_Account"
) -> DecodedFrame:
    # Not picture.side_data, which ties picture and side data into a cycle: pictures would then
    # pile up until Python's collector runs, a hundred of them, whatever their size.
    side_data = SideDataContainer(picture).get(  # type: ignore[call-arg]  # the stub forgets it
        SideDataType.MOTION_VECTORS
    )
    # A view of FFmpeg's own records: it keeps them, and the picture, alive.
    vectors = None if side_data is None else np.frombuffer(side_data, VECTOR_DTYPE)
    kind = _KINDS.get(int(picture.pict_type), "?")
    is_damaged = account.take(picture) or picture.is_corrupt
    return DecodedFrame(
        picture=picture,
        kind=kind,
        pts=clock.read(picture),
        vectors=vectors,
        is_key=picture.key_frame,
        is_interlaced=picture.interlaced_frame,
        is_damaged=is_damaged,
        follows_hidden_key=account.hides_key,
    )


class _Account:
    """Which packets went in, and whether their pictures came out."""

    def __init__(self, codec: str, coded: CodedStream) -> None:
        self._coded = coded
        self._is_one_to_one = codec in _ONE_PICTURE_PER_PACKET
        self._times: list[int] = []
        """A heap: of pictures that have not come out."""
        self._corrupt_times: set[int] = set()
        self._num_lost = 0
        self._has_loss = False
        self._said_corrupt = False
        self.hides_key = False

    def add(self, packet: "VideoPacket") -> None:
        """Take a packet, before it is decoded."""
        if packet.is_discard:
            self._coded.num_hidden += 1
            self.hides_key |= packet.is_keyframe
        elif packet.size:
            self._num_lost += 1
            if packet.pts is not None:
                heapq.heappush(self._times, packet.pts)
            if packet.is_corrupt:
                self._take_corrupt(packet)

    def _take_corrupt(self, packet: "VideoPacket") -> None:
        if not self._said_corrupt:
            self._said_corrupt = True
            add_fault(self._coded.faults, "the container marks packets as corrupt")
        if packet.pts is None:
            self._has_loss = True
        else:
            self._corrupt_times.add(packet.pts)

    def lose(self, packet: "VideoPacket") -> None:
        """Take note of a packet that does not decode."""
        self._has_loss = True
        self._num_lost -= not packet.is_discard

    def take(self, picture: av.video.frame.VideoFrame) -> bool:
        """Take a picture that has come out; returns whether it may be damaged."""
        self._num_lost -= 1
        is_damaged = self._has_loss or picture.pts in self._corrupt_times
        self._has_loss = False
        if picture.pts is not None:
            self._corrupt_times.discard(picture.pts)  # times may fall and come again
        while self._times and picture.pts is not None and self._times[0] <= picture.pts:
            # The decoder has dropped what was to be shown before this picture.
            was_dropped = heapq.heappop(self._times) < picture.pts
            is_damaged |= was_dropped and self._is_one_to_one and not picture.key_frame
        return is_damaged

    def close(self) -> None:
        """Report what never came out, and was not reported before."""
        self._coded.lost_at_end = self._has_loss
        if self._is_one_to_one and self._num_lost > 0:
            are = (
                "pictures are lost: what they are"
                if self._num_lost > 1
                else "picture is lost: what it is"
            )
            add_fault(self._coded.faults, f"{self._num_lost} {are} predicted from is missing")


# AVPictureType: SI and SP switch streams and count as what they are coded like.
_KINDS: Final = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}


class _Clock:
    """Presentation times; made up from the frame rate where the file has none."""

    def __init__(self, stream: av.video.stream.VideoStream, faults: list[str]) -> None:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        time_base = stream.time_base or Fraction(1, av.time_base)
        self._step = max(1, round(1 / (rate * time_base)))
        self._rate = rate
        self._faults = faults
        self._time_base = time_base
        self._end = 0
        self._last: int | None = None
        self._said_missing = self._said_falling = self._said_jump = False

    def read(self, picture: av.video.frame.VideoFrame) -> int:
        pts = picture.pts
        if pts is None:
            pts = 0 if self._last is None else self._last + self._step
            if not self._said_missing:
                self._said_missing = True
                add_fault(
                    self._faults,
                    f"pictures without time stamps; they are counted at {float(self._rate):g} per "
                    "second",
                )
        elif self._last is not None and pts <= self._last and not self._said_falling:
            self._said_falling = True
            add_fault(self._faults, "time stamps do not rise")
        elif self._last is not None and pts - self._last > _JUMP_STEPS * self._step:
            self._say_jump(pts)
        self._last = pts
        self._end = max(self._end, pts + max(self._step, picture.duration or 0))
        return pts

    def _say_jump(self, pts: int) -> None:
        if not self._said_jump:
            self._said_jump = True
            assert self._last is not None
            seconds = float((pts - self._last) * self._time_base)
            start = float(self._last * self._time_base)
            add_fault(
                self._faults,
                f"no picture for {seconds:.2f} s after {start:.2f} s: pictures may be missing",
            )

    def check_end(
        self, container: av.container.InputContainer, stream: av.video.stream.VideoStream
    ) -> None:
        """Say when the header promises more: some containers end early without an error."""
        if stream.duration is not None:
            promised = float(stream.duration * self._time_base)
            start = float((stream.start_time or 0) * self._time_base)
        elif container.duration is not None:
            promised = container.duration / av.time_base
            start = (container.start_time or 0) / av.time_base
        else:
            return
        shown = float(self._end * self._time_base) - start
        if self._said_falling:
            return
        if promised - shown > max(_EARLY_END_SECONDS, _EARLY_END_SHARE * promised):
            add_fault(
                self._faults, f"the header says {promised:.2f} s, the pictures end at {shown:.2f} s"
            )


def coded_planes(picture: av.video.frame.VideoFrame) -> Planes:
    """Return the planes of a 4:2:0 picture as views into FFmpeg's padded rows.

    They stay valid as long as the picture lives.

    Raises:
        BitstreamError: If the pixels are not 8-bit 4:2:0.
    """
    if picture.format.name not in ("yuv420p", "yuvj420p"):
        raise BitstreamError(
            f"pixels must be 8-bit 4:2:0 (yuv420p) here, got {picture.format.name}"
        )
    return Planes(*(plane_view(plane) for plane in picture.planes))
