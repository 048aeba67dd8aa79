"""Clips of an original stream."""

from typing import Final

import numpy as np

from gopstream.pipeline.clip import Clip
from gopstream.pipeline.clip_builder import ClipBuilder, intra_share
from gopstream.pipeline.damage import DamageSpread
from gopstream.pipeline.decode import CodedStream, DecodedFrame
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.frame_choice import FrameChooser
from gopstream.pipeline.jpeg import encode_frame
from gopstream.pipeline.luma import luma_view
from gopstream.pipeline.native import NativeStream, PictureScaler, motion_warnings
from gopstream.pipeline.options import FRAMES_PER_BEAT, ExtractionOptions, OnProgress
from gopstream.pipeline.shots import ShotDetector
from gopstream.pipeline.transcode import canonical_matrix

LONGEST_CHUNK: Final = 64
"""Frames of motion that are compressed together at most; original GOPs may be very long."""
MAX_RESIDUAL_BYTES: Final = 2**30
"""Of one clip, in memory: 300 frames of 1080p, but not of 8K."""


class NativeReader:
    """Cuts a native stream into clips."""

    def __init__(
        self,
        native: NativeStream,
        stream: CodedStream,
        options: ExtractionOptions,
        *,
        limit: int | None,
        on_progress: OnProgress,
        is_window: bool = False,
    ) -> None:
        """Read the first picture; ``is_window`` says that the stream is cut out of a longer one."""
        self._shown = "of the window" if is_window else "shown"
        self._native = native
        self._stream = stream
        self._options = options
        self._limit = limit
        self._on_progress = on_progress
        self._scaler = PictureScaler(native)
        self._matrix = canonical_matrix(native.facts)
        self._damage = DamageSpread()
        self._shots = ShotDetector()
        self._chooser = FrameChooser(
            stride=options.frame_stride, fps=options.fps, time_base=stream.time_base
        )
        self._num_frames = 0
        self._held = next(stream.frames, None)
        self._exactness = self._residual_condition()

    def _residual_condition(self) -> str:
        """Return ``exact``, or why there is no residual."""
        audit = self._native.audit
        if not audit.is_exact:
            return "; ".join(audit.inexact_reasons)
        longest = self._longest_gop()
        if self._limit is not None and longest > self._limit:
            return f"a GOP of {longest} frames is longer than a segment of {self._limit}"
        width, height = self._native.coded_size
        num_bytes = width * height * 3 // 2 * (self._limit or 0)
        if num_bytes > MAX_RESIDUAL_BYTES:
            return (
                f"a segment of {self._limit} frames of {width}x{height} has {num_bytes >> 20} MiB "
                f"of residual, more than {MAX_RESIDUAL_BYTES >> 20}; choose shorter segments"
            )
        if self._held is not None and self._held.kind != "I":
            return f"the first picture {self._shown} is no I-frame"
        return "exact"

    def _longest_gop(self) -> int:
        assert self._native.audit.pictures_per_gop is not None
        return self._native.audit.pictures_per_gop.maximum

    def next_clip(self) -> Clip | None:
        """Return the next clip; None at the end.

        Raises:
            BitstreamError: If the picture size changes, or a picture turns out interlaced.
        """
        if self._held is None:
            return None
        options = self._options
        first = self._num_frames
        with_residual = "residual" in options.planes and self._exactness == "exact"
        builder = ClipBuilder(
            with_residual, capacity=self._limit or self._native.audit.num_pictures
        )
        jpegs: list[bytes] = []
        stored: list[int] = []
        while self._held is not None and not self._is_full(builder):
            frame = self._held
            fields = self._native.motion_of(frame)
            planes = self._native.planes_of(frame) if with_residual else None
            is_cut = self._shots.is_cut(
                kind=frame.kind, intra_share=intra_share(fields), luma=luma_view(frame.picture)
            )
            builder.add(fields, kind=frame.kind, pts=frame.pts, is_cut=is_cut, planes=planes)
            self._damage.add(frame)
            if self._chooser.takes(frame.pts) and "frames" in options.planes:
                picture = self._scaler.scale(frame.picture)
                stored.append(self._num_frames - first)
                jpegs.append(encode_frame(picture, matrix=self._matrix, quality=options.quality))
            self._num_frames += 1
            self._held = self._next_frame()
            if self._num_frames % FRAMES_PER_BEAT == 0:
                self._on_progress()
        return self._clip(builder, first, jpegs, stored)

    def _next_frame(self) -> DecodedFrame | None:
        num_hidden = self._stream.num_hidden
        frame = next(self._stream.frames, None)
        is_orphan = frame is not None and frame.kind != "I" and self._stream.num_hidden > num_hidden
        if is_orphan and self._exactness == "exact" and "residual" in self._options.planes:
            raise BitstreamError(
                f"{self._native.facts.path.name}: an edit list hides what frame {self._num_frames} "
                "is predicted from; leave the residual out, or use canonical mode"
            )
        return frame

    def _is_full(self, builder: ClipBuilder) -> bool:
        """Tell whether the held frame begins the next clip."""
        assert self._held is not None
        length = len(builder.kinds)
        if self._limit is None or length == 0:
            return False
        if not builder.with_residual:
            return length >= self._limit
        return self._held.kind == "I" and length + self._longest_gop() > self._limit

    def _clip(
        self, builder: ClipBuilder, first: int, jpegs: list[bytes], stored: list[int]
    ) -> Clip:
        if self._stream.lost_at_end if self._held is None else self._held.is_damaged:
            self._damage.suspect_last()
        damaged = np.flatnonzero(self._damage.flags[first:])
        longest = None if builder.with_residual else LONGEST_CHUNK
        kinds = "".join(builder.kinds)
        warnings = [*motion_warnings(self._native, kinds), *self._stream.faults]
        if damaged.size:
            warnings.append(f"{damaged.size} of {len(builder.kinds)} frames may show damage")
        return Clip(
            jpegs=jpegs,
            frame_index_of_jpeg=np.array(stored, np.int32),
            motion=builder.motion,
            coverage=builder.coverage,
            residual=builder.residual,
            decoded_sha256=builder.gop_hashes,
            kinds=kinds,
            pts=np.array(builder.pts, np.int64),
            time_base=self._stream.time_base,
            coded_size=self._native.coded_size,
            display_rect=self._native.display_rect,
            frame_size=self._native.frame_size,
            first_frame=first,
            chunk_starts=builder.chunk_starts(longest=longest),
            exactness=self._exactness,
            scene_cuts=tuple(builder.scene_cuts),
            damaged_frames=tuple(damaged.tolist()),
            warnings=tuple(warnings),
        )
