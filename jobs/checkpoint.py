"""Checkpoints: plain tensors and numbers in one file, replaced in one step.

A run's folder has the newest as ``checkpoint.pt``, those before it as ``checkpoint-STEP.pt`` and
the best as ``best.pt``.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from gopstream.jobs.errors import UserError
from gopstream.shards.layout import partial_path, publish

CHECKPOINT_VERSION: Final = 2
CHECKPOINT_FILE: Final = "checkpoint.pt"
BEST_FILE: Final = "best.pt"
_OLDER: Final = re.compile(r"checkpoint-(\d+)\.pt")


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


def keep_older(out: Path, *, step: int, keep: int) -> None:
    """Give the newest checkpoint a second name before it is replaced, and drop the oldest.

    Args:
        out: Folder of the run.
        step: Of the checkpoint that is there now.
        keep: Checkpoints that are to be there after the next one is written.
    """
    if keep > 1:
        _name_also(out / CHECKPOINT_FILE, out / f"checkpoint-{step:08d}.pt")
    older = sorted(
        (int(found[1]), path)
        for path in out.iterdir()
        if (found := _OLDER.fullmatch(path.name)) is not None
    )
    for _, path in older[: max(0, len(older) - (keep - 1))]:
        path.unlink()


def keep_best(out: Path) -> None:
    """Name the newest checkpoint the best."""
    _name_also(out / CHECKPOINT_FILE, out / BEST_FILE)


def _name_also(path: Path, other: Path) -> None:
    """Give a file a second name, in one step; a file system without such names gets a copy."""
    partial = partial_path(other)
    try:
        partial.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    publish(partial, other)
    partial.unlink(missing_ok=True)  # to rename a file to a name that it has does nothing
