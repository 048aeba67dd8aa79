"""A video file as the inspector sees it: the vectors of the original stream.

The file is decoded once to learn what its frames are, and again from wherever frames are asked
for. What cannot be had of a stream is None in its frames, and a warning says why: a look at a
video never fails because of its codec.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import av
import av.video.frame
import numpy as np
import numpy.typing as npt

from gopstream.jobs.inspection.frame_range import frame_range
from gopstream.jobs.inspection.inspected import (
    NO_MOTION,
    ClipFacts,
    InspectedFrame,
    SignedResidual,
)
from gopstream.jobs.inspection.vector_table import upright_vectors
from gopstream.pipeline.audit import audit_stream
from gopstream.pipeline.clip_builder import intra_share
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.damage import DamageSpread
from gopstream.pipeline.decode import CodedStream, DecodedFrame, open_coded
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BlockMotion, whole_macroblocks
from gopstream.pipeline.luma import luma_view
from gopstream.pipeline.mvextractor_backend import table_from_records
from gopstream.pipeline.native import CODECS_WITH_B_VECTORS, NativeStream, motion_warnings
from gopstream.pipeline.options import FRAMES_PER_BEAT
from gopstream.pipeline.probe import open_container, open_video
from gopstream.pipeline.shots import ShotDetector
from gopstream.pipeline.window import TimeWindow, WindowCut, locate_window

SEEK_FROM: Final = 48
"""Frames before this one are decoded rather than sought past: finding a place costs as much."""

_REMEDY: Final = (
    "'gopstream extract FILE --mode canonical --out FOLDER' makes a stream that has vectors; then "
    "look at FOLDER"
)

OnFrames = Callable[[int], None]
"""Called now and then with the number of frames read so far; may raise to stop."""


class VideoClip:
    """One video file."""

    def __init__(self, path: Path, *, on_frames: OnFrames | None = None) -> None:
        """Read the file's headers; decodes one picture.

        Args:
            path: A local video file.
            on_frames: Told of the progress of the first reading, which decodes the whole file.

        Raises:
            FileNotFoundError: If there is no such file.
            NotAVideoError: If it is no video.
        """
        video = open_video(path)
        audit = audit_stream(path)
        self._native = NativeStream(video, audit, (video.width, video.height))
        self._on_frames = on_frames or (lambda count: None)
        self._no_motion = _why_no_motion(self._native)
        with open_container(path) as container:
            self._num_streams = len(container.streams.video)

    @cached_property
    def facts(self) -> ClipFacts:
        """What is known of the video; the first time, all of it is decoded.

        Raises:
            BitstreamError: If no picture decodes.
        """
        native, survey = self._native, self._survey
        planes = {"frames"}
        if self._no_motion is None:
            planes |= {"motion", "vectors"}
        if survey.exactness == "exact":
            planes.add("residual")
        return ClipFacts(
            name=native.facts.path.name,
            source="video",
            mode="native",
            kinds="".join(survey.kinds),
            times=np.array([float(pts * survey.time_base) for pts in survey.pts]),
            coded_size=native.coded_size,
            display_rect=native.display_rect,
            num_lists=native.num_lists,
            planes=frozenset(planes),
            exactness=survey.exactness,
            damaged_frames=survey.damaged_frames,
            scene_cuts=tuple(survey.scene_cuts),
            warnings=(*self._stream_warnings(), *self._motion_warnings(), *survey.warnings()),
            stream=_stream_facts(native),
        )

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[InspectedFrame]:
        """Yield frames ``start`` to ``stop`` - 1; far ones are sought.

        Raises:
            IndexError: If there are no such frames.
            BitstreamError: If the stream cannot be decoded.
        """
        facts = self.facts
        chosen = frame_range(start, stop, num_frames=facts.num_frames, name=facts.name)
        return self._inspected(chosen.start, chosen.stop)

    def _inspected(self, start: int, stop: int) -> Iterator[InspectedFrame]:
        with_residual = "residual" in self.facts.planes
        needs_reference = with_residual and self.facts.kinds[start] != "I"
        reference: DecodedFrame | None = None
        begin = start - 1 if needs_reference else start
        with closing(self._decoded(begin)) as decoded:
            for index, frame in enumerate(decoded, start=begin):
                if index >= start:
                    yield self._inspect(frame, index, reference=reference)
                if index + 1 == stop:
                    return
                reference = frame if with_residual else None
                del frame  # nothing here keeps a picture alive that is not needed
        raise BitstreamError(f"{self.facts.name}: it yielded more frames when it was first read")

    def _inspect(
        self, frame: DecodedFrame, index: int, *, reference: DecodedFrame | None
    ) -> InspectedFrame:
        motion = self._motion_of(frame)
        residual = None
        if "residual" in self.facts.planes:
            assert motion is not None
            residual = self._residual(frame, motion, reference=reference)
        return InspectedFrame(
            index=index,
            kind=frame.kind,
            picture=self._picture(frame.picture),
            picture_of=index,
            motion=motion,
            vectors=None if motion is None else self._vectors(frame),
            residual=residual,
        )

    def _decoded(self, first: int) -> Generator[DecodedFrame]:
        """Yield the frames from ``first`` on, by seeking if that leads there."""
        cut = self._cut_at(first) if first >= SEEK_FROM else None
        path, with_vectors = self._native.facts.path, self._no_motion is None
        if cut is not None:
            with open_coded(path, with_vectors=with_vectors, cut=cut) as stream:
                frame = _first_frame(stream)
                if frame is not None and frame.pts == self._survey.pts[first]:
                    yield frame
                    del frame
                    yield from stream.frames
                    return
        with open_coded(path, with_vectors=with_vectors) as stream:
            for index, frame in enumerate(stream.frames):
                if index >= first:
                    yield frame
                del frame

    def _cut_at(self, first: int) -> WindowCut | None:
        """Return where to seek for a frame; None if its time stamp does not lead to it."""
        survey = self._survey
        if not survey.is_sound:
            return None  # what a damaged stream shows depends on where decoding began
        pts = survey.pts[first]
        with open_container(self._native.facts.path) as container:
            origin = Fraction(container.start_time or 0, av.time_base)
        seconds = float(pts * survey.time_base - origin)
        try:
            cut = locate_window(self._native.facts, TimeWindow(max(0.0, seconds), None))
        except BitstreamError:
            return None  # time stamps that are guessed: then all is decoded
        return replace(cut, first_pts=pts) if cut.first_pts <= pts else None

    def _motion_of(self, frame: DecodedFrame) -> BlockMotion | None:
        if self._no_motion is not None or self._why_not(frame) is not None:
            return None
        return self._native.motion_of(frame)

    def _why_not(self, frame: DecodedFrame) -> str | None:
        """Return why this frame has no motion though its stream has."""
        codec = self._native.audit.codec
        if frame.kind == "B" and codec not in CODECS_WITH_B_VECTORS:
            return f"FFmpeg exports wrong vectors for the B-frames of {codec}"
        if frame.is_interlaced:
            return "interlaced: the vertical unit of the vectors is not told by the decoder"
        if self._has_other_size(frame.picture):
            return "the picture has another size than the first one"
        return None

    def _has_other_size(self, picture: av.video.frame.VideoFrame) -> bool:
        size = whole_macroblocks(picture.width), whole_macroblocks(picture.height)
        if self._native.turns % 2:
            size = size[1], size[0]
        return size != self._native.coded_size

    def _vectors(self, frame: DecodedFrame) -> npt.NDArray[np.int32]:
        table = table_from_records(frame.vectors)
        size = whole_macroblocks(frame.picture.width), whole_macroblocks(frame.picture.height)
        return upright_vectors(table, self._native.turns, size=size)

    def _residual(
        self, frame: DecodedFrame, motion: BlockMotion, *, reference: DecodedFrame | None
    ) -> SignedResidual:
        planes = self._native.planes_of(frame)
        # An I-frame covers nothing, so that its "reference" is never read.
        source = planes if reference is None else self._native.planes_of(reference)
        predicted = predict_planes(source, motion.motion[0], motion.coverage[0])
        return SignedResidual(*map(_difference, planes, predicted))

    def _picture(self, picture: av.video.frame.VideoFrame) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) RGB of what is shown, upright; of a picture of another size, scaled."""
        x, y, width, height = self._native.decoded_rect
        if self._has_other_size(picture):
            shown = picture.to_ndarray(format="rgb24", width=width, height=height)
        else:
            shown = picture.to_ndarray(format="rgb24")[y : y + height, x : x + width]
        upright: npt.NDArray[np.uint8] = np.ascontiguousarray(np.rot90(shown, self._native.turns))
        return upright

    def _stream_warnings(self) -> list[str]:
        if self._num_streams == 1:
            return []
        number = self._native.facts.stream_index
        return [
            f"the file has {self._num_streams} video streams; taken is the one that FFmpeg takes, "
            f"its stream {number}"
        ]

    def _motion_warnings(self) -> list[str]:
        if self._no_motion is not None:
            return [f"{NO_MOTION}{self._no_motion}; {_REMEDY}"]
        return motion_warnings(self._native, "".join(self._survey.kinds))

    @cached_property
    def _survey(self) -> "_Survey":
        """Decode the whole video, keeping no picture."""
        native = self._native
        survey = _Survey(exactness="; ".join(native.audit.inexact_reasons) or "exact")
        shots, damage = ShotDetector(), DamageSpread()
        with open_coded(native.facts.path, with_vectors=self._no_motion is None) as stream:
            survey.time_base = stream.time_base
            for frame in _sound_part(stream):
                survey.add(frame, num_hidden=stream.num_hidden)
                damage.add(frame)
                reason = self._why_not(frame)
                if self._no_motion is None and reason is not None:
                    survey.without_motion[reason] = survey.without_motion.get(reason, 0) + 1
                motion = self._motion_of(frame)
                share = None if motion is None else intra_share(motion)
                if shots.is_cut(kind=frame.kind, intra_share=share, luma=luma_view(frame.picture)):
                    survey.scene_cuts.append(len(survey.kinds) - 1)
                if len(survey.kinds) % FRAMES_PER_BEAT == 0:
                    self._on_frames(len(survey.kinds))
                del frame
            if stream.lost_at_end:
                damage.suspect_last()
            survey.faults = list(stream.faults)
        survey.damaged_frames = tuple(np.flatnonzero(damage.flags).tolist())
        if survey.without_motion and survey.exactness == "exact":
            survey.exactness = "; ".join(survey.without_motion)
        return survey


