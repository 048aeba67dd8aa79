"""Read one clip of one sample: choose frames, draw the transform, ask for the bytes, decode.

Asking and decoding are apart, so that the bytes of many clips are on their way at once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gopstream.pipeline.accumulation import BLOCK_PIXELS
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.loading.clip_spec import ClipSpec, MotionSpec, VectorSpec, View
from gopstream.shards.loading.device_frames import ClipFrames, EncodedClip
from gopstream.shards.loading.device_motion import ClipMotion, accumulated_clip, clip_motion
from gopstream.shards.loading.frame_decoding import FrameBuffer, decode_frames
from gopstream.shards.loading.geometry import cells_under, vector_matrix
from gopstream.shards.loading.order import draw_generator
from gopstream.shards.loading.rgb_residual import read_rgb_residual, residual_arrays
from gopstream.shards.loading.sampling import clip_positions, view_positions
from gopstream.shards.loading.transform import (
    ClipTransform,
    draw_transform,
    rows_shown,
    transform_field,
    transform_frames,
    transform_mask,
    transform_residual,
    view_transform,
)
from gopstream.shards.mixed_dataset import MixedDataset
from gopstream.shards.reader import ShardDataset
from gopstream.shards.sample_parts import Buffer, MotionWindow, SampleFacts, signed_residual
from gopstream.shards.sample_reading import Fetched, PendingSample, Wanted

_QUARTERS_PER_PIXEL = np.float32(4.0)


def start_training_clip(
    dataset: ShardDataset | MixedDataset,
    sample: int,
    spec: ClipSpec,
    *,
    seed: int,
    epoch: int,
    position: int,
) -> "StartedClip":
    """Ask for the clip of one position of an epoch; its draws depend on nothing else.

    Args:
        dataset: The split.
        sample: Which sample stands at this position.
        spec: What to read.
        seed: Of the run.
        epoch: Counted from 0.
        position: In the epoch.

    Raises:
        ShardError: If the dataset does not have what the spec asks for; names shard and key.
    """
    rng = draw_generator(seed=seed, epoch=epoch, position=position)
    facts = dataset.sample(sample)
    positions = clip_positions(
        spec.sampling,
        rng.random(spec.num_frames),
        total=_num_stored(dataset, sample, facts),
        num_frames=spec.num_frames,
        stride=spec.stride,
        overrun=spec.overrun,
    )
    label = dataset.label(sample)
    with _naming(dataset, sample):
        transform = draw_transform(
            spec.transform,
            frame_size=facts.frame_size,
            num_frames=spec.num_frames,
            rng=rng,
            label=label,
        )
    return StartedClip(dataset, sample, spec, positions, transform, facts=facts, position=position)


def start_view(
    dataset: ShardDataset | MixedDataset, sample: int, spec: ClipSpec, *, view: View, position: int
) -> "StartedClip":
    """Ask for one test view of a sample; nothing is drawn.

    Raises:
        ShardError: If the dataset does not have what the spec asks for; names shard and key.
    """
    facts = dataset.sample(sample)
    positions = view_positions(
        spec.sampling,
        view=view.clip,
        num_views=view.num_clips,
        total=_num_stored(dataset, sample, facts),
        num_frames=spec.num_frames,
        stride=spec.stride,
        rule=spec.view_rule,
        overrun=spec.overrun,
    )
    with _naming(dataset, sample):
        transform = view_transform(
            spec.transform, frame_size=facts.frame_size, crop=view.crop, num_crops=view.num_crops
        )
    return StartedClip(dataset, sample, spec, positions, transform, facts=facts, position=position)


@contextmanager
def _naming(dataset: ShardDataset | MixedDataset, sample: int) -> Iterator[None]:
    """Say of which sample an error is."""
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{dataset.name_of(sample)}: {error}") from error


def clip_arrays(spec: ClipSpec) -> dict[str, tuple[tuple[int, ...], npt.DTypeLike]]:
    """Return shape and type of each array of a clip, as ``StartedClip.read_into`` fills them."""
    num_frames, size = spec.num_frames, spec.transform.size
    arrays: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {}
    if spec.frames_on == "worker":
        arrays["frames"] = (num_frames, size, size, 3), np.uint8
    if spec.motion is not None and spec.motion.on == "worker":
        of_subclip, grid = spec.motion.subclip_frames, spec.motion.grid
        queries = num_frames // of_subclip * -(-of_subclip // spec.motion.query_stride)
        arrays["motion"] = (queries, 2, of_subclip, grid, grid), np.float32
        arrays["valid"] = (queries, of_subclip, grid, grid), np.bool_
    if spec.vectors is not None:
        grid = spec.vectors.grid
        arrays["vectors"] = (2, num_frames, grid, grid), np.float32
        arrays["coverage"] = (num_frames, grid, grid), np.bool_
    if spec.residual:
        arrays["residual"] = (3, num_frames, size, size), np.int16
    if spec.rgb_residual is not None:
        arrays |= residual_arrays(spec.rgb_residual, num_frames=num_frames, size=size)
    return arrays


class LeftForDevice(NamedTuple):
    """What of a clip the worker has read only, for the device to go on with."""

    frames: EncodedClip | None
    motion: ClipMotion | None


class UnreadableClip:
    """A clip that could not be asked for; it says so when it is read, in its turn."""

    label = -1

    def __init__(self, error: ShardError, *, key: str, position: int) -> None:
        """Keep what is wrong.

        Args:
            error: The error.
            key: Of the sample, empty where the index does not say it.
            position: In the epoch.
        """
        self.key = key
        self.position = position
        self._error = error

    def read_into(self, out: Mapping[str, npt.NDArray[Any]], buffer: FrameBuffer) -> LeftForDevice:
        """Raise the error.

        Raises:
            DamageError: If the index says what cannot be, or is missing.
            FormatError: If the index is damaged.
        """
        del out, buffer
        raise self._error


class StartedClip:
    """A clip whose bytes have been asked for."""

    def __init__(
        self,
        dataset: ShardDataset | MixedDataset,
        sample: int,
        spec: ClipSpec,
        positions: npt.NDArray[np.int64],
        transform: ClipTransform,
        *,
        facts: SampleFacts,
        position: int,
    ) -> None:
        """Ask for the bytes.

        Args:
            dataset: The split.
            sample: Which sample.
            spec: What to read.
            positions: (T,) stored frames of the clip.
            transform: Of the clip.
            facts: Of the sample.
            position: In the epoch, for messages and draws.
        """
        self.key = dataset.key(sample)
        self.label = dataset.label(sample)
        self.position = position
        self._spec, self._transform = spec, transform
        self._where = dataset.name_of(sample)
        self._facts = facts
        self._numbers, self._places = np.unique(positions, return_inverse=True)
        self._sampled = facts.frame_index_of_jpeg[positions].astype(np.int64)
        first, last = int(self._sampled.min()), int(self._sampled.max())
        # One frame more at the end, where there is one: an I-frame takes the motion that follows.
        behind = min(facts.num_frames - 1, last + 1)
        rebuilds = spec.rgb_residual is not None
        needs_motion = spec.motion is not None or spec.vectors is not None or rebuilds
        self._pending: PendingSample = dataset.start(
            Wanted(
                sample,
                jpegs=self._numbers,
                motion=(first, behind) if needs_motion else None,
                residual=(first, last) if spec.residual or rebuilds else None,
                from_intra=rebuilds,
                json=rebuilds,
            )
        )

    def read_into(self, out: Mapping[str, npt.NDArray[Any]], buffer: FrameBuffer) -> LeftForDevice:
        """Decode the clip into the arrays that ``clip_arrays`` names.

        Args:
            out: The arrays.
            buffer: For its frames before they are cropped; free again afterwards.

        Raises:
            DamageError: If bytes are damaged or missing; names shard and key.
            ShardError: If they cannot be read, or do not make what the spec asks for.
        """
        fetched = self._pending.result()
        spec, window = self._spec, fetched.motion
        frames = motion = None
        if spec.frames_on == "device":
            frames = self._encoded_frames(fetched.jpegs)
        else:
            self._read_frames(fetched.jpegs, out["frames"], buffer)
        if spec.motion is not None:
            assert window is not None
            motion = self._clip_motion(window, spec.motion)
        if spec.rgb_residual is not None:
            read_rgb_residual(
                fetched,
                self._sampled,
                spec=spec.rgb_residual,
                transform=self._transform,
                facts=self._facts,
                where=self._where,
                out=out,
            )
        if spec.vectors is not None:
            assert window is not None
            self._read_vectors(window, spec.vectors, out)
        if spec.residual:
            self._read_residual(fetched, out["residual"])
        if motion is None or spec.motion is None or spec.motion.on == "device":
            return LeftForDevice(frames, motion)
        field = accumulated_clip(motion, query_stride=spec.motion.query_stride)
        out["motion"][:], out["valid"][:] = field.motion, field.valid
        return LeftForDevice(frames, None)

    def _encoded_frames(self, jpegs: list[Buffer]) -> EncodedClip:
        frames = ClipFrames(
            where=self._where,
            numbers=tuple(self._numbers.tolist()),
            places=tuple(self._places.tolist()),
            frame_size=self._facts.frame_size,
            geometry=self._transform.geometry,
        )
        return EncodedClip(jpegs, frames)

    def _read_frames(
        self, jpegs: list[Buffer], out: npt.NDArray[np.uint8], buffer: FrameBuffer
    ) -> None:
        """Decode each frame once, however often the clip repeats it."""
        frame_size = self._facts.frame_size
        try:
            decoded = decode_frames(
                jpegs,
                buffer,
                frame_size=frame_size,
                num_rows=rows_shown(self._transform, height=frame_size[1]),
                numbers=self._numbers.tolist(),
            )
        except (ValueError, MemoryError) as error:
            raise DamageError(f"{self._where}: {error}") from error
        if len(jpegs) < len(out):
            decoded = decoded[self._places]
        transform_frames(decoded, self._transform, out=out)

    def _clip_motion(self, window: MotionWindow, spec: MotionSpec) -> ClipMotion:
        facts, geometry = self._facts, self._transform.geometry
        cells = cells_under(
            geometry,
            grid=spec.grid,
            frame_size=facts.frame_size,
            display_rect=facts.display_rect,
            blocks=(window.motion.shape[2], window.motion.shape[3]),
            block_pixels=BLOCK_PIXELS,
        )
        linear = vector_matrix(
            geometry, frame_size=facts.frame_size, display_rect=facts.display_rect
        )
        try:
            return clip_motion(
                window,
                self._sampled,
                subclip_frames=spec.subclip_frames,
                display_size=facts.display_end,
                cells=np.where(cells.inside, cells.flat, -1),
                linear=linear.astype(np.float32),
            )
        except ValueError as error:
            raise ShardError(f"{self._where}: {error}") from error

    def _read_vectors(
        self, window: MotionWindow, spec: VectorSpec, out: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Take each frame's own vectors, of its first list."""
        rows = self._sampled - window.first_frame
        motion = window.motion[rows, 0] / _QUARTERS_PER_PIXEL
        facts = self._facts
        field = transform_field(
            motion,
            self._transform,
            grid=spec.grid,
            frame_size=facts.frame_size,
            display_rect=facts.display_rect,
        )
        covered = transform_mask(
            window.coverage[rows, 0] != 0,
            self._transform,
            grid=spec.grid,
            frame_size=facts.frame_size,
            display_rect=facts.display_rect,
        )
        out["vectors"][:] = np.moveaxis(field * covered[..., None], -1, 0)
        out["coverage"][:] = covered

    def _read_residual(self, fetched: Fetched, out: npt.NDArray[np.int16]) -> None:
        assert fetched.residual is not None
        facts, first = self._facts, fetched.first_residual
        planes = signed_residual(
            fetched.residual,
            fetched.exceptions,
            first_frame=first,
            frames=self._sampled - first,
            coded_size=facts.coded_size,
        )
        transformed = transform_residual(
            planes, self._transform, frame_size=facts.frame_size, display_rect=facts.display_rect
        )
        out[:] = np.moveaxis(transformed, 1, 0)


def _num_stored(dataset: ShardDataset | MixedDataset, sample: int, facts: SampleFacts) -> int:
    total = len(facts.frame_index_of_jpeg)
    if total == 0:
        raise ShardError(f"{dataset.name_of(sample)}: the dataset has no frames plane")
    return total
