"""Write a trained network for use elsewhere: weights, a program, and what both take and say.

``model.safetensors`` has the weights, for ``create_model``. ``model.pt2`` is the network as
torch.export has it, which runs where gopstream is not installed. ``model.json`` says what goes in
and what comes out; it is published last, so that a folder that has it is whole.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import safetensors.torch
import torch
from torch import Tensor

import gopstream
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError
from gopstream.jobs.exported_program import (
    Drawn,
    check_outputs,
    draw_clips,
    make_program,
    write_program,
)
from gopstream.jobs.labels import LabelSet
from gopstream.jobs.network import clip_spec, input_contract
from gopstream.jobs.recipe import Recipe, recipe_content
from gopstream.jobs.trained_run import Trained, load_trained
from gopstream.models.catalogue import find_model
from gopstream.models.catalogue_entry import InputContract
from gopstream.shards.layout import partial_path, publish
from gopstream.shards.loading.clip_spec import ClipSpec

ExportFormat = Literal["pt2", "safetensors", "both"]

WEIGHTS_FILE: Final = "model.safetensors"
PROGRAM_FILE: Final = "model.pt2"
FACTS_FILE: Final = "model.json"
FACTS_VERSION: Final = 1


def export_checkpoint(
    checkpoint: Path, out: Path, *, file_format: ExportFormat = "both"
) -> dict[str, Any]:
    """Write a checkpoint's network into a folder.

    The weights are the averaged ones where the recipe keeps an average. They and the program are
    float32, whatever precision the run had. The program is read back and must say what the network
    says; nothing is published otherwise.

    Args:
        checkpoint: File, or folder of a run: its newest.
        out: New or empty folder.
        file_format: Which files, beside ``model.json``.

    Returns:
        The content of ``model.json``.

    Raises:
        UserError: If there is no checkpoint, the folder is not empty, or the network cannot be
            exported.
    """
    _check_empty(out)
    trained = load_trained(checkpoint)
    trained.network.cpu().float()
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    names = _file_names(file_format)
    partials = {name: partial_path(out / name) for name in names}
    try:
        content = _write_files(partials, trained)
        for name in names:
            _sync(partials[name])
            publish(partials[name], out / name)
    finally:
        for path in partials.values():
            path.unlink(missing_ok=True)
        if not existed:
            with suppress(OSError):  # it is not empty: all is well
                out.rmdir()
    return content


def _write_files(paths: Mapping[str, Path], trained: Trained) -> dict[str, Any]:
    """Write the files; returns the content of ``model.json``.

    Args:
        paths: Where each is written, by its name.
        trained: What is exported, its network on the CPU.
    """
    network, recipe = trained.network, trained.recipe
    spec = clip_spec(recipe, network, testing=True)
    contract = input_contract(recipe, network)

    def draw(num_clips: int) -> Drawn:
        return draw_clips(network, spec, contract=contract, num_clips=num_clips)

    drawn = draw(1)
    check_outputs(network, drawn, sets=trained.sets)
    content = _facts(trained, spec, contract=contract, drawn=drawn)
    if WEIGHTS_FILE in paths:
        say("writing the weights")
        _write_weights(paths[WEIGHTS_FILE], trained)
    if PROGRAM_FILE in paths:
        program = make_program(network, draw, name=recipe.model.name)
        content["program"] = write_program(paths[PROGRAM_FILE], program, network, draw=draw)
    content["files"] = {
        name: _file_facts(path) for name, path in paths.items() if name != FACTS_FILE
    }
    paths[FACTS_FILE].write_text(json.dumps(content, indent=2) + "\n")
    return content


def _check_empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose a new folder with --out")
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if there:
        raise UserError(
            f"{out} is not empty (it has {there[0]}); remove it or choose another folder with --out"
        )


def _file_names(file_format: ExportFormat) -> list[str]:
    """Return the files in the order in which they are published."""
    weights = [WEIGHTS_FILE] if file_format in ("safetensors", "both") else []
    program = [PROGRAM_FILE] if file_format in ("pt2", "both") else []
    return [*weights, *program, FACTS_FILE]


def _write_weights(path: Path, trained: Trained) -> None:
    # Two names of one tensor would be refused: each gets values of its own.
    state = {
        key: tensor.contiguous().clone() for key, tensor in trained.network.state_dict().items()
    }
    metadata = {
        "format": "pt",
        "gopstream": gopstream.__version__,
        "model": trained.recipe.model.name,
        "recipe": json.dumps(recipe_content(trained.recipe)),
        "classes": json.dumps(_label_sets(trained.sets)),
    }
    safetensors.torch.save_file(state, path, metadata=metadata)


def _facts(
    trained: Trained, spec: ClipSpec, *, contract: InputContract, drawn: Drawn
) -> dict[str, Any]:
    """Return what ``model.json`` says besides its files."""
    given = {"frames": drawn.frames} | drawn.inputs
    num_outputs = sum(len(labels.classes) for labels in trained.sets)
    return {
        "version": FACTS_VERSION,
        "model": trained.recipe.model.name,
        "options": _options(trained.recipe, num_outputs=num_outputs),
        "inputs": {name: _input_facts(tensor) for name, tensor in given.items()},
        "output": {"shape": ["clips", num_outputs], "dtype": "float32"},
        "mean": list(contract.mean),
        "std": list(contract.std),
        "clip": _clip_facts(spec),
        "test": {
            "views": trained.recipe.test.views,
            "average": trained.recipe.test.average,
        },
        "label_sets": _label_sets(trained.sets),
        "settings": dict(trained.content["settings"]),
        "step": trained.content["step"],
        "recipe": recipe_content(trained.recipe),
        "versions": {
            "gopstream": gopstream.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _options(recipe: Recipe, *, num_outputs: int) -> dict[str, Any]:
    """Return what the network was made with: arguments of ``create_model``, or of one's own."""
    options = dict(recipe.model.options)
    if not recipe.model.is_own and "size" in find_model(recipe.model.name).options:
        options.setdefault("size", recipe.transform.size)
    made: dict[str, Any] = {"num_classes": num_outputs, "num_frames": recipe.clip.num_frames}
    return made | options


def _input_facts(tensor: Tensor) -> dict[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"shape": ["clips", *tensor.shape[1:]], "dtype": kind}


def _clip_facts(spec: ClipSpec) -> dict[str, Any]:
    """Return how a test clip is cut out of a video."""
    return {
        "num_frames": spec.num_frames,
        "stride": spec.stride,
        "sampling": spec.sampling,
        "overrun": spec.overrun,
        "view_rule": spec.view_rule,
        "size": spec.transform.size,
        "short_side": spec.transform.view_short_side or spec.transform.size,
        "motion": None if spec.motion is None else _without_place(asdict(spec.motion)),
        "rgb_residual": None if spec.rgb_residual is None else asdict(spec.rgb_residual),
    }


def _without_place(motion: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in motion.items() if name != "on"}


def _label_sets(sets: Sequence[LabelSet]) -> list[dict[str, Any]]:
    return [{"name": labels.name, "classes": list(labels.classes)} for labels in sets]


def _file_facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