@dataclass(slots=True)
class _Survey:
    """What decoding a whole stream once tells of it."""

    exactness: str
    time_base: Fraction = Fraction(1)
    kinds: list[str] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    scene_cuts: list[int] = field(default_factory=list)
    damaged_frames: tuple[int, ...] = ()
    faults: list[str] = field(default_factory=list)
    without_motion: dict[str, int] = field(default_factory=dict)
    """Frames without motion in a stream that has some, by reason."""
    _num_hidden: int = 0

    def add(self, frame: DecodedFrame, *, num_hidden: int) -> None:
        """Take the next frame; a residual needs all that pictures are predicted from."""
        is_orphan = frame.kind != "I" and (not self.kinds or num_hidden > self._num_hidden)
        if is_orphan and self.exactness == "exact":
            number = len(self.kinds)
            self.exactness = f"an edit list hides what frame {number} is predicted from"
        self._num_hidden = num_hidden
        self.kinds.append(frame.kind)
        self.pts.append(frame.pts)

    @property
    def is_sound(self) -> bool:
        """Whether decoding may begin in the middle."""
        return not (self.faults or self.damaged_frames)

    def warnings(self) -> Iterator[str]:
        """Say what a user should know."""
        for reason, count in self.without_motion.items():
            yield f"{count} of {len(self.kinds)} frames have no motion: {reason}"
        yield from self.faults
        if self.damaged_frames:
            yield f"{len(self.damaged_frames)} of {len(self.kinds)} frames may show damage"


