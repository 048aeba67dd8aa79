"""Optical flow in place of the codec's motion: the OF cue of the Deformable Video Transformer.

TV-L1 (Zach, Pock and Bischof, DAGM 2007; scikit-image) is worked out between consecutive decoded
frames, which are rebuilt from a dataset's motion and residual, and written as the motion plane of
a copy of the dataset: the mean over each 8x8 block, in quarter pixels, predicted everywhere, also
at what were I-frames. The same loader, accumulation and model then take it. Only the first frame
of a sample is an I-frame of the copy, and its residual is left out: it would belong to another
prediction.

For comparison only: flow costs a hundred times what reading the stored motion does.

Dimensions: T frames, H x W pixels, Hb x Wb blocks.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gopstream.jobs.console import progress
from gopstream.pipeline.clip import Clip
from gopstream.pipeline.grid import BLOCK, QUARTER_PIXELS
from gopstream.shards.dataset_files import (
    Manifest,
    ShardRecord,
    load_dataset,
    load_manifest,
    save_dataset,
    save_manifest,
)
from gopstream.shards.edit_shard import read_report
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.reader import ShardDataset
from gopstream.shards.rebuilding import rebuild_frames
from gopstream.shards.writer import ShardWriter

FLOW: Final = "TV-L1 optical flow, means of 8x8 blocks"
_COPIED: Final = ("class", "attributes", "source", "settings", "tools", "window", "segment")
"""What a sample's json says beyond its clip."""
_LEVELS: Final = 255.0


