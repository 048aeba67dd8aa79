"""From a video file to clips: the one place where the steps of the pipeline are put together."""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.clip import Clip, ClipResidual
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.decode import CodedStream, DecodedFrame, Planes, open_coded
from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.jpeg import encode_frame
from gopstream.pipeline.motion import BlockMotion, rasterise_vectors
from gopstream.pipeline.probe import VideoFacts, open_video
from gopstream.pipeline.residual import residual_between, zero_macroblocks
from gopstream.pipeline.transcode import (
    CanonicalFormat,
    canonical_matrix,
    canonical_size,
    default_ffmpeg,
    transcode_frames,
)

PLANES: Final = ("frames", "motion", "residual")


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """What is extracted from each video, and how."""

    canonical: CanonicalFormat = CanonicalFormat()
    planes: tuple[str, ...] = PLANES
    """Which of ``frames``, ``motion`` and ``residual``; motion is always extracted."""
    quality: int = 90
    """JPEG quality of the stored frames, 1 to 100."""
    frame_stride: int = 1
    """Store every n-th frame as JPEG; motion and residual are kept for each frame."""
    segment_frames: int = 300
    """A longer video becomes several clips of this many frames (rounded to whole GOPs)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        unknown = [plane for plane in self.planes if plane not in PLANES]
        if unknown or "motion" not in self.planes:
            raise ValueError(
                f"planes must be motion and any of frames, residual; got {', '.join(self.planes)}"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be between 1 and 100, got {self.quality}")
        if self.frame_stride < 1:
            raise ValueError(f"frame stride must be at least 1, got {self.frame_stride}")
        if self.segment_frames < self.canonical.gop:
            raise ValueError(
                f"a segment must hold at least one GOP of {self.canonical.gop} frames, "
                f"got {self.segment_frames}"
            )

    @property
    def frames_per_segment(self) -> int:
        """``segment_frames`` rounded down to whole GOPs."""
        return self.segment_frames // self.canonical.gop * self.canonical.gop


def extract_clip(
    path: Path | str,
    *,
    options: ExtractionOptions | None = None,
    ffmpeg_binary: str | None = None,
) -> Clip:
    """Extract a whole video as one clip, all of it in memory.

    Args:
        path: A local video file.
        options: Sizes, quality and planes; ``segment_frames`` is ignored.
        ffmpeg_binary: The FFmpeg to use; by default the one of imageio-ffmpeg.

    Raises:
        FileNotFoundError: If there is no such file.
        PipelineError: If it is no video, or cannot be transcoded or decoded.
    """
    chosen = options or ExtractionOptions()
    facts = open_video(Path(path))
    with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
        pass_one = _transcode(facts, Path(folder), chosen, ffmpeg_binary or default_ffmpeg())
        with open_coded(pass_one.stream_path) as stream:
            return _read_clip(stream, pass_one, first_frame=0, limit=None, options=chosen)


def extract_segments(
    path: Path | str,
    *,
    options: ExtractionOptions | None = None,
    ffmpeg_binary: str | None = None,
) -> Iterator[Clip]:
    """Extract a video as clips of at most ``segment_frames``, each beginning with an I-frame.

    Memory holds one clip at a time, however long the video is.

    Raises:
        FileNotFoundError: If there is no such file.
        PipelineError: If it is no video, or cannot be transcoded or decoded.
    """
    chosen = options or ExtractionOptions()
    facts = open_video(Path(path))
    with tempfile.TemporaryDirectory(prefix="gopstream-") as folder:
        pass_one = _transcode(facts, Path(folder), chosen, ffmpeg_binary or default_ffmpeg())
        with open_coded(pass_one.stream_path) as stream:
            for first in range(0, pass_one.num_frames, chosen.frames_per_segment):
                yield _read_clip(
                    stream,
                    pass_one,
                    first_frame=first,
                    limit=chosen.frames_per_segment,
                    options=chosen,
                )


class _PassOne(NamedTuple):
    """What the transcode left behind."""

    stream_path: Path
    spool_path: Path
    """JPEGs back to back; on disk, so that memory does not grow with the video."""
    jpeg_lengths: list[int]
    """Bytes of each spooled JPEG, in order; every ``frame_stride``-th frame has one."""
    num_frames: int
    frame_size: tuple[int, int]


def _transcode(
    facts: VideoFacts, folder: Path, options: ExtractionOptions, binary: str
) -> _PassOne:
    stream_path, spool_path = folder / "canonical.nut", folder / "frames.mjpeg"
    matrix = canonical_matrix(facts)
    lengths: list[int] = []
    num_frames = 0
    with spool_path.open("wb") as spool:
        for picture in transcode_frames(
            facts, stream_path, canonical=options.canonical, binary=binary
        ):
            if "frames" in options.planes and num_frames % options.frame_stride == 0:
                encoded = encode_frame(picture, matrix=matrix, quality=options.quality)
                spool.write(encoded)
                lengths.append(len(encoded))
            num_frames += 1
    size = canonical_size(facts, options.canonical.short_side)
    return _PassOne(stream_path, spool_path, lengths, num_frames, size)


def _read_clip(
    stream: CodedStream,
    pass_one: _PassOne,
    *,
    first_frame: int,
    limit: int | None,
    options: ExtractionOptions,
) -> Clip:
    """Take the next ``limit`` frames from the stream; all that are left when None."""
    reader = _FrameReader(with_residual="residual" in options.planes)
    for frame in islice(stream.frames, limit):
        reader.add(frame)
    expected = pass_one.num_frames - first_frame
    expected = expected if limit is None else min(limit, expected)
    if len(reader.kinds) != expected:
        raise TranscodeError(
            f"{expected} pictures went into the canonical stream from frame {first_frame} on, "
            f"{len(reader.kinds)} came out"
        )
    stored = np.arange(-first_frame % options.frame_stride, expected, options.frame_stride)
    jpegs: list[bytes] = []
    if "frames" in options.planes:
        jpegs = _spooled_jpegs(pass_one, (first_frame + stored) // options.frame_stride)
    else:
        stored = stored[:0]
    coded_height, coded_width = reader.coded_shape
    return Clip(
        jpegs=jpegs,
        frame_index_of_jpeg=stored.astype(np.int32),
        motion=np.stack([fields.motion for fields in reader.fields]),
        coverage=np.stack([fields.coverage for fields in reader.fields]),
        residual=reader.residual(),
        decoded_sha256=reader.gop_hashes(),
        kinds="".join(reader.kinds),
        pts=np.array(reader.pts, np.int64),
        time_base=Fraction(*stream.time_base),
        coded_size=(coded_width, coded_height),
        display_rect=(0, 0, stream.display_width, stream.display_height),
        frame_size=pass_one.frame_size,
        first_frame=first_frame,
    )


def _spooled_jpegs(pass_one: _PassOne, positions: npt.NDArray[np.int64]) -> list[bytes]:
    offsets = np.concatenate([[0], np.cumsum(pass_one.jpeg_lengths)])
    jpegs = []
    with pass_one.spool_path.open("rb") as spool:
        for position in positions.tolist():
            spool.seek(int(offsets[position]))
            jpegs.append(spool.read(pass_one.jpeg_lengths[position]))
    return jpegs


class _FrameReader:
    """Gathers decoded frames of one clip; keeps one decoded picture, the reference."""

    def __init__(self, *, with_residual: bool) -> None:
        self.kinds: list[str] = []
        self.pts: list[int] = []
        self.fields: list[BlockMotion] = []
        self.coded_shape = (0, 0)
        self._with_residual = with_residual
        self._reference: Planes | None = None
        self._residuals: list[npt.NDArray[np.uint8]] = []
        self._exceptions: list[npt.NDArray[np.int32]] = []
        self._num_predicted = 0
        self._num_zero = 0
        self._hashes: list[hashlib._Hash] = []

    def add(self, frame: DecodedFrame) -> None:
        height, width = frame.planes.y.shape
        is_first = not self.kinds
        if frame.kind not in ("I", "P") or (is_first and frame.kind != "I"):
            raise TranscodeError(
                f"frame {len(self.kinds)} of a canonical clip is a {frame.kind}-frame; a clip "
                "begins with an I-frame and has no B-frames"
            )
        if not is_first and (height, width) != self.coded_shape:
            raise TranscodeError(f"the picture size changes at frame {len(self.kinds)}")
        self.coded_shape = (height, width)
        fields = rasterise_vectors(frame.vectors, coded_height=height, coded_width=width)
        if frame.kind == "I":
            self._hashes.append(hashlib.sha256())
        for plane in frame.planes:
            self._hashes[-1].update(plane.data)
        if self._with_residual:
            self._add_residual(frame.planes, fields)
        self.kinds.append(frame.kind)
        self.pts.append(frame.pts)
        self.fields.append(fields)

    def _add_residual(self, planes: Planes, fields: BlockMotion) -> None:
        coverage = fields.coverage[0]
        # An I-frame covers nothing, so that its "reference" is never read.
        reference = planes if self._reference is None else self._reference
        predicted = predict_planes(reference, fields.motion[0], coverage)
        residual = residual_between(planes, predicted)
        self._residuals.append(np.concatenate([plane.reshape(-1) for plane in residual.planes]))
        index = np.full((len(residual.exceptions), 1), len(self.kinds), np.int32)
        self._exceptions.append(np.concatenate([index, residual.exceptions], axis=1))
        is_predicted = coverage[::2, ::2] == 1
        self._num_predicted += int(is_predicted.sum())
        self._num_zero += int((zero_macroblocks(residual.planes) & is_predicted).sum())
        self._reference = planes

    def residual(self) -> ClipResidual | None:
        if not self._with_residual:
            return None
        share = self._num_zero / self._num_predicted if self._num_predicted else 0.0
        return ClipResidual(np.stack(self._residuals), np.concatenate(self._exceptions), share)

    def gop_hashes(self) -> list[str]:
        return [digest.hexdigest() for digest in self._hashes]
