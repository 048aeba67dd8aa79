"""Read one clip of one sample: frames, and motion accumulated over its sub-clips."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from gopstream.pipeline.accumulation import BLOCK_PIXELS, accumulate, step_motion
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.loading.geometry import (
    Crop,
    crop_cells,
    crop_frame,
    even_crop,
    random_crop,
    vector_scale,
)
from gopstream.shards.loading.order import draw_generator
from gopstream.shards.loading.sampling import Sampling, clip_positions, view_draws
from gopstream.shards.reader import SampleFacts, ShardDataset


@dataclass(frozen=True, slots=True)
class MotionSpec:
    """Which accumulated motion a model asks for."""

    query_stride: int
    """Every n-th frame of the clip is a query: it asks where its content lies in other frames."""
    subclip_frames: int
    """Frames of a sub-clip; a query is answered for all frames of its own sub-clip."""
    grid: int
    """Cells on a side of the motion field that is handed over."""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a clip is: plain numbers, from a recipe or a model's contract."""

    num_frames: int
    stride: int = 1
    """Between frames of a dense clip, in stored frames."""
    sampling: Sampling = "dense"
    size: int = 224
    """Side of the square picture in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the training crop's area, as a share of the frame's."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Range of the training crop's width over height."""
    flip: float = 0.0
    """Probability of mirroring in training. Off unless asked for: it swaps left and right."""
    motion: MotionSpec | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.num_frames < 1 or self.stride < 1 or self.size < 1:
            raise ValueError(
                f"frames, stride and size must be at least 1, got {self.num_frames}, "
                f"{self.stride}, {self.size}"
            )
        for name, (low, high), limit in (
            ("crop_scale", self.crop_scale, 1.0),
            ("crop_ratio", self.crop_ratio, 10.0),
        ):
            if not 0 < low <= high <= limit:
                raise ValueError(f"{name} must rise within (0, {limit:g}], got {low}, {high}")
        if self.motion is not None and self.num_frames % self.motion.subclip_frames != 0:
            raise ValueError(
                f"{self.num_frames} frames do not divide into sub-clips of "
                f"{self.motion.subclip_frames}"
            )


class View(NamedTuple):
    """One of several evenly spread test views of a video."""

    clip: int
    num_clips: int
    crop: int
    num_crops: int


class LoadedClip(NamedTuple):
    """One training or test clip."""

    frames: npt.NDArray[np.uint8]
    """(T, size, size, 3) RGB."""
    motion: npt.NDArray[np.float32] | None
    """(Q, 2, J, grid, grid) pixels of the clip: (dx, dy) from query to each frame of its
    sub-clip; 0 where not valid."""
    valid: npt.NDArray[np.bool_] | None
    """(Q, J, grid, grid)."""
    label: int
    key: str


def training_clip(
    dataset: ShardDataset, sample: int, spec: ClipSpec, *, seed: int, epoch: int, position: int
) -> LoadedClip:
    """Read the clip of one position of an epoch; its draws depend on nothing else.

    Args:
        dataset: The split.
        sample: Which sample stands at this position.
        spec: What to read.
        seed: Of the run.
        epoch: Counted from 0.
        position: In the epoch.

    Raises:
        ShardError: If the sample cannot be read; names shard and key.
    """
    rng = draw_generator(seed=seed, epoch=epoch, position=position)
    crop = random_crop(
        dataset.sample(sample).frame_size,
        size=spec.size,
        scale=spec.crop_scale,
        ratio=spec.crop_ratio,
        flip=spec.flip,
        rng=rng,
    )
    return _read_clip(dataset, sample, spec, draws=rng.random(spec.num_frames), crop=crop)


def view_clip(dataset: ShardDataset, sample: int, spec: ClipSpec, *, view: View) -> LoadedClip:
    """Read one test view of a sample; nothing is drawn.

    Raises:
        ShardError: If the sample cannot be read; names shard and key.
    """
    draws = view_draws(view.clip, num_views=view.num_clips, num_frames=spec.num_frames)
    crop = even_crop(
        dataset.sample(sample).frame_size, size=spec.size, crop=view.crop, num_crops=view.num_crops
    )
    return _read_clip(dataset, sample, spec, draws=draws, crop=crop)


