"""Train a full-size model for some minutes with the loader feeding it: does the GPU wait for data?

The data are the demo's eight motions, larger and more of them, or a dataset of yours. The model is
trained as ``gopstream train`` trains: at 224 pixels, in bfloat16, compiled, with a process that
loads on each core but one. A short run before says how many steps the time is good for.
"""

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.recipe import load_recipe, recipe_content
from gopstream.jobs.train import Watching, train
from gopstream.models.catalogue import find_model
from gopstream.shards.dataset_files import load_manifest
from gopstream.shards.reader import ShardDataset

LARGEST_WAIT: Final = 0.03
"""Share of a step's time that the GPU may wait for clips."""
_BASE: Final = "dvt_tiny_demo"
_SEED: Final = 21
_SPLITS: Final = ("train", "val")
_VALIDATIONS: Final = 4
_QUICK_MINUTES: Final = 0.02
_PROBE_ROWS: Final = 3
"""Of the log; the first one has the compilation."""


class Scale(NamedTuple):
    """How large a run is."""

    model: str
    size: int
    """Side of the clips in pixels."""
    num_frames: int
    batch_size: int
    learning_rate: float
    video_frames: int
    """Frames of each video that is made."""
    video_size: int
    """Side of them in pixels."""
    videos_per_class: Mapping[str, int]
    log_every: int
    is_quick: bool


def full_scale(model: str, *, batch_size: int) -> Scale:
    """Return the scale of a measurement.

    Raises:
        UserError: If there is no such model.
    """
    try:
        contract = find_model(model).contract
    except ValueError as error:
        raise UserError(f"--model: {error}") from error
    return Scale(
        model=model,
        size=contract.size,
        num_frames=contract.num_frames,
        batch_size=batch_size,
        learning_rate=3e-4,
        video_frames=2 * contract.num_frames + 16,
        video_size=256,
        videos_per_class={"train": 64, "val": 16},
        log_every=10,
        is_quick=False,
    )


QUICK: Final = Scale(
    model="dvt_tiny",
    size=32,
    num_frames=8,
    batch_size=4,
    learning_rate=4e-3,
    video_frames=20,
    video_size=64,
    videos_per_class={"train": 1, "val": 1},
    log_every=2,
    is_quick=True,
)
"""Seconds on a CPU: shows that everything runs, measures nothing."""


def make_dataset(work: Path, *, scale: Scale, workers: int) -> Path:
    """Make videos and their shards below a folder, or take those that are there.

    Raises:
        UserError: If the shards do not become whole.
    """
    # Decoders and encoders are not needed where the dataset is at hand.
    from gopstream.jobs.demo_videos import write_demo_videos
    from gopstream.jobs.preprocess import shard_folder
    from gopstream.pipeline.options import ExtractionOptions
    from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg

    root = work / f"shards-{scale.video_size}-{scale.video_frames}"
    if (root / _SPLITS[-1] / "manifest.json").is_file():
        say(f"{root}: made before")
        return root
    for split in _SPLITS:
        say(f"making {8 * scale.videos_per_class[split]} videos and their shards: {split}")
        videos = work / f"videos-{scale.video_size}-{scale.video_frames}"
        write_demo_videos(
            videos,
            split="train" if split == "train" else "val",
            videos_per_class=scale.videos_per_class[split],
            seed=_SEED,
            num_frames=scale.video_frames,
            size=scale.video_size,
            workers=workers,
        )
        shard_folder(
            (videos / split).absolute(),
            root,
            split=split,
            options=ExtractionOptions(canonical=CanonicalFormat(short_side=scale.video_size)),
            workers=workers,
            ffmpeg_binary=default_ffmpeg(),
        )
        if failed := load_manifest(root, split).num_failures:
            raise UserError(f"{root}/{split}: {failed} videos were not sharded")
    return root


