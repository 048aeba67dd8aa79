"""Clips of the canonical stream, with the frames that went into it."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.clip import Clip
from gopstream.pipeline.clip_builder import ClipBuilder, intra_share
from gopstream.pipeline.damage import diagnose
from gopstream.pipeline.decode import CodedStream, DecodedFrame
from gopstream.pipeline.errors import BitstreamError, TranscodeError
from gopstream.pipeline.frame_choice import FrameChooser
from gopstream.pipeline.frame_spool import FrameSpool
from gopstream.pipeline.jpeg import encode_frame
from gopstream.pipeline.motion import rasterise_vectors
from gopstream.pipeline.options import FRAMES_PER_BEAT, ExtractionOptions, OnProgress
from gopstream.pipeline.picture_folder import PackedPictures
from gopstream.pipeline.probe import VideoFacts, best_video_stream, demux_packets, open_container
from gopstream.pipeline.shots import ShotDetector
from gopstream.pipeline.transcode import (
    SIZE_CHANGE,
    canonical_matrix,
    canonical_size,
    is_frame_count,
    transcode_frames,
)
from gopstream.pipeline.window import WindowCut, window_times

_Damaged = npt.NDArray[np.bool_]
_RESIZED: Final = "picture size or format change mid-stream; all is scaled to one size"


@dataclass(frozen=True, slots=True)
class SourcePart:
    """What is transcoded."""

    facts: VideoFacts
    cut: WindowCut | None = None
    """A part of it; None for all."""
    pictures: PackedPictures | None = None
    """Where it was made of single pictures: what is known of them."""


class CanonicalSource:
    """The canonical stream of a video, and the frames that went into it."""

    def __init__(
        self,
        part: SourcePart,
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
        self._chooser: FrameChooser | None = None
        self._source_time_base = part.facts.time_base
        self._on_progress = on_progress
        self._frame_size = canonical_size(part.facts, options.canonical.short_side)
        self._spool = spool
        matrix = canonical_matrix(part.facts)
        complaints: list[str] = []
        for picture in transcode_frames(
            part.facts,
            self.stream_path,
            canonical=options.canonical,
            binary=binary,
            cut=part.cut,
            complaints=complaints,
        ):
            # With a rate in place of the stride, which are stored is known when times are.
            if "frames" in options.planes and self.num_frames % options.frame_stride == 0:
                self._spool.add(encode_frame(picture, matrix=matrix, quality=options.quality))
            self.num_frames += 1
            if self.num_frames % FRAMES_PER_BEAT == 0:
                on_progress()
        if part.pictures is not None:
            found = _picture_damage(part, part.pictures, complaints, stream_path)
        elif part.cut is not None:
            found = _window_damage(part.facts, part.cut, complaints, stream_path)
        else:
            found = _source_damage(part.facts.path, complaints, self.num_frames)
        self._warnings, self._damaged = found

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
        stored = self._stored_frames(builder.pts, stream)
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

    def _stored_frames(self, times: list[int], stream: CodedStream) -> npt.NDArray[np.int64]:
        """Return which frames of the next clip are stored, by their time stamps."""
        if self._chooser is None:
            self._chooser = FrameChooser(
                stride=self._options.frame_stride,
                fps=self._options.fps,
                time_base=stream.time_base,
                source_time_base=self._source_time_base,
            )
        chosen = [index for index, pts in enumerate(times) if self._chooser.takes(pts)]
        return np.array(chosen if "frames" in self._options.planes else [], np.int64)


def _check_canonical(frame: DecodedFrame, stream: CodedStream) -> None:
    """Refuse a frame that our own encoder cannot have made."""
    # Faults of the time stamps are the source's and no reason; lost pictures are counted.
    if frame.kind not in ("I", "P") or frame.is_damaged:
        raise TranscodeError(
            f"the canonical stream does not decode cleanly: a {frame.kind}-frame, "
            f"{'; '.join(stream.faults) or 'damaged'}"
        )


def _picture_damage(
    part: SourcePart, pictures: PackedPictures, complaints: list[str], stream_path: Path
) -> tuple[list[str], _Damaged]:
    """Return warnings, and per frame whether it is damaged, of a folder of pictures.

    Raises:
        BitstreamError: If a picture has not become a frame.
    """
    cut, unit = part.cut, part.facts.picture_time_base
    assert unit is not None
    promised = {
        time: name
        for time, name in zip(pictures.times, pictures.names, strict=True)
        # The file that the pictures were packed into may have a finer unit.
        if cut is None or cut.holds(round(time * unit / cut.time_base))
    }
    shown = _stream_times(stream_path, unit, origin=0)
    if shown != list(promised):
        lost = [name for time, name in promised.items() if time not in shown]
        raise BitstreamError(
            f"{part.facts.path.name}: {len(promised)} pictures have become {len(shown)} frames: "
            f"{lost[0] if lost else 'a picture'} does not decode; repair it or leave it out"
        )
    warnings = list(pictures.warnings)
    if any(SIZE_CHANGE in line for line in complaints):
        warnings.append(_RESIZED)
    damaged = np.array([time in pictures.broken for time in promised], np.bool_)
    if damaged.any():
        warnings.append(f"{int(damaged.sum())} of {len(promised)} frames may show damage")
    return warnings, damaged


def _window_damage(
    facts: VideoFacts, cut: WindowCut, complaints: list[str], stream_path: Path
) -> tuple[list[str], _Damaged]:
    """Return warnings, and per frame whether it is damaged, of a window.

    What FFmpeg says also concerns what it decoded before the window, and so only a second decoder
    tells. It is asked where FFmpeg complains, or has not found each frame that the container
    promises.

    Raises:
        TranscodeError: If FFmpeg and our decoder find different frames, and no damage explains it.
    """
    shown = _stream_times(stream_path, cut.time_base, origin=cut.origin_pts)
    is_resized = any(SIZE_CHANGE in line for line in complaints)
    warnings = [_RESIZED] if is_resized else []
    said = [line for line in complaints if SIZE_CHANGE not in line and not is_frame_count(line)]
    if not said and shown == window_times(facts, cut):
        return warnings, np.zeros(len(shown), np.bool_)
    diagnosis = diagnose(facts.path, cut=cut)
    warnings += diagnosis.faults
    damaged = np.array(diagnosis.damaged, np.bool_)
    if shown != diagnosis.times:
        if not damaged.any() and not diagnosis.faults:
            raise TranscodeError(
                f"{facts.path.name}: FFmpeg finds {len(shown)} frames from {cut.window}, our "
                f"decoder {len(damaged)}: the container cannot be cut exactly; remux it to MP4 or "
                "Matroska"
            )
        warnings.append(
            f"{len(shown)} frames were transcoded and {len(damaged)} decoded: all of the window "
            "count as damaged"
        )
        damaged = np.ones(len(shown), np.bool_)
    if damaged.any():
        warnings.append(f"{int(damaged.sum())} of {len(shown)} frames may show damage")
    return warnings, damaged


def _stream_times(stream_path: Path, unit: Fraction, *, origin: int) -> list[int]:
    """Return the time stamps of the canonical stream in the source's units."""
    with open_container(stream_path) as container:
        stream = best_video_stream(container, stream_path)
        assert stream.time_base is not None
        scale = stream.time_base / unit
        return sorted(
            origin + math.floor(packet.pts * scale + Fraction(1, 2))
            for packet in demux_packets(container, stream)
            if packet.pts is not None
        )


def _source_damage(
    path: Path, complaints: list[str], num_frames: int
) -> tuple[list[str], _Damaged]:
    """Return warnings, and per frame whether it is damaged.

    Only a source that FFmpeg complained of is decoded once more to learn which frames.
    """
    warnings = []
    if any(SIZE_CHANGE in line for line in complaints):
        warnings.append(_RESIZED)
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
