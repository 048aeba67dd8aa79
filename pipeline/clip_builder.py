"""Gather decoded frames into a clip: motion, residual, hashes, and what is known of each frame."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.clip import ClipResidual
from gopstream.pipeline.compensation import predict_planes
from gopstream.pipeline.errors import BitstreamError
from gopstream.pipeline.grid import BlockMotion, Planes
from gopstream.pipeline.residual import residual_between, zero_macroblocks


@dataclass(slots=True)
class ClipBuilder:
    """The frames of one clip so far; keeps one decoded picture, the reference."""

    with_residual: bool
    capacity: int
    """Frames that the clip is likely to have; more are possible."""
    kinds: list[str] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    scene_cuts: list[int] = field(default_factory=list)
    """Frames with which a shot begins."""
    coded_shape: tuple[int, int] = (0, 0)
    """(Hc, Wc)."""
    _fields: list[BlockMotion] = field(default_factory=list)
    _reference: Planes | None = None
    _residuals: npt.NDArray[np.uint8] | None = None
    _exceptions: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _hashes: list["hashlib._Hash"] = field(default_factory=list)
    _num_predicted: int = 0
    _num_zero: int = 0

    def add(
        self,
        fields: BlockMotion,
        *,
        kind: str,
        pts: int,
        is_cut: bool = False,
        planes: Planes | None = None,
    ) -> None:
        """Take the next frame.

        Args:
            fields: Its motion, (L, Hb, Wb).
            kind: ``I``, ``P`` or ``B``.
            pts: Its presentation time.
            is_cut: Whether a shot begins with it.
            planes: Its decoded coded planes; needed for a residual only. They must stay valid
                until the next frame has been added.

        Raises:
            BitstreamError: If the size changes, or a clip with a residual does not begin with
                an I-frame or has a B-frame.
        """
        height, width = (8 * side for side in fields.coverage.shape[1:])
        if self.kinds and (height, width) != self.coded_shape:
            old = f"{self.coded_shape[1]}x{self.coded_shape[0]}"
            raise BitstreamError(
                f"the picture size changes from {old} to {width}x{height} after "
                f"{len(self.kinds)} frames; canonical mode brings such a video to one size"
            )
        self.coded_shape = (height, width)
        if self.with_residual:
            assert planes is not None
            if kind not in ("I", "P") or not (self.kinds or kind == "I"):
                raise BitstreamError(
                    f"frame {len(self.kinds)} of the clip is a {kind}-frame; a clip with a "
                    "residual begins with an I-frame and has no B-frames"
                )
            self._add_hash(planes, starts_gop=kind == "I")
            self._add_residual(planes, fields)
        if is_cut:
            self.scene_cuts.append(len(self.kinds))
        self.kinds.append(kind)
        self.pts.append(pts)
        self._fields.append(fields)

    def _add_hash(self, planes: Planes, *, starts_gop: bool) -> None:
        if starts_gop:
            self._hashes.append(hashlib.sha256())
        for plane in planes:
            self._hashes[-1].update(np.ascontiguousarray(plane).data)

    def _add_residual(self, planes: Planes, fields: BlockMotion) -> None:
        coverage = fields.coverage[0]
        # An I-frame covers nothing, so that its "reference" is never read.
        reference = planes if self._reference is None else self._reference
        predicted = predict_planes(reference, fields.motion[0], coverage)
        number = len(self.kinds)
        residual = residual_between(planes, predicted, into=self._residual_row(number, planes))
        index = np.full((len(residual.exceptions), 1), number, np.int32)
        self._exceptions.append(np.concatenate([index, residual.exceptions], axis=1))
        is_predicted = coverage[::2, ::2] == 1
        self._num_predicted += int(is_predicted.sum())
        self._num_zero += int((zero_macroblocks(residual.planes) & is_predicted).sum())
        self._reference = planes

    def _residual_row(self, number: int, planes: Planes) -> npt.NDArray[np.uint8]:
        """Return the place of a frame's residual; one array, so that no copy doubles it."""
        if self._residuals is None:
            num_bytes = sum(plane.size for plane in planes)
            self._residuals = np.empty((max(1, self.capacity), num_bytes), np.uint8)
        if number == len(self._residuals):
            larger = np.empty((2 * number, self._residuals.shape[1]), np.uint8)
            larger[:number] = self._residuals
            self._residuals = larger
        row: npt.NDArray[np.uint8] = self._residuals[number]
        return row

    @property
    def motion(self) -> npt.NDArray[np.int16]:
        """(T, L, Hb, Wb, 2)."""
        return np.stack([fields.motion for fields in self._fields])

    @property
    def coverage(self) -> npt.NDArray[np.uint8]:
        """(T, L, Hb, Wb)."""
        return np.stack([fields.coverage for fields in self._fields])

    @property
    def residual(self) -> ClipResidual | None:
        """The residual of all frames; None when none was asked for."""
        if self._residuals is None:
            return None
        share = self._num_zero / self._num_predicted if self._num_predicted else 0.0
        planes = self._residuals[: len(self.kinds)]
        return ClipResidual(planes, np.concatenate(self._exceptions), share)

    @property
    def gop_hashes(self) -> list[str]:
        """SHA-256 of each GOP's decoded planes; empty without a residual."""
        return [digest.hexdigest() for digest in self._hashes]

    def chunk_starts(self, *, longest: int | None) -> tuple[int, ...]:
        """Return where chunks begin: at I-frames, and after ``longest`` frames at the latest."""
        starts: list[int] = []
        for index, kind in enumerate(self.kinds):
            is_long = longest is not None and bool(starts) and index - starts[-1] >= longest
            if index == 0 or kind == "I" or is_long:
                starts.append(index)
        return tuple(starts)


def intra_share(fields: BlockMotion) -> float:
    """Return the share of blocks that neither list predicts."""
    covered = fields.coverage[0] if len(fields.coverage) == 1 else fields.coverage.any(axis=0)
    return 1.0 - np.count_nonzero(covered) / covered.size
