"""Checkpoints: plain tensors and numbers in one file, replaced in one step."""

import os
from pathlib import Path
from typing import Any

import torch

from gopstream.jobs.errors import UserError
from gopstream.shards.layout import partial_path, publish

CHECKPOINT_VERSION = 1
CHECKPOINT_FILE = "checkpoint.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves either the old one or the new one."""
    partial = partial_path(path)
    with partial.open("wb") as file:
        torch.save(content | {"version": CHECKPOINT_VERSION}, file)
        file.flush()
        os.fsync(file.fileno())
    publish(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or the one in a run's folder; never unpickles objects.

    Raises:
        UserError: If there is none, or it is not one of ours.
    """
    if path.is_dir():
        path = path / CHECKPOINT_FILE
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is none
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({first_line})") from error
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise UserError(f"{path}: not a checkpoint of this gopstream")
    return content
