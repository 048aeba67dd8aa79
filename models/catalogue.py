"""Every model that can be made by name, and what it needs to be fed."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from torch import nn

from gopstream.models.catalogue_entry import CatalogueEntry, InputContract, Paper
from gopstream.models.deit import deit_s_2d, deit_s_tps, deit_s_tsm, deit_tiny_tps
from gopstream.models.deit import source_keys as deit_source_keys
from gopstream.models.dvt import dvt_tiny
from gopstream.models.paper_figures import FIGURES
from gopstream.models.pst import (
    pst_b,
    pst_b_dagger,
    pst_t,
    pst_t_dagger,
    pst_tiny,
    swin2d_b,
    swin2d_t,
    video_swin_b,
    video_swin_t,
)
from gopstream.models.pst import source_keys as pst_source_keys
from gopstream.models.video_focalnet import source_keys as video_focalnet_source_keys
from gopstream.models.video_focalnet import (
    video_focalnet_b,
    video_focalnet_s,
    video_focalnet_t,
    video_focalnet_tiny,
)
from gopstream.models.weights.loading import load_weights

__all__ = [
    "MODELS",
    "CatalogueEntry",
    "InputContract",
    "Paper",
    "create_model",
    "find_model",
    "list_models",
]

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)

_DVT_PAPER: Final = Paper(title="Deformable Video Transformer", year=2022)
_VIDEO_FOCALNET_PAPER: Final = Paper(
    title="Video-FocalNets: Spatio-Temporal Focal Modulation for Video Action Recognition",
    year=2023,
)
_PST_PAPER: Final = Paper(
    title="Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action Recognition",
    year=2022,
)


def _frames_alone(num_frames: int, *, frame_stride: int, size: int) -> InputContract:
    return InputContract(
        planes=("frames",),
        num_frames=num_frames,
        frame_stride=frame_stride,
        size=size,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        query_stride=None,
        subclip_frames=None,
    )


def _video_focalnet(
    name: str, constructor: Callable[..., nn.Module], *, notes: str
) -> CatalogueEntry:
    letter = name.removeprefix("video_focalnet_")
    size = {"t": "tiny", "s": "small", "b": "base"}.get(letter)
    return CatalogueEntry(
        name=name,
        family="video_focalnet",
        constructor=constructor,
        contract=_frames_alone(8, frame_stride=4, size=32 if size is None else 224),
        paper=_VIDEO_FOCALNET_PAPER,
        notes=notes,
        figures=FIGURES.get(name),
        layouts=video_focalnet_source_keys.LAYOUTS,
        weights_that_fit=()
        if size is None
        else (
            f"Video-FocalNet-{letter.upper()} of the authors",
            f"FocalNet focalnet_{size}_srf.pth (ImageNet-1K); temporal parts stay random",
        ),
        shrunk={
            "num_frames": 3,
            "embed_dim": 16,
            "depths": (1, 1),
            "focal_levels": (2, 2),
            "focal_windows": (3, 3),
        },
        shrunk_size=16,
    )


def _pst(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    weights_that_fit: tuple[str, ...] = (),
) -> CatalogueEntry:
    small = name == "pst_tiny"
    return CatalogueEntry(
        name=name,
        family="pst",
        constructor=constructor,
        contract=_frames_alone(8 if small else 32, frame_stride=2, size=32 if small else 224),
        paper=_PST_PAPER,
        notes=notes,
        figures=FIGURES.get(name),
        layouts=pst_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 6,
            "embed_dim": 16,
            "depths": (2, 1),
            "num_heads": (1, 2),
            "window_size": 4,
        },
        shrunk_size=32,
    )


def _deit(name: str, constructor: Callable[..., nn.Module], *, notes: str) -> CatalogueEntry:
    small = name == "deit_tiny_tps"
    return CatalogueEntry(
        name=name,
        family="deit",
        constructor=constructor,
        contract=_frames_alone(8 if small else 16, frame_stride=2, size=32 if small else 224),
        paper=_PST_PAPER,
        notes=notes,
        figures=FIGURES.get(name),
        layouts=deit_source_keys.LAYOUTS,
        weights_that_fit=() if small else ("DeiT-S of the authors or timm (ImageNet-1K)",),
        shrunk={
            "num_frames": 3,
            "size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "channel_folds": 4,
        },
        shrunk_size=16,
    )


_DVT: Final = (
    CatalogueEntry(
        name="dvt_tiny",
        family="dvt",
        constructor=dvt_tiny,
        contract=InputContract(
            planes=("frames", "motion"),
            num_frames=8,
            frame_stride=2,
            size=32,
            mean=(0.45, 0.45, 0.45),
            std=(0.225, 0.225, 0.225),
            query_stride=2,
            subclip_frames=4,
        ),
        paper=_DVT_PAPER,
        notes="D-ST-A in two blocks of width 48 and 96, for tests and the demo; not in the paper",
        shrunk_size=32,
    ),
)

_VIDEO_FOCALNET: Final = (
    _video_focalnet(
        "video_focalnet_t",
        video_focalnet_t,
        notes="stages of 2, 2, 6, 2 blocks from width 96; the authors' code takes one frame from "
        "each of 8 equal parts of a video",
    ),
    _video_focalnet(
        "video_focalnet_s",
        video_focalnet_s,
        notes="stages of 2, 2, 18, 2 blocks from width 96; frames as for T",
    ),
    _video_focalnet(
        "video_focalnet_b",
        video_focalnet_b,
        notes="stages of 2, 2, 18, 2 blocks from width 128; frames as for T",
    ),
    _video_focalnet(
        "video_focalnet_tiny",
        video_focalnet_tiny,
        notes="stages of 1, 1, 2 blocks from width 32, for tests; not in the paper",
    ),
)

_OF_SWIN_T: Final = "Swin-T of Microsoft, timm or torchvision (ImageNet-1K)"
_OF_SWIN_B: Final = "Swin-B of Microsoft, timm or torchvision (ImageNet-1K or 21K)"

_PST: Final = (
    _pst(
        "pst_t",
        pst_t,
        notes="even blocks shift channels, odd ones patches by pattern C; clips of 32 x 2 for "
        "Kinetics, 32 frames from the whole video for the others",
        weights_that_fit=("PST-T of the authors", "Video-Swin-T", _OF_SWIN_T),
    ),
    _pst(
        "pst_b",
        pst_b,
        notes="as pst_t, wider and deeper; drop path and learning rate are the paper's",
        weights_that_fit=("PST-B of the authors", "Video-Swin-B", _OF_SWIN_B),
    ),
    _pst(
        "pst_t_dagger",
        pst_t_dagger,
        notes="windows of two frames; rebuilt from the paper's FLOPs, no code was published",
        weights_that_fit=("Video-Swin-T", _OF_SWIN_T),
    ),
    _pst(
        "pst_b_dagger",
        pst_b_dagger,
        notes="windows of two frames; rebuilt from the paper's FLOPs, no code was published",
        weights_that_fit=("Video-Swin-B", _OF_SWIN_B),
    ),
    _pst(
        "swin2d_t",
        swin2d_t,
        notes="Swin-T on every token frame (two frames each), averaged",
        weights_that_fit=(_OF_SWIN_T,),
    ),
    _pst(
        "swin2d_b",
        swin2d_b,
        notes="Swin-B on every token frame (two frames each), averaged",
        weights_that_fit=(_OF_SWIN_B,),
    ),
    _pst(
        "video_swin_t",
        video_swin_t,
        notes="joint attention in windows of 16 x 7 x 7",
        weights_that_fit=("Video-Swin-T of its authors or torchvision's swin3d_t", _OF_SWIN_T),
    ),
    _pst(
        "video_swin_b",
        video_swin_b,
        notes="joint attention in windows of 16 x 7 x 7",
        weights_that_fit=("Video-Swin-B of its authors or torchvision's swin3d_b", _OF_SWIN_B),
    ),
    _pst("pst_tiny", pst_tiny, notes="two stages from width 32, for tests; not in the paper"),
)

_DEIT: Final = (
    _deit(
        "deit_s_2d",
        deit_s_2d,
        notes="DeiT-S on every frame, class tokens averaged; the paper samples densely, at a "
        "stride that it does not say",
    ),
    _deit("deit_s_tsm", deit_s_tsm, notes="the same with channels shifted in every second block"),
    _deit("deit_s_tps", deit_s_tps, notes="the same with patches shifted in every second block"),
    _deit(
        "deit_tiny_tps",
        deit_tiny_tps,
        notes="patches shifted, four blocks of width 64, for tests; not in the paper",
    ),
)

MODELS: Final[Mapping[str, CatalogueEntry]] = {
    entry.name: entry
    for entry in (
        *_DVT,
        *_VIDEO_FOCALNET,
        *_PST,
        *_DEIT,
    )
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows, sorted."""
    return sorted(MODELS)


