"""The demo's eight motions as a proof trains on them: videos and shards, made once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.console import say
from gopstream.jobs.demo_scenes import SPLITS
from gopstream.jobs.demo_videos import write_demo_videos
from gopstream.jobs.errors import UserError
from gopstream.jobs.preprocess import shard_folder
from gopstream.pipeline.options import ExtractionOptions
from gopstream.pipeline.transcode import CanonicalFormat

_DATA_FILE: Final = "data.json"


def make_motion_data(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    canonical: CanonicalFormat,
    workers: int,
) -> Path:
    """Make videos and shards, whatever of them is not there yet; returns the dataset.

    Args:
        folder: Of the work.
        settings: What decides the data, as plain values: ``videos_per_class`` by split,
            ``frames_per_video``, ``seed``, and what else is to be compared.
        canonical: Of the shards.
        workers: Processes.

    Raises:
        UserError: If the folder has data of other settings.
    """
    _check_settings(folder / _DATA_FILE, dict(settings))
    for split in SPLITS:
        if (folder / "shards" / split / "manifest.json").is_file():
            continue
        say(f"making the videos of {split}")
        write_demo_videos(
            folder / "videos",
            split=split,
            videos_per_class=settings["videos_per_class"][split],
            seed=settings["seed"],
            num_frames=settings["frames_per_video"],
            workers=workers,
        )
        shard_folder(
            folder / "videos" / split,
            folder / "shards",
            split=split,
            options=ExtractionOptions(canonical=canonical),
            workers=workers,
        )
    return folder / "shards"


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings, indent=2) + "\n")
    elif (found := json.loads(file.read_text())) != settings:
        raise UserError(
            f"{file.parent} holds data of other settings ({found}); use another --work, "
            "or remove that folder"
        )
