"""What motion is worth to the Deformable Video Transformer: its cues beside the paper's Table 1.

Small networks are trained on the demo's eight motions, in longer videos whose GOPs are of twelve
frames: by motion accumulated from the codec's vectors (MD), by residuals along it (RGB-R), by
differences (RGB-D) and means (Avg-P-RGB) of frames, by TV-L1 optical flow (OF), and by none. Those
of MD are also tested with their motion set to zero. All have the same recipe, steps and seeds;
clips are 8 x 2 as in the demo, and 16 x 4, in which each sub-clip crosses an I-frame.

Each training is a process of its own. Finished runs are kept in the folder of work: the same
command goes on where an interrupted one stopped.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.flow_motion import write_flow_dataset
from gopstream.jobs.bench.matters_runs import Run, finish_runs
from gopstream.jobs.bench.motion_data import make_motion_data
from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.pipeline.transcode import CanonicalFormat, default_ffmpeg, ffmpeg_version

RECIPE: Final = "dvt_tiny_demo"
VIDEOS_PER_CLASS: Final = {"train": 64, "val": 40}
NUM_FRAMES: Final = 72
GOP: Final = 12
SHORT_SIDE: Final = 64
STEPS: Final = 600
SEEDS: Final = 3
_DATA_SEED: Final = 20

CLIPS: Final = {
    "8x2": ("clip.num_frames=8", "clip.stride=2"),
    "16x4": ("clip.num_frames=16", "clip.stride=4"),
}
"""Overrides of the recipe."""
CUES: Final = {
    "MD": ("model.options.cue=motion",),
    "RGB-R": ("model.options.cue=residual",),
    "RGB-D": ("model.options.cue=difference",),
    "Avg-P-RGB": ("model.options.cue=average",),
    "OF": ("model.options.cue=motion",),
    "none": ("model.use_motion=false",),
}
"""Likewise; those of OF read the dataset of flow."""
ZEROED: Final = "MD, zero when tested"
PAPER: Final = {"Avg-P-RGB": 72.3, "RGB-R": 73.2, "RGB-D": 73.6, "MD": 77.9, "OF": 78.2}
"""Top-1 on Kinetics-400 in percent: Wang and Torresani, CVPR 2022, Table 1."""


def plan_runs(
    folder: Path,
    *,
    clips: Sequence[str],
    cues: Sequence[str],
    seeds: int,
    steps: int,
) -> list[Run]:
    """List the trainings, seed after seed, so that an interrupted proof has all cues of some.

    Args:
        folder: Of the work.
        clips: Keys of ``CLIPS``.
        cues: Keys of ``CUES``.
        seeds: How many, from 0.
        steps: Of each training.
    """
    return [
        Run(
            clip=clip,
            cue=cue,
            seed=seed,
            recipe=RECIPE,
            overrides=(*CLIPS[clip], *CUES[cue], f"train.steps={steps}", f"train.seed={seed}"),
            data=folder / ("flow" if cue == "OF" else "shards"),
            out=folder / "runs" / f"{clip}-{cue}-{seed}-{steps}",
            also_zeroed=cue == "MD",
        )
        for seed in range(seeds)
        for clip in clips
        for cue in cues
    ]


def make_data(
    folder: Path, *, videos_per_class: dict[str, int], with_flow: bool, workers: int
) -> None:
    """Make videos, shards and the copy with flow, whatever of them is not there yet.

    Args:
        folder: Of the work.
        videos_per_class: By split.
        with_flow: Whether optical flow is needed.
        workers: Processes.

    Raises:
        UserError: If the folder has data of other settings.
    """
    make_motion_data(
        folder,
        settings=data_settings(videos_per_class),
        canonical=CanonicalFormat(short_side=SHORT_SIDE, gop=GOP),
        workers=workers,
    )
    if with_flow:
        write_flow_dataset(folder / "shards", folder / "flow", workers=workers)


def data_settings(videos_per_class: dict[str, int]) -> dict[str, Any]:
    """Return what decides the data, as plain values."""
    return {
        "videos_per_class": videos_per_class,
        "frames_per_video": NUM_FRAMES,
        "gop": GOP,
        "short_side": SHORT_SIDE,
        "seed": _DATA_SEED,
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each clip and cue: its seeds' accuracies, their mean and range.

    Args:
        rows: Of the runs, with ``clip``, ``cue``, ``seed`` and ``top1``, and of MD ``zeroed_top1``.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["clip"], row["cue"]), []).append(row["top1"])
        if "zeroed_top1" in row:
            found.setdefault((row["clip"], ZEROED), []).append(row["zeroed_top1"])
    return [
        {
            "clip": clip,
            "cue": cue,
            "seeds": len(scores),
            "top1": [round(100 * score, 2) for score in scores],
            "mean": round(100 * sum(scores) / len(scores), 2),
            "least": round(100 * min(scores), 2),
            "most": round(100 * max(scores), 2),
            "paper_kinetics": PAPER.get(cue),
        }
        for (clip, cue), scores in found.items()
    ]


def separation(summary: Sequence[dict[str, Any]], clip: str) -> dict[str, Any] | None:
    """Say whether every seed of MD is better than every seed of RGB-D; None without both.

    Args:
        summary: From :func:`summarise`.
        clip: Key of ``CLIPS``.
    """
    by_cue = {row["cue"]: row for row in summary if row["clip"] == clip}
    if not {"MD", "RGB-D"} <= by_cue.keys():
        return None
    margin = by_cue["MD"]["least"] - by_cue["RGB-D"]["most"]
    ranked = sorted((row for row in by_cue.values()), key=lambda row: -row["mean"])
    return {
        "clip": clip,
        "holds": margin > 0,
        "margin": round(margin, 2),
        "order": [row["cue"] for row in ranked],
        "order_of_the_paper": sorted(PAPER, key=lambda cue: -PAPER[cue]),
    }


def report(
    rows: Sequence[dict[str, Any]], *, settings: dict[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    """Return the content of the result file.

    Args:
        rows: Of the runs.
        settings: How data and trainings were made.
        words: Of the command line.
    """
    summary = summarise(rows)
    claims = [found for clip in CLIPS if (found := separation(summary, clip)) is not None]
    return {
        "command": shlex.join(["python", "-m", "gopstream.jobs.bench.motion_matters", *words]),
        "hardware": hardware()
        | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
        "versions": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "ffmpeg": ffmpeg_version(default_ffmpeg()),
        },
        "settings": settings,
        "claim": "MD is better than RGB-D, with ranges over the seeds that do not overlap",
        "holds": all(claim["holds"] for claim in claims) if claims else None,
        "claims": claims,
        "cues": summary,
        "runs": list(rows),
    }


def make_table(summary: Sequence[dict[str, Any]]) -> Table:
    """Return the accuracies as a table."""
    table = Table("clip", "cue", "top-1, %", "range", "seeds", "paper, Kinetics-400")
    for row in sorted(summary, key=lambda row: (list(CLIPS).index(row["clip"]), -row["mean"])):
        paper = "" if row["paper_kinetics"] is None else f"{row['paper_kinetics']:.1f}"
        span = f"{row['least']:.1f} to {row['most']:.1f}"
        table.add_row(row["clip"], row["cue"], f"{row['mean']:.1f}", span, str(row["seeds"]), paper)
    return table


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main() -> int:
    """Make the data, train, test and report; returns 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.motion_matters",
        description="Motion cues of the Deformable Video Transformer on the demo's motions.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    parser.add_argument("--work", type=Path, default=Path("runs/motion_matters"))
    parser.add_argument("--only", type=_words, default=list(CUES), help=f"of {','.join(CUES)}")
    parser.add_argument("--clips", type=_words, default=list(CLIPS), help=f"of {','.join(CLIPS)}")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time")
    parser.add_argument("--train-videos", type=int, default=VIDEOS_PER_CLASS["train"])
    parser.add_argument("--val-videos", type=int, default=VIDEOS_PER_CLASS["val"])
    given = parser.parse_args()
    for name, words, known in (("--only", given.only, CUES), ("--clips", given.clips, CLIPS)):
        if unknown := set(words) - set(known):
            parser.error(f"{name}: there is no {', '.join(sorted(unknown))}; use {','.join(known)}")
    videos = {"train": given.train_videos, "val": given.val_videos}
    make_data(
        given.work,
        videos_per_class=videos,
        with_flow="OF" in given.only,
        workers=os.cpu_count() or 1,
    )
    runs = plan_runs(
        given.work, clips=given.clips, cues=given.only, seeds=given.seeds, steps=given.steps
    )
    rows = finish_runs(runs, parallel=given.parallel)
    settings = {
        "recipe": RECIPE,
        "steps": given.steps,
        "data": data_settings(videos),
        "parallel": given.parallel,
        "clips": CLIPS,
        "cues": CUES,
    }
    content = report(rows, settings=settings, words=sys.argv[1:])
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    Console(width=110).print(make_table(content["cues"]))
    return 1 if content["holds"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
