"""The main job end to end: videos, shards, training, evaluation, a picture.

Three networks are trained by the same recipe for the same number of steps: with motion, without
motion, and on single frames. The last must stay at chance, or the data would give the classes
away without any motion.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.console import say
from gopstream.jobs.demo_scenes import MOTION_CLASSES
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.inspection.contact_sheet import write_contact_sheet
from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.training.curves import draw_curves
from gopstream.jobs.verify import verify_dataset
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat, ffmpeg_version
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.reader import ShardDataset

RECIPE: Final = "dvt_tiny_demo"
_VIDEOS_PER_CLASS: Final = {"train": 64, "val": 40}
_SEED: Final = 20
_SHORT_SIDE: Final = 64
_VIEWS: Final = "3x1"
_CONTROLS: Final[Mapping[str, Sequence[str]]] = {
    "motion": (),
    "without_motion": ("model.use_motion=false",),
    "single_frame": ("model.use_motion=false", "clip.sampling=still"),
}


def run_demo(out: Path, *, ffmpeg_binary: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the demo into a folder.

    Args:
        out: New or empty folder for videos, shards, runs, ``contact_sheet.png``,
            ``curves.png`` and ``summary.json``.
        ffmpeg_binary: The FFmpeg to transcode with.
        overrides: Recipe overrides for all three trainings, such as ``train.steps=10``.

    Returns:
        The summary: ``accuracy``, ``chance``, ``accuracy_motion_zeroed``,
        ``accuracy_single_frame``, ``accuracy_without_motion``, ``seconds`` and more.

    Raises:
        UserError: If ``out`` is not empty, a fault is found in the shards, or a training fails.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; remove it or choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    stages: dict[str, float] = {}
    begun = last = time.monotonic()

    def done(stage: str) -> None:
        nonlocal last
        now = time.monotonic()
        stages[stage], last = round(now - last, 1), now

    workers = os.cpu_count() or 1
    say("1/5 making H.264 videos of eight motions")
    num_bytes = _make_videos(out / "videos", workers)
    done("videos")
    say("2/5 sharding them")
    _make_shards(out / "videos", out / "shards", workers, ffmpeg_binary)
    done("shard")
    say("3/5 verifying the shards, rebuilding every frame from motion and residual")
    faults = verify_dataset(out / "shards", split=None, rebuild=True)["faults"]
    if faults:
        raise UserError(f"the shards have {len(faults)} faults; the first: {faults[0]}")
    done("verify")
    say("4/5 training DVT with motion, and two controls without it")
    _train_all(out, overrides, parallel=min(workers, len(_CONTROLS)))
    done("train")
    say("5/5 evaluating on videos whose textures were never trained on")
    summary = _accuracies(out)
    validation = ShardDataset(out / "shards", "val")
    write_contact_sheet(
        validation, out / "contact_sheet.png", samples=_one_of_each_class(validation)
    )
    draw_curves({name: out / "runs" / name for name in _CONTROLS}, out / "curves.png")
    done("evaluate")
    summary |= {
        "seconds": round(time.monotonic() - begun, 1),
        "stage_seconds": stages,
        "video_bytes": num_bytes,
        "shard_bytes": sum(
            load_manifest(out / "shards", split).num_bytes for split in _VIDEOS_PER_CLASS
        ),
        "train_videos": _VIDEOS_PER_CLASS["train"] * len(MOTION_CLASSES),
        "val_videos": _VIDEOS_PER_CLASS["val"] * len(MOTION_CLASSES),
        "machine": {
            "cores": workers,
            "processor": platform.machine(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "ffmpeg": ffmpeg_version(ffmpeg_binary),
        },
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _make_videos(folder: Path, workers: int) -> int:
    """Write both splits; returns their bytes."""
    paths = [
        path
        for split in ("train", "val")
        for path in write_demo_videos(
            folder,
            split="train" if split == "train" else "val",
            videos_per_class=_VIDEOS_PER_CLASS[split],
            seed=_SEED,
            workers=workers,
        )
    ]
    return sum(path.stat().st_size for path in paths)


def _make_shards(videos: Path, out: Path, workers: int, ffmpeg_binary: str) -> None:
    for split in _VIDEOS_PER_CLASS:
        shard_folder(
            videos / split,
            out,
            split=split,
            options=ExtractionOptions(canonical=CanonicalFormat(short_side=_SHORT_SIDE)),
            workers=workers,
            ffmpeg_binary=ffmpeg_binary,
        )


def _train_all(out: Path, overrides: Sequence[str], *, parallel: int) -> None:
    """Train each network in a process of its own, as a user would, some at a time."""
    waiting = list(_CONTROLS.items())
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                name, controls = waiting.pop(0)
                say(f"    training {name}")
                command = [sys.executable, "-m", "gopstream", "train", RECIPE, *controls]
                command += [*overrides, "--data", str(out / "shards")]
                command += ["--out", str(out / "runs" / name)]
                (out / "runs").mkdir(exist_ok=True)
                with (out / "runs" / f"{name}.log").open("wb") as log:
                    running.append((name, subprocess.Popen(command, stdout=log, stderr=log)))
            name, process = running.pop(0)
            if process.wait() != 0:
                said = (out / "runs" / f"{name}.log").read_text().strip().splitlines()[-1:]
                raise UserError(f"training {name} failed: {' '.join(said)}")
    finally:
        for _, process in running:
            process.kill()
            process.wait()


def _accuracies(out: Path) -> dict[str, Any]:
    def score(name: str, *, zero_motion: bool = False) -> dict[str, Any]:
        return evaluate(out / "runs" / name, out / "shards", views=_VIEWS, zero_motion=zero_motion)

    with_motion = score("motion")
    return {
        "accuracy": with_motion["top1"],
        "chance": with_motion["chance"],
        "accuracy_motion_zeroed": score("motion", zero_motion=True)["top1"],
        "accuracy_single_frame": score("single_frame")["top1"],
        "accuracy_without_motion": score("without_motion")["top1"],
        "per_class": with_motion["per_class"],
    }


def _one_of_each_class(dataset: ShardDataset) -> list[int]:
    labels = dataset.labels.tolist()
    return [labels.index(label) for label in sorted(set(labels))]
