"""Clips of the canonical stream, with the frames that went into it."""

from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.clip import Clip
from gopstream.pipeline.clip_builder import ClipBuilder, intra_share
from gopstream.pipeline.damage import diagnose
from gopstream.pipeline.decode import CodedStream, DecodedFrame
from gopstream.pipeline.errors import TranscodeError
from gopstream.pipeline.frame_spool import FrameSpool
from gopstream.pipeline.jpeg import encode_frame
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.options import FRAMES_PER_BEAT, ExtractionOptions, OnProgress
from gopstream.pipeline.probe import VideoFacts
from gopstream.pipeline.shots import ShotDetector
from gopstream.pipeline.transcode import (
    SIZE_CHANGE,
    canonical_matrix,
    canonical_size,
    transcode_frames,
)


class CanonicalSource:
    """The canonical stream of a video, and the frames that went into it."""

    def __init__(
        self,
        facts: VideoFacts,
        stream_path: Path,
        spool: FrameSpool,
        *,
        options: ExtractionOptions,
        binary: str,
        on_progress: OnProgress,
    ) -> None:
        """Transcode; the frames are spooled as JPEG, so that memory does not grow with them."""
        self.stream_path = stream_path
        self.num_frames = 0
        self._options = options
        self._shots = ShotDetector()
        self._on_progress = on_progress
        self._frame_size = canonical_size(facts, options.canonical.short_side)
        self._spool = spool
        matrix = canonical_matrix(facts)
        complaints: list[str] = []
        for picture in transcode_frames(
            facts,
            self.stream_path,
            canonical=options.canonical,
            binary=binary,
            complaints=complaints,
        ):
            if "frames" in options.planes and self.num_frames % options.frame_stride == 0:
                self._spool.add(encode_frame(picture, matrix=matrix, quality=options.quality))
            self.num_frames += 1
            if self.num_frames % FRAMES_PER_BEAT == 0:
                on_progress()
        self._warnings, self._damaged = _source_damage(facts.path, complaints, self.num_frames)

    def read_clip(self, stream: CodedStream, *, first_frame: int, limit: int) -> Clip:
        """Read the next ``limit`` frames, or those that are left."""
        with_residual = "residual" in self._options.planes
        expected = min(limit, self.num_frames - first_frame)
        builder = ClipBuilder(with_residual, capacity=expected)
        for frame in islice(stream.frames, expected):
            _check_canonical(frame, stream)
            planes = frame.planes
            height, width = planes.y.shape
            fields = rasterise_vectors(frame.vectors, coded_height=height, coded_width=width)
            is_cut = self._shots.is_cut(
                kind=frame.kind, intra_share=intra_share(fields), luma=planes.y
            )
            builder.add(fields, kind=frame.kind, pts=frame.pts, is_cut=is_cut, planes=planes)
            if len(builder.kinds) % FRAMES_PER_BEAT == 0:
                self._on_progress()
        if len(builder.kinds) != expected:
            raise TranscodeError(
                f"{expected} pictures went into the canonical stream from frame {first_frame} on, "
                f"{len(builder.kinds)} came out"
            )
        stored = np.arange(
            -first_frame % self._options.frame_stride, expected, self._options.frame_stride
        )
        if "frames" not in self._options.planes:
            stored = stored[:0]
        height, width = builder.coded_shape
        damaged = np.flatnonzero(self._damaged[first_frame : first_frame + expected])
        return Clip(
            jpegs=self._spool.read(first_frame + stored),
            frame_index_of_jpeg=stored.astype(np.int32),
            motion=builder.motion,
            coverage=builder.coverage,
            residual=builder.residual,
            decoded_sha256=builder.gop_hashes,
            kinds="".join(builder.kinds),
            pts=np.array(builder.pts, np.int64),
            time_base=stream.time_base,
            coded_size=(width, height),
            display_rect=(0, 0, stream.display_width, stream.display_height),
            frame_size=self._frame_size,
            first_frame=first_frame,
            chunk_starts=builder.chunk_starts(longest=None),
            exactness="exact",
            scene_cuts=tuple(builder.scene_cuts),
            damaged_frames=tuple(damaged.tolist()),
            warnings=tuple(self._warnings),
        )


def _check_canonical(frame: DecodedFrame, stream: CodedStream) -> None:
    """Refuse a frame that our own encoder cannot have made."""
    # Faults of the time stamps are the source's and no reason; lost pictures are counted.
    if frame.kind not in ("I", "P") or frame.is_damaged:
        raise TranscodeError(
            f"the canonical stream does not decode cleanly: a {frame.kind}-frame, "
            f"{'; '.join(stream.faults) or 'damaged'}"
        )


def _source_damage(
    path: Path, complaints: list[str], num_frames: int
) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Return warnings, and per frame whether it is damaged.

    Only a source that FFmpeg complained of is decoded once more to learn which frames.
    """
    warnings = []
    if any(SIZE_CHANGE in line for line in complaints):
        warnings.append("picture size or format change mid-stream; all is scaled to one size")
    if all(SIZE_CHANGE in line for line in complaints):
        return warnings, np.zeros(num_frames, np.bool_)
    diagnosis = diagnose(path)
    warnings += diagnosis.faults
    damaged = np.array(diagnosis.damaged, np.bool_)
    if len(damaged) != num_frames and damaged.any():
        # Two decoders dropped different frames: from the first damage on, any may be meant.
        warnings.append(
            f"{num_frames} frames were transcoded and {len(damaged)} decoded: all from the first "
            "damaged one on count as damaged"
        )
        first = int(np.argmax(damaged))
        damaged = np.arange(num_frames) >= min(first, num_frames - 1)
    elif len(damaged) != num_frames:
        damaged = np.zeros(num_frames, np.bool_)
    if damaged.any():
        warnings.append(f"{int(damaged.sum())} of {num_frames} frames may show damage")
    if not warnings:
        # Our decoder sees nothing wrong; the file may end early without an error, for one.
        said = [line for line in complaints if "[error]" in line or "[fatal]" in line]
        warnings += [f"FFmpeg says: {line}" for line in said[:1]]
    return warnings, damaged
