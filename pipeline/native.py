"""Native mode: the vectors of the original stream, where it may not or need not be re-encoded.

Motion and coverage stay at the coded resolution, one field per reference list; frames are scaled
for storage. A residual exists only where the audit proves it to be the codec's own.
"""

from dataclasses import dataclass
from typing import Final

import av.error
import av.filter
import av.video.frame
import numpy as np
import numpy.typing as npt

from gopstream.pipeline.audit import StreamAudit, audit_stream
from gopstream.pipeline.decode import DecodedFrame, coded_planes
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BlockMotion, Planes, whole_macroblocks
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.probe import VideoFacts
from gopstream.pipeline.rotation import rotate_motion, rotate_planes, rotate_rect
from gopstream.pipeline.transcode import SCALER_FLAGS, canonical_matrix, canonical_size
from gopstream.pipeline.window import WindowCut

CODECS_WITH_B_VECTORS: Final = frozenset({"h264", "mpeg1video", "mpeg2video"})
"""Codecs of whose B-frames FFmpeg exports vectors that predict the pictures. For MPEG-4 part 2 it
exports zeros, in other versions other wrong values (measured)."""
_TRANSPOSES: Final = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}


@dataclass(frozen=True, slots=True)
class NativeStream:
    """What is known of a stream before its pictures are read."""

    facts: VideoFacts
    audit: StreamAudit
    frame_size: tuple[int, int]
    """(width, height) of stored frames."""

    @property
    def turns(self) -> int:
        """Quarter turns, counterclockwise, that make the pictures upright."""
        return self.facts.rotation // 90

    @property
    def num_lists(self) -> int:
        """1 where no B-frame is certain, otherwise 2."""
        return 1 if self.audit.has_b_frames is False else 2

    @property
    def coded_size(self) -> tuple[int, int]:
        """(width, height) of the upright coded picture, multiples of 16."""
        width, height = self._coded_size()
        return (height, width) if self.turns % 2 else (width, height)

    @property
    def display_rect(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the upright picture to show, inside the coded one."""
        return rotate_rect(self.decoded_rect, self.turns, size=self._coded_size())

    def _coded_size(self) -> tuple[int, int]:
        if self.audit.coded_size is not None:
            return self.audit.coded_size
        return whole_macroblocks(self.facts.width), whole_macroblocks(self.facts.height)

    @property
    def decoded_rect(self) -> tuple[int, int, int, int]:
        """Return what a player shows, before turning."""
        if self.audit.display_rect is None:
            return 0, 0, self.facts.width, self.facts.height
        # The first frame's size counts, as a container may crop more than the stream does.
        x, y, _, _ = self.audit.display_rect
        return x, y, self.facts.width, self.facts.height

    def motion_of(self, frame: DecodedFrame) -> BlockMotion:
        """Return a frame's motion on the upright grid.

        Raises:
            BitstreamError: If the frame is interlaced or has another size.
        """
        if frame.kind == "B" and self.audit.codec not in CODECS_WITH_B_VECTORS:
            raise BitstreamError(
                f"{self.facts.path.name}: FFmpeg exports wrong vectors for the B-frames of "
                f"{self.audit.codec}; canonical mode re-encodes it"
            )
        if frame.is_interlaced:
            raise BitstreamError(
                f"{self.facts.path.name}: interlaced: the vertical unit of its vectors is not "
                "told by the decoder; canonical mode deinterlaces"
            )
        width, height = (
            whole_macroblocks(frame.picture.width),
            whole_macroblocks(frame.picture.height),
        )
        fields = rasterise_vectors(
            frame.vectors, coded_height=height, coded_width=width, num_lists=self.num_lists
        )
        return rotate_motion(fields, self.turns) if self.turns else fields

    def planes_of(self, frame: DecodedFrame) -> Planes:
        """Return a frame's coded planes, upright."""
        return rotate_planes(frame.planes, self.turns) if self.turns else frame.planes


def plan_native(
    facts: VideoFacts, *, short_side: int, cut: WindowCut | None = None
) -> NativeStream:
    """Audit a video, or a window of it, for native mode.

    Raises:
        BitstreamError: If its codec exports no motion vectors, or it is interlaced.
    """
    audit = audit_stream(facts.path, cut=cut)
    if not audit.exports_motion:
        raise BitstreamError(
            f"{facts.path.name}: {audit.codec} has no motion vectors that a decoder exports; "
            "canonical mode re-encodes it"
        )
    if audit.is_interlaced:
        raise BitstreamError(
            f"{facts.path.name}: interlaced ({audit.interlacing}): the vertical unit of its "
            "vectors is not told by the decoder; canonical mode deinterlaces"
        )
    return NativeStream(facts, audit, canonical_size(facts, short_side))


def motion_warnings(stream: NativeStream, kinds: str) -> list[str]:
    """Return what a user of the motion of frames of these kinds should know."""
    references = stream.audit.max_active_references
    if "B" in kinds:
        return ["B-frames: which frame a vector leads to is not known"]
    if references is not None and references > 1:
        return [f"up to {references} references: which one a vector leads to is not known"]
    return []


class PictureScaler:
    """Scales decoded pictures to stored frames, upright, as the canonical transcode does."""

    def __init__(self, stream: NativeStream) -> None:
        """Prepare for the pictures of a stream."""
        self._stream = stream
        self._matrix = canonical_matrix(stream.facts)
        self._origin = stream.decoded_rect[:2]
        self._graph: av.filter.Graph | None = None

    def scale(self, picture: av.video.frame.VideoFrame) -> npt.NDArray[np.uint8]:
        """Return (H * 3 / 2, W) uint8 I420, limited range, like ``transcode_frames``."""
        if self._is_stored_as_it_is(picture):
            return self._copy(coded_planes(picture))
        if self._graph is None:
            self._graph = self._build(picture)
        try:
            self._graph.vpush(picture)
            scaled = self._graph.vpull().to_ndarray()
        except av.error.FFmpegError as error:
            facts = self._stream.facts
            raise BitstreamError(
                f"{facts.path.name}: FFmpeg cannot convert its pictures ({facts.pixel_format}, "
                f"colour matrix {facts.matrix}: {error.strerror})"
            ) from error
        return scaled.astype(np.uint8, copy=False)

    def _is_stored_as_it_is(self, picture: av.video.frame.VideoFrame) -> bool:
        """Tell whether scaling would change nothing."""
        facts = self._stream.facts
        return (
            picture.format.name == "yuv420p"
            and not facts.full_range
            and facts.rotation == 0
            and facts.matrix in (self._matrix, "unspecified")
            and self._stream.frame_size == (facts.width, facts.height)
        )

    def _copy(self, planes: Planes) -> npt.NDArray[np.uint8]:
        x, y = self._origin
        width, height = self._stream.frame_size
        picture = np.empty(width * height * 3 // 2, np.uint8)
        picture[: width * height].reshape(height, width)[:] = planes.y[
            y : y + height, x : x + width
        ]
        chroma = picture[width * height :].reshape(2, height // 2, width // 2)
        rows, columns = slice(y // 2, (y + height) // 2), slice(x // 2, (x + width) // 2)
        chroma[0] = planes.cb[rows, columns]
        chroma[1] = planes.cr[rows, columns]
        return picture.reshape(height * 3 // 2, width)

    def _build(self, picture: av.video.frame.VideoFrame) -> av.filter.Graph:
        facts = self._stream.facts
        x, y = self._origin
        width, height = self._stream.frame_size
        graph = av.filter.Graph()
        graph.threads = 1
        assert picture.time_base is not None
        nodes = [
            graph.add_buffer(
                width=picture.width,
                height=picture.height,
                format=picture.format,
                time_base=picture.time_base,
            ),
            graph.add("crop", f"{facts.width}:{facts.height}:{x}:{y}:exact=1"),
        ]
        for turn in _TRANSPOSES.get(self._stream.turns, ()):
            name, _, argument = turn.partition("=")
            nodes.append(graph.add(name, argument or None))
        nodes += [
            graph.add(
                "scale",
                f"{width}:{height}:flags={SCALER_FLAGS}"
                f":out_color_matrix={self._matrix}:out_range=tv",
            ),
            graph.add("format", "yuv420p"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph
