"""Decode a stream to its coded pictures and exported motion vectors, packet by packet.

Only ever with one decoding thread: under frame threading FFmpeg exports wrong vectors from
streams with B-frames, silently and differently in each run, while the pictures stay right
(measured). Work is spread over videos instead.

A packet that does not decode costs its own pictures, never the rest of the stream: decoding goes
on, and every picture that may show the damage is marked.
"""

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
from gopstream.pipeline.stream_faults import PacketAccount, PictureClock, add_fault
from gopstream.pipeline.window import WindowCut, packet_time, window_packets

MAX_PACKETS_WITHOUT_PICTURE: Final = 3000
"""A stream that goes on without yielding a picture is given up after this many packets."""


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
    """A key picture before it was decoded and is not shown: an edit list of the container hides
    it, or it comes before the window."""

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
    cut: WindowCut | None = None,
) -> Iterator[CodedStream]:
    """Open a video for decoding; leaving the context closes the file.

    Args:
        path: A local file.
        with_vectors: Whether the decoder exports motion vectors.
        on_packet: Called with each packet before it is decoded, in the stream's order; not with
            the empty one at the end.
        cut: A part of the video; only its frames come out, and only what they need is decoded.

    Raises:
        NotAVideoError: If it is none.
        BitstreamError: From the iterator, when the file ends before the first picture, or
            yields no picture for very long; of a window also when frames have no time stamps.
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
        frames = _decode_frames(container, stream, coded, path=path, on_packet=on_packet, cut=cut)
        coded.frames = frames if cut is None else _window_frames(frames, cut, name=path.name)
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
    cut: WindowCut | None,
) -> Iterator[DecodedFrame]:
    clock = PictureClock(stream, coded.faults)
    account = PacketAccount(
        stream.codec_context.codec.canonical_name,
        coded.faults,
        first_pts=None if cut is None or cut.landing is None else cut.landing.pts,
    )
    num_frames = num_barren = 0
    packets = _packets(container, stream, coded.faults, path=path, cut=cut)
    for number, packet in enumerate(packets):
        if on_packet is not None and packet.size:
            on_packet(packet)
        account.add(packet)
        coded.num_hidden = account.num_hidden
        try:
            pictures = packet.decode()
        except av.error.FFmpegError as error:
            pictures = []
            if account.lose(packet):
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
    coded.lost_at_end = account.lost_at_end
    if cut is None or cut.end_pts is None:
        clock.check_end(container, stream)


def _window_frames(
    frames: Iterator[DecodedFrame], cut: WindowCut, *, name: str
) -> Iterator[DecodedFrame]:
    """Pass on the frames of a window; the first one says what state it was decoded from."""
    has_key = is_tainted = is_inside = False
    for frame in frames:
        if frame.pts < cut.first_pts:
            has_key |= frame.is_key or frame.follows_hidden_key
            if frame.kind != "B":
                is_tainted = frame.is_damaged or (is_tainted and not frame.is_key)
        elif cut.holds(frame.pts):
            if not is_inside and has_key:
                frame = frame._replace(follows_hidden_key=not is_tainted)
            is_inside = True
            yield frame
        del frame  # while the next one is decoded, nothing here keeps this one alive
    if not is_inside:
        raise BitstreamError(f"{name}: no picture decodes from {cut.window}")


def _packets(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    faults: list[str],
    *,
    path: Path,
    cut: WindowCut | None,
) -> "Iterator[VideoPacket]":
    """Yield packets until the file ends or cannot be read on; then the decoder is flushed."""
    try:
        if cut is None:
            yield from demux_packets(container, stream)
            return
        for packet in window_packets(container, stream, cut, name=path.name):
            if packet.size:
                packet_time(packet, path)
            yield packet
    except av.error.FFmpegError as error:
        # A cut file: what came before it is good.
        add_fault(faults, f"the file cannot be read to its end ({error.strerror})")
        flush = av.packet.Packet()
        flush.stream = stream
        yield flush  # type: ignore[misc]  # its stream is set, which the stub cannot know


def _decoded_frame(
    picture: av.video.frame.VideoFrame, clock: PictureClock, account: PacketAccount
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


# AVPictureType: SI and SP switch streams and count as what they are coded like.
_KINDS: Final = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}


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
