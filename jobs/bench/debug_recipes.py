"""The debug recipes do learn: each is trained on the demo's eight motions, by several seeds.

There is one for each family of networks, the short twin of a recipe of its paper. A run fails whose
top-1 is not above chance by three standard errors.

Each training is a process of its own. Finished runs are kept in the folder of work: the same
command goes on where an interrupted one stopped.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.matters_runs import VIEWS, Run, finish_runs
from gopstream.jobs.bench.motion_data import make_motion_data
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.demo_scenes import MOTION_CLASSES, SPLITS
from gopstream.jobs.recipe import load_recipe, recipe_content
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, ffmpeg_version
from gopstream.shards.reader import ShardDataset

RECIPES: Final = (
    "dvt_debug",
    "pst_debug",
    "sifa_net_debug",
    "sifa_swin_debug",
    "video_focalnet_debug",
)
SEEDS: Final = (0, 1, 2)
STANDARD_ERRORS: Final = 3.0
"""By which a run must be above chance."""

# The demo's own data.
VIDEOS_PER_CLASS: Final[Mapping[str, int]] = {"train": 64, "val": 40}
NUM_FRAMES: Final = 32
SHORT_SIDE: Final = 64
DATA_SEED: Final = 20


def make_data(folder: Path, *, videos_per_class: Mapping[str, int], workers: int) -> Path:
    """Make videos and shards, whatever of them is not there yet; returns the dataset.

    Args:
        folder: Of the work.
        videos_per_class: By split.
        workers: Processes.

    Raises:
        UserError: If the folder has data of other settings.
    """
    return make_motion_data(
        folder,
        settings=data_settings(videos_per_class),
        canonical=CanonicalFormat(short_side=SHORT_SIDE),
        workers=workers,
    )


def data_settings(videos_per_class: Mapping[str, int]) -> dict[str, Any]:
    """Return what decides the data, as plain values."""
    return {
        "videos_per_class": dict(videos_per_class),
        "frames_per_video": NUM_FRAMES,
        "short_side": SHORT_SIDE,
        "seed": DATA_SEED,
    }


def plan_runs(
    folder: Path,
    *,
    data: Path,
    recipes: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
) -> list[Run]:
    """List the trainings, seed after seed, so that an interrupted proof has all recipes of some.

    Args:
        folder: Of the work.
        data: The dataset.
        recipes: Names of recipes.
        seeds: Of the weights and of all that is drawn.
        overrides: Of the recipes, for all trainings.
    """
    return [
        Run(
            clip=VIEWS,
            cue=recipe,
            seed=seed,
            recipe=recipe,
            overrides=(*overrides, f"train.seed={seed}"),
            data=data,
            out=folder / "runs" / f"{recipe}-{seed}-{_digest(recipe, overrides)}",
            also_zeroed=False,
        )
        for seed in seeds
        for recipe in recipes
    ]


def _digest(recipe: str, overrides: Sequence[str]) -> str:
    """Return a word for a recipe's content: the runs of one that has changed are not reused."""
    content = json.dumps(recipe_content(load_recipe(recipe, overrides)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def least_top1(*, chance: float, samples: int) -> float:
    """Return what a run must exceed: chance, and three standard errors of guessing.

    Args:
        chance: Share of right guesses.
        samples: That are tested.
    """
    return chance + STANDARD_ERRORS * math.sqrt(chance * (1.0 - chance) / samples)


def make_rows(
    runs: Sequence[Run], finished: Sequence[Mapping[str, Any]], *, samples: int
) -> list[dict[str, Any]]:
    """Return what is reported of each run.

    Args:
        runs: As planned.
        finished: What `finish_runs` returned for them.
        samples: That were tested.
    """
    return [
        {
            "recipe": run.recipe,
            "seed": run.seed,
            "top1": row["top1"],
            "chance": row["chance"],
            "needed": least_top1(chance=row["chance"], samples=samples),
            "steps": _steps_taken(run.out / "log.jsonl"),
            "seconds": row["seconds"],
            "resumed": row["resumed"],
            "per_class": row["per_class"],
        }
        for run, row in zip(runs, finished, strict=True)
    ]


def _steps_taken(log: Path) -> int:
    step: int = json.loads(log.read_text().splitlines()[-1])["step"]
    return step


def find_failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the runs that are not clearly above chance.

    Args:
        rows: From :func:`make_rows`.
    """
    return [
        f"{row['recipe']}, seed {row['seed']}: top-1 {100 * row['top1']:.1f} %, not above "
        f"{100 * row['needed']:.1f} %"
        for row in rows
        if not row["top1"] > row["needed"]  # also where it is no number
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the range over the seeds of each recipe, in percent.

    Args:
        rows: From :func:`make_rows`.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["recipe"], []).append(row)
    summary = []
    for recipe, of_recipe in found.items():
        top1 = [100 * row["top1"] for row in of_recipe]
        summary.append(
            {
                "recipe": recipe,
                "seeds": len(top1),
                "mean": round(sum(top1) / len(top1), 2),
                "least": round(min(top1), 2),
                "most": round(max(top1), 2),
                "seconds": round(sum(row["seconds"] for row in of_recipe) / len(top1), 1),
            }
        )
    return summary


def report(
    rows: Sequence[Mapping[str, Any]], *, settings: Mapping[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the result file.

    Args:
        rows: From :func:`make_rows`.
        settings: How data and trainings were made.
        words: Of the command line.
    """
    return {
        "command": shlex.join(["python", "-m", "gopstream.jobs.bench.debug_recipes", *words]),
        "hardware": hardware()
        | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
        "versions": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "ffmpeg": ffmpeg_version(default_ffmpeg()),
        },
        "settings": dict(settings),
        "claim": f"top-1 is above chance by {STANDARD_ERRORS:g} standard errors of guessing",
        "failures": find_failures(rows),
        "recipes": summarise(rows),
        "runs": list(rows),
    }


def make_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    """Return the accuracies as a table."""
    table = Table("recipe", "top-1, %", "range", "seeds", "seconds")
    for row in summary:
        span = f"{row['least']:.1f} to {row['most']:.1f}"
        seeds, seconds = str(row["seeds"]), f"{row['seconds']:.0f}"
        table.add_row(row["recipe"], f"{row['mean']:.1f}", span, seeds, seconds)
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.debug_recipes",
        description="Trains the debug recipe of each family on the demo's motions.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--work", type=Path, default=Path("runs/debug_recipes"))
    parser.add_argument("--data", type=Path, help="shards of the demo; made if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, help="of each training, in place of its recipe's")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time")
    return parser.parse_args()


def main() -> int:
    """Make the data, train, test and report; returns 1 if a run is not clearly above chance."""
    given = _arguments()
    data = given.data
    if data is None:
        data = make_data(given.work, videos_per_class=VIDEOS_PER_CLASS, workers=os.cpu_count() or 1)
    overrides = () if given.steps is None else ("train.epochs=0", f"train.steps={given.steps}")
    runs = plan_runs(
        given.work, data=data, recipes=given.recipes, seeds=given.seeds, overrides=overrides
    )
    finished = finish_runs(runs, parallel=given.parallel)
    tested = ShardDataset(data, "val")
    settings = {
        "data": data_settings(VIDEOS_PER_CLASS) if given.data is None else "given",
        "samples": {split: len(ShardDataset(data, split)) for split in SPLITS},
        "classes": list(MOTION_CLASSES) if given.data is None else list(tested.classes),
        "views": VIEWS,
        "parallel": given.parallel,
    }
    rows = make_rows(runs, finished, samples=len(tested))
    content = report(rows, settings=settings, words=sys.argv[1:])
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    console = Console(width=110)
    console.print(make_table(content["recipes"]))
    for failure in content["failures"]:
        console.print(failure, markup=False, soft_wrap=True)
    return 1 if content["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