def frame_flow(
    frame: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Return (H, W, 2) pixels (dx, dy): ``frame`` shows at p what ``before`` shows at p + flow.

    Args:
        frame: (H, W) luma.
        before: (H, W) luma of the frame before.
    """
    # Of the `test` extra: nothing but this comparison needs it.
    from skimage import registration

    tv_l1: Any = registration.optical_flow_tvl1  # untyped
    scaled = [(plane / _LEVELS).astype(np.float32) for plane in (frame, before)]
    down, right = tv_l1(scaled[0], scaled[1], dtype=np.float32)
    return np.stack([right, down], axis=-1).astype(np.float32)


def block_motion(flow: npt.NDArray[np.float32], *, grid: tuple[int, int]) -> npt.NDArray[np.int16]:
    """Return (Hb, Wb, 2) quarter pixels, the mean flow of each block.

    Args:
        flow: (H, W, 2) pixels, of what is shown of the coded picture.
        grid: (Hb, Wb) blocks of the coded picture; where nothing is shown, the border counts on.
    """
    rows, columns = grid
    beyond = (rows * BLOCK - flow.shape[0], columns * BLOCK - flow.shape[1])
    padded = np.pad(flow, ((0, beyond[0]), (0, beyond[1]), (0, 0)), mode="edge")
    means = padded.reshape(rows, BLOCK, columns, BLOCK, 2).mean(axis=(1, 3), dtype=np.float64)
    limits = np.iinfo(np.int16)
    quarters = np.clip(np.rint(means * QUARTER_PIXELS), limits.min, limits.max)
    return np.asarray(quarters, np.int16)


def sample_motion(dataset: ShardDataset, position: int) -> npt.NDArray[np.int16]:
    """Return (T, Hb, Wb, 2) the flow of each frame of a sample to the one before; of the first 0.

    Raises:
        ShardError: If the sample has no residual.
    """
    facts = dataset.sample(position)
    last = facts.num_frames - 1
    planes = rebuild_frames(
        dataset.read_residual(position, 0, last),
        dataset.read_motion(position, 0, last),
        first_frame=0,
        frames=np.arange(last + 1),
        coded_size=facts.coded_size,
    )
    x, y, width, height = facts.display_rect
    luma = planes.y[:, : y + height, : x + width]
    grid = (facts.coded_size[1] // BLOCK, facts.coded_size[0] // BLOCK)
    motion = np.zeros((last + 1, *grid, 2), np.int16)
    for frame in range(1, last + 1):
        motion[frame] = block_motion(frame_flow(luma[frame], luma[frame - 1]), grid=grid)
    return motion


def write_flow_dataset(root: Path, out: Path, *, workers: int = 1) -> None:
    """Copy a dataset with flow for motion; a split that is there already is left alone.

    Args:
        root: The dataset, with frames, motion and residual.
        out: Folder of the copy.
        workers: Processes.

    Raises:
        ShardError: If there is no such dataset, or it has no residual.
    """
    storage = LocalStorage(out)
    facts = load_dataset(root)
    planes = tuple(plane for plane in facts.planes if plane != "residual")
    splits = sorted(path.parent.name for path in root.glob("*/manifest.json"))
    save_dataset(storage, replace(facts, planes=planes, settings={**facts.settings, "flow": FLOW}))
    for split in splits:
        if not (out / split / "manifest.json").is_file():
            _write_split(root, storage, split, workers=workers)


def _write_split(root: Path, storage: LocalStorage, split: str, *, workers: int) -> None:
    dataset = ShardDataset(root, split)
    held = load_manifest(root, split)
    records, position = [], 0
    with progress(f"flow of {split}", total=len(dataset), unit="videos") as advance:
        motions = _all_motion(root, split, count=len(dataset), workers=workers)
        for shard in held.shards:
            with ShardWriter(storage, split, shard.name, with_residual=False) as writer:
                for _ in range(shard.num_samples):
                    clip, content = _with_motion(dataset, position, next(motions))
                    kept = {name: value for name, value in content.items() if name in _COPIED}
                    label = dataset.label(position)
                    writer.add(dataset.key(position), clip, label=label, facts=kept)
                    position += 1
                    advance()
                files = writer.publish(read_report(LocalStorage(root), split, shard.name))
            records.append(ShardRecord(shard.name, shard.num_samples, files))
    counts, videos, failures = held.class_counts, held.num_videos, held.num_failures
    save_manifest(storage, Manifest(split, tuple(records), counts, videos, failures))


def _with_motion(
    dataset: ShardDataset, position: int, motion: npt.NDArray[np.int16]
) -> tuple[Clip, dict[str, Any]]:
    """Return a sample as a clip with other motion, and its json."""
    facts, content = dataset.sample(position), dataset.read_json(position)
    num_jpegs = len(facts.frame_index_of_jpeg)
    coverage = np.ones((len(motion), 1, *motion.shape[1:3]), np.uint8)
    coverage[0] = 0
    clip = Clip(
        jpegs=[bytes(jpeg) for jpeg in dataset.read_jpegs(position, np.arange(num_jpegs))],
        frame_index_of_jpeg=facts.frame_index_of_jpeg,
        motion=motion[:, None],
        coverage=coverage,
        residual=None,
        decoded_sha256=[],
        kinds="I" + "P" * (len(motion) - 1),
        pts=np.array(content["pts"], np.int64),
        time_base=Fraction(*content["time_base"]),
        coded_size=facts.coded_size,
        display_rect=facts.display_rect,
        frame_size=facts.frame_size,
        first_frame=content["first_frame"],
        chunk_starts=tuple(content["planes"]["motion"]["chunks"]["first_frame"]),
        exactness=f"the motion is {FLOW}",
        damaged_frames=tuple(content["damaged_frames"]),
        scene_cuts=tuple(content["scene_cuts"]),
        warnings=tuple(content["warnings"]),
    )
    return clip, content


@cache
def _opened(root: Path, split: str) -> ShardDataset:
    return ShardDataset(root, split)


def _motion_of(task: tuple[Path, str, int]) -> npt.NDArray[np.int16]:
    """Return the flow of one sample; in a process of its own, which opens the split once."""
    root, split, position = task
    return sample_motion(_opened(root, split), position)


def _all_motion(
    root: Path, split: str, *, count: int, workers: int
) -> Iterator[npt.NDArray[np.int16]]:
    tasks = [(root, split, position) for position in range(count)]
    if workers == 1:
        yield from map(_motion_of, tasks)
        return
    # "fork" is not safe in a program that has started threads, as torch does.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_motion_of, tasks, chunksize=2)


def main() -> int:
    """Copy a dataset from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.flow_motion",
        description="Copy a dataset with TV-L1 optical flow in place of the codec's motion.",
    )
    parser.add_argument("root", type=Path, help="dataset with frames, motion and residual")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parsed = parser.parse_args()
    write_flow_dataset(parsed.root, parsed.out, workers=parsed.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