def _read_clip(
    dataset: ShardDataset,
    sample: int,
    spec: ClipSpec,
    *,
    draws: npt.NDArray[np.float64],
    crop: Crop,
) -> LoadedClip:
    facts = dataset.sample(sample)
    total = len(facts.frame_index_of_jpeg)
    if total == 0:
        raise ShardError(f"{dataset.keys[sample]}: the dataset has no frames plane")
    positions = clip_positions(
        spec.sampling, draws, total=total, num_frames=spec.num_frames, stride=spec.stride
    )
    frames = _read_frames(dataset, sample, facts, positions, crop)
    motion = valid = None
    if spec.motion is not None:
        sampled = facts.frame_index_of_jpeg[positions].astype(np.int64)
        motion, valid = read_accumulated(dataset, sample, sampled, crop, spec.motion)
    label = int(dataset.labels[sample])
    return LoadedClip(frames, motion, valid, label, dataset.keys[sample])


def _read_frames(
    dataset: ShardDataset,
    sample: int,
    facts: SampleFacts,
    positions: npt.NDArray[np.int64],
    crop: Crop,
) -> npt.NDArray[np.uint8]:
    """Decode each frame once, however often the clip repeats it."""
    numbers, places = np.unique(positions, return_inverse=True)
    width, height = facts.frame_size
    cropped = np.empty((len(numbers), crop.size, crop.size, 3), np.uint8)
    for row, jpeg in enumerate(dataset.read_jpegs(sample, numbers)):
        try:
            stated = simplejpeg.decode_jpeg_header(jpeg)[:2]
            if stated != (height, width):
                raise ValueError(f"it is {stated[1]}x{stated[0]}, not {width}x{height}")
            cropped[row] = crop_frame(simplejpeg.decode_jpeg(jpeg), crop)
        except ValueError as error:
            raise DamageError(
                f"{dataset.name_of(sample)}: JPEG {numbers[row]} does not decode: {error}"
            ) from error
    return cropped[places]


def read_accumulated(
    dataset: ShardDataset,
    sample: int,
    sampled: npt.NDArray[np.int64],
    crop: Crop,
    spec: MotionSpec,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Accumulate motion over the raw frames between the frames of a clip.

    Args:
        dataset: The split.
        sample: Which sample.
        sampled: (T,) frame indices of the clip, not falling.
        crop: The clip's geometry.
        spec: Queries, sub-clips and output grid.

    Returns:
        Motion (Q, 2, J, grid, grid) in pixels of the clip, and validity (Q, J, grid, grid).
    """
    facts = dataset.sample(sample)
    # One frame more at the end, where there is one: an I-frame takes the motion that follows.
    last = min(facts.num_frames - 1, int(sampled[-1]) + 1)
    window = dataset.read_motion(sample, int(sampled[0]), last)
    if window.is_bidirectional.any():
        raise ShardError(
            f"{dataset.name_of(sample)}: motion cannot be accumulated through B-frames, whose "
            "vectors lead to frames that the stream does not name; shard with --mode canonical"
        )
    steps = step_motion(
        window.motion[:, 0],
        window.coverage[:, 0],
        window.is_intra_frame,
        scene_cuts=window.is_scene_cut,
    )
    groups = sampled.reshape(-1, spec.subclip_frames) - window.first_frame
    pairs = accumulate(steps, groups, display_size=facts.display_rect[2:])
    rows, columns = crop_cells(
        crop,
        spec.grid,
        frame_size=facts.frame_size,
        display_rect=facts.display_rect,
        blocks=(window.motion.shape[2], window.motion.shape[3]),
        block_pixels=BLOCK_PIXELS,
    )
    # Queries are every n-th frame of the clip, counted within each sub-clip.
    queries = slice(0, None, spec.query_stride)
    motion = pairs.displacement[:, queries][:, :, :, rows, columns]  # (G, q, J, grid, grid, 2)
    valid = pairs.valid[:, queries][:, :, :, rows, columns]
    scale = vector_scale(crop, frame_size=facts.frame_size, display_rect=facts.display_rect)
    motion = np.where(valid[..., None], motion * scale, np.float32(0.0))
    num_frames = spec.subclip_frames
    shape = (-1, num_frames, spec.grid, spec.grid)
    return (
        np.moveaxis(motion.reshape(*shape, 2), -1, 1).astype(np.float32, copy=False),
        valid.reshape(shape),
    )