def _first_frame(stream: CodedStream) -> DecodedFrame | None:
    """Return where seeking has led, None if nowhere."""
    try:
        return next(stream.frames, None)
    except BitstreamError:
        return None


def _sound_part(stream: CodedStream) -> Iterator[DecodedFrame]:
    """Yield frames until the stream breaks; that is a fault of it, unless there is no frame."""
    num_frames = 0
    try:
        for frame in stream.frames:
            num_frames += 1
            yield frame
            del frame
    except BitstreamError as error:
        if num_frames == 0:
            raise
        stream.faults.append(str(error))


def _why_no_motion(native: NativeStream) -> str | None:
    """Return why a stream has no motion at all; None if it has."""
    audit = native.audit
    if not audit.exports_motion:
        return f"FFmpeg's decoder of {audit.codec} exports no motion vectors"
    if audit.is_interlaced:
        return (
            f"interlaced ({audit.interlacing}): the vertical unit of the vectors is not told by "
            "the decoder"
        )
    return None


def _stream_facts(native: NativeStream) -> dict[str, Any]:
    """Return what headers say, in plain values; what they do not say is left out."""
    video, audit = native.facts, native.audit
    gop = audit.pictures_per_gop
    facts = {
        "file": video.path.name,
        "container": video.container,
        "codec": audit.codec,
        "profile": audit.profile or video.profile or None,
        "level": audit.level,
        "pixel_format": video.pixel_format,
        "matrix": video.matrix,
        "full_range": video.full_range,
        "rotation": video.rotation,
        "sample_aspect_ratio": str(video.sample_aspect_ratio),
        "frames_per_second": round(float(video.average_rate), 6) or None,
        "duration_seconds": video.duration_seconds,
        "entropy_coding": audit.entropy_coding,
        "references_used": audit.max_active_references,
        "references_reserved": audit.max_reference_frames,
        "pictures_per_gop": None if gop is None else [gop.minimum, gop.median, gop.maximum],
        "open_gops": audit.has_open_gops,
        "weighted_prediction": audit.weighted_prediction,
        "weighted_bipred": audit.weighted_bipred,
        "deblocking": audit.deblocking,
        "interlacing": audit.interlacing,
        "partitions_below_8x8": audit.partitions_below_8x8,
        "encoder": audit.encoder,
        "damaged_packets": audit.num_damaged_packets or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _difference(
    decoded: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int16]:
    return decoded.astype(np.int16) - predicted.reshape(decoded.shape)