def find_model(name: str) -> CatalogueEntry:
    """Look a model up.

    Raises:
        ValueError: If there is none of that name; the message has the nearest one.
    """
    if name not in MODELS:
        raise ValueError(
            f"no model is called {name!r}{_nearest(name, list_models())}; "
            f"known models: {', '.join(list_models())}"
        )
    return MODELS[name]


def create_model(
    name: str,
    *,
    num_classes: int,
    num_frames: int | None = None,
    weights: Path | str | None = None,
    **options: object,
) -> nn.Module:
    """Make a model with fresh weights, drawn from torch's global generator, or with given ones.

    With options that change the input (`num_frames`, `size`, `subclip_tokens`), the
    catalogue's contract no longer tells what the model takes; its own attributes do.

    Args:
        name: One of `list_models`.
        num_classes: Outputs.
        num_frames: Sampled frames of a clip; None for the catalogue's.
        weights: A file of weights of the same model, or of others under names that the
            catalogue's layouts know; each key must be accounted for. None for fresh weights.
            `load_weights` does the same and returns a report of where each weight went.
        **options: Arguments of the model's constructor, such as the paper's ablations.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: If the name, an option or an option's value is wrong, or the weights do
            not fit.
    """
    entry = find_model(name)
    if num_frames is not None:
        options["num_frames"] = num_frames
    for option in options:
        if option not in entry.options:
            raise ValueError(
                f"{name} has no option {option!r}{_nearest(option, entry.options)}; "
                f"its options: {', '.join(entry.options)}"
            )
    model = entry.constructor(num_classes, **options)
    if weights is not None:
        load_weights(model, weights, layouts=entry.layouts)
    return model


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