def overrides_of(scale: Scale, *, workers: int) -> list[str]:
    """Return what makes the demo's recipe one of this scale."""
    words = [
        f"model.name={scale.model}",
        f"clip.num_frames={scale.num_frames}",
        f"transform.size={scale.size}",
        f"train.batch_size={scale.batch_size}",
        f"train.learning_rate={scale.learning_rate!r}",
        f"train.workers={workers}",
        f"train.log_every={scale.log_every}",
        f"train.threads={1 if scale.is_quick else 0}",
        "schedule.warmup_steps=0",
        f"data.short_side={scale.video_size}",
    ]
    if not scale.is_quick:
        words += ["train.precision=bfloat16", "train.compile=true"]
    return words


def run_training(
    root: Path, out: Path, *, minutes: float, overrides: Sequence[str], force: bool = False
) -> dict[str, Any]:
    """Train for some minutes; returns the recipe, the rows of the log, and how long it took.

    Args:
        root: Of the dataset.
        out: New folder for both runs.
        minutes: Of the steps; compilation and validation come on top.
        overrides: Of the demo's recipe.
        force: Use a dataset that was not made as that recipe asks.
    """
    settings = load_recipe(_BASE, overrides).train
    batch_size = settings.batch_size
    probe_steps = _PROBE_ROWS * settings.log_every
    say(f"{probe_steps} steps, to see how long one takes")
    probe = load_recipe(_BASE, [*overrides, f"train.steps={probe_steps}"])
    quietly = Watching(tensorboard=False)
    train(probe, root, out=out / "probe", force=force, watching=quietly)
    step_seconds = read_log(out / "probe")[-1]["step_seconds"]
    steps = max(probe_steps, round(60 * minutes / step_seconds))
    epochs = steps * batch_size / len(ShardDataset(root, "train"))
    whole = [
        *overrides,
        f"train.steps={steps}",
        f"train.validate_epochs={epochs / _VALIDATIONS!r}",
        f"schedule.warmup_steps={steps // 20}",
    ]
    recipe = load_recipe(_BASE, whole)
    say(f"{steps} steps, about {step_seconds:.2f} s each")
    begun = time.monotonic()
    train(recipe, root, out=out / "run", force=force, watching=quietly)
    return {
        "recipe": recipe_content(recipe),
        "seconds": round(time.monotonic() - begun, 1),
        "rows": read_log(out / "run"),
    }


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the rows that a run has logged."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run's log says of its speed and of what was learnt.

    The first row of training is left out of speed and waiting: the model is compiled in it.
    """
    trained = [row for row in rows if row["kind"] == "train"]
    validated = [row for row in rows if row["kind"] == "validation"]
    steady = trained[1:]
    counts = [row["step"] - before["step"] for before, row in zip(trained, steady, strict=False)]
    seconds = [row["step_seconds"] * count for row, count in zip(steady, counts, strict=True)]
    total = sum(seconds)

    def mean(name: str) -> float:
        """Weigh rows by their time."""
        parts = [row[name] * part for row, part in zip(steady, seconds, strict=True)]
        return float(sum(parts) / total)

    return {
        "steps": trained[-1]["step"],
        "measured_steps": sum(counts),
        "measured_seconds": total,
        "step_seconds": total / sum(counts),
        "clips_per_second": mean("clips_per_second"),
        "data_wait": mean("data_wait"),
        "largest_data_wait": max(row["data_wait"] for row in steady),
        "gpu_memory_gib": max((row.get("gpu_memory_gib", 0.0) for row in trained), default=0.0),
        "losses": [[row["step"], row["loss"]] for row in trained],
        "data_waits": [[row["step"], row["data_wait"]] for row in steady],
        "top1": [[row["step"], row["top1"]] for row in validated],
    }


def failures(found: Mapping[str, Any], *, is_quick: bool) -> list[str]:
    """Name what of the claim does not hold; a quick run claims nothing of speed.

    Args:
        found: From :func:`summarise`.
        is_quick: Whether figures mean nothing.
    """
    said = []
    if not all(math.isfinite(loss) for _, loss in found["losses"]):
        said.append("a loss is no number")
    if not found["top1"]:
        said.append("the run was never validated")
    if not is_quick and not found["data_wait"] < LARGEST_WAIT:
        said.append(
            f"{found['data_wait']:.1%} of the time went to waiting for clips, "
            f"{LARGEST_WAIT:.0%} is the bar"
        )
    return said


def _table(content: Mapping[str, Any]) -> Table:
    found = content["found"]
    table = Table("figure", content["model"])
    table.add_row("steps (measured)", f"{found['steps']} ({found['measured_steps']})")
    table.add_row("waiting for clips", f"{found['data_wait']:.2%}")
    table.add_row("clips/s", f"{found['clips_per_second']:.1f}")
    table.add_row("ms a step", f"{1e3 * found['step_seconds']:.1f}")
    table.add_row("GPU memory, GiB", f"{found['gpu_memory_gib']:.1f}")
    table.add_row("loss", f"{found['losses'][0][1]:.3f} to {found['losses'][-1][1]:.3f}")
    shown = ", ".join(f"{top1:.1%} at {step}" for step, top1 in found["top1"])
    table.add_row(f"top-1 (chance {content['chance']:.1%})", shown)
    return table


def _report(
    run: Mapping[str, Any], root: Path, *, scale: Scale, words: Sequence[str]
) -> dict[str, Any]:
    found = summarise(run["rows"])
    said = failures(found, is_quick=scale.is_quick)
    datasets = {split: ShardDataset(root, split) for split in _SPLITS}
    return {
        "command": shlex.join(["python", "-m", "gopstream.jobs.bench.train_real", *words]),
        "quick": scale.is_quick,
        "hardware": hardware()
        | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "claim": f"the GPU waits for clips less than {LARGEST_WAIT:.0%} of the time, past the "
        "first row of the log, in which the model is compiled",
        "holds": None if scale.is_quick else not said,
        "failures": said,
        "model": scale.model,
        "samples": {split: len(dataset) for split, dataset in datasets.items()},
        "chance": 1 / len(datasets["train"].classes),
        "seconds": run["seconds"],
        "found": found,
        "recipe": run["recipe"],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.train_real",
        description="Whether a full-size model in training waits for its clips.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--model", default="dvt_mvit_b", help="of the catalogue")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training")
    parser.add_argument("--batch-size", type=int, default=32, help="clips of a step")
    parser.add_argument("--data", type=Path, help="dataset with train and val; default: made here")
    parser.add_argument("--work", type=Path, default=Path("runs/train_real"), help="new files")
    parser.add_argument("--quick", action="store_true", help="seconds on the CPU, measures nothing")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override of the recipe, such as clip.motion_on=device",
    )
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Make the data and train; returns the content of the result file.

    Raises:
        UserError: If there is no CUDA device and the run is not quick, or an argument is wrong.
    """
    if not given.quick and not torch.cuda.is_available():
        raise UserError("a CUDA device is needed, and there is none; --quick runs on the CPU")
    scale = QUICK if given.quick else full_scale(given.model, batch_size=given.batch_size)
    cores = os.cpu_count() or 1
    root = given.data or make_dataset(given.work, scale=scale, workers=1 if given.quick else cores)
    workers = 0 if given.quick else max(1, cores - 1)
    run = run_training(
        root,
        given.work / f"run-{time.time_ns()}",
        minutes=_QUICK_MINUTES if given.quick else given.minutes,
        overrides=[*overrides_of(scale, workers=workers), *given.overrides],
        force=given.data is not None,
    )
    return _report(run, root, scale=scale, words=sys.argv[1:])


def main() -> int:
    """Measure and report; returns 1 if the claim does not hold."""
    given = _arguments()
    try:
        content = measure(given)
    except UserError as error:
        say(f"error: {error}")
        return 1
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=100).print(_table(content))
    said = "a quick run shows that everything runs; its figures mean nothing"
    said = said if given.quick else "the claim holds"
    Console().print("\n".join(content["failures"]) or said, markup=False, soft_wrap=True)
    return 1 if content["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
