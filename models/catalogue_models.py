"""The models of the catalogue, family by family."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from gopstream.models.catalogue_entry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CatalogueEntry,
    InputContract,
    Paper,
)
from gopstream.models.catalogue_motion_models import MOTION_MODELS
from gopstream.models.deit import deit_s_2d, deit_s_tps, deit_s_tsm, deit_tiny_tps
from gopstream.models.deit import source_keys as deit_source_keys
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

_VIDEO_FOCALNET_PAPER: Final = Paper(
    title="Video-FocalNets: Spatio-Temporal Focal Modulation for Video Action Recognition",
    year=2023,
)
_PST_PAPER: Final = Paper(
    title="Spatiotemporal Self-attention Modeling with Temporal Patch Shift for Action Recognition",
    year=2022,
)
_VIDEO_SWIN_PAPER: Final = Paper(title="Video Swin Transformer", year=2022)


def _frames_alone(
    num_frames: int, *, size: int, frame_stride: int | None, test_clips: int
) -> InputContract:
    """Return the contract of a model without motion; without a stride it takes segments."""
    return InputContract(
        planes=("frames",),
        num_frames=num_frames,
        sampling="segments" if frame_stride is None else "dense",
        frame_stride=frame_stride,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        test_clips=test_clips,
        test_crops=3,
        query_stride=None,
        subclip_frames=None,
    )


def _video_focalnet(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    size: int = 224,
    weights_that_fit: tuple[str, ...] = (),
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="video_focalnet",
        constructor=constructor,
        contract=_frames_alone(8, size=size, frame_stride=None, test_clips=4),
        paper=_VIDEO_FOCALNET_PAPER,
        notes=notes,
        figures=FIGURES.get(name),
        layouts=video_focalnet_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 3,
            "embed_dim": 16,
            "depths": (1, 1),
            "focal_levels": (2, 2),
            "focal_windows": (3, 3),
        },
        shrunk_size=16,
    )


_KINETICS: Final = _frames_alone(32, size=224, frame_stride=2, test_clips=4)
_SOMETHING: Final = _frames_alone(32, size=224, frame_stride=None, test_clips=1)
"""Of the PST paper: what is compared on Kinetics-400, and on Something-Something."""


def _pst(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    contract: InputContract = _KINETICS,
    paper: Paper = _PST_PAPER,
    weights_that_fit: tuple[str, ...] = (),
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="pst",
        constructor=constructor,
        contract=contract,
        paper=paper,
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


def _deit(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    num_frames: int = 16,
    size: int = 224,
    weights_that_fit: tuple[str, ...] = ("DeiT-S of the authors or timm (ImageNet-1K)",),
    shrunk: Mapping[str, object] | None = None,
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="deit",
        constructor=constructor,
        contract=_frames_alone(num_frames, size=size, frame_stride=2, test_clips=4),
        paper=_PST_PAPER,
        notes=notes,
        figures=FIGURES.get(name),
        layouts=deit_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 3,
            "size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            **(shrunk or {}),
        },
        shrunk_size=16,
    )


_OF_FOCALNET: Final = "FocalNet focalnet_{}_srf.pth (ImageNet-1K); temporal parts stay random"

_VIDEO_FOCALNET: Final = (
    _video_focalnet(
        "video_focalnet_t",
        video_focalnet_t,
        notes="stages of 2, 2, 6, 2 blocks from width 96; the authors' code takes one frame from "
        "each of 8 equal parts of a video; tests of 4 x 3 views for Kinetics, 1 x 3 elsewhere",
        weights_that_fit=("Video-FocalNet-T of the authors", _OF_FOCALNET.format("tiny")),
    ),
    _video_focalnet(
        "video_focalnet_s",
        video_focalnet_s,
        notes="stages of 2, 2, 18, 2 blocks from width 96; frames and views as for T",
        weights_that_fit=("Video-FocalNet-S of the authors", _OF_FOCALNET.format("small")),
    ),
    _video_focalnet(
        "video_focalnet_b",
        video_focalnet_b,
        notes="stages of 2, 2, 18, 2 blocks from width 128; frames and views as for T",
        weights_that_fit=("Video-FocalNet-B of the authors", _OF_FOCALNET.format("base")),
    ),
    _video_focalnet(
        "video_focalnet_tiny",
        video_focalnet_tiny,
        notes="stages of 1, 1, 2 blocks from width 32, for tests; not in the paper",
        size=32,
    ),
)

_OF_SWIN_T: Final = "Swin-T of Microsoft, timm or torchvision (ImageNet-1K)"
_OF_SWIN_B: Final = "Swin-B of Microsoft, timm or torchvision (ImageNet-1K or 21K)"
_DAGGER: Final = (
    "windows of two frames; rebuilt from the paper's FLOPs, no code was published; clips and "
    "views as for pst_t"
)
_JOINT: Final = (
    "joint attention in windows of 16 x 7 x 7, as the PST paper compares it; local attention is "
    "temporal_window=8 with table_frames=8"
)

_PST: Final = (
    _pst(
        "pst_t",
        pst_t,
        notes="even blocks shift channels, odd ones patches by pattern C; clips of 32 x 2 and 4 x "
        "3 views for Kinetics, 32 segments of the whole video and 1 x 3 views for the others; "
        "block_kinds has the paper's patch-only and channel-only networks",
        weights_that_fit=("PST-T of the authors", "Video-Swin-T", _OF_SWIN_T),
    ),
    _pst(
        "pst_b",
        pst_b,
        notes="as pst_t, wider and deeper; the drop path of 0.2 is the paper's, no configuration "
        "was published",
        weights_that_fit=("PST-B of the authors", "Video-Swin-B", _OF_SWIN_B),
    ),
    _pst(
        "pst_t_dagger",
        pst_t_dagger,
        notes=_DAGGER,
        weights_that_fit=("Video-Swin-T", _OF_SWIN_T),
    ),
    _pst(
        "pst_b_dagger",
        pst_b_dagger,
        notes=_DAGGER,
        weights_that_fit=("Video-Swin-B", _OF_SWIN_B),
    ),
    _pst(
        "swin2d_t",
        swin2d_t,
        contract=_SOMETHING,
        notes="Swin-T on every token frame (two frames each), averaged",
        weights_that_fit=(_OF_SWIN_T,),
    ),
    _pst(
        "swin2d_b",
        swin2d_b,
        contract=_SOMETHING,
        notes="Swin-B on every token frame (two frames each), averaged",
        weights_that_fit=(_OF_SWIN_B,),
    ),
    _pst(
        "video_swin_t",
        video_swin_t,
        contract=_SOMETHING,
        paper=_VIDEO_SWIN_PAPER,
        notes=f"{_JOINT}; block_kinds has sparse attention",
        weights_that_fit=("Video-Swin-T of its authors or torchvision's swin3d_t", _OF_SWIN_T),
    ),
    _pst(
        "video_swin_b",
        video_swin_b,
        contract=_SOMETHING,
        paper=_VIDEO_SWIN_PAPER,
        notes=f"{_JOINT}; the drop path of 0.2 is PST-B's, that of its own recipe for "
        "Something-Something V2 is 0.4",
        weights_that_fit=("Video-Swin-B of its authors or torchvision's swin3d_b", _OF_SWIN_B),
    ),
    _pst(
        "pst_tiny",
        pst_tiny,
        contract=_frames_alone(8, size=32, frame_stride=2, test_clips=4),
        notes="two stages from width 32, for tests; not in the paper",
    ),
)

_DEIT: Final = (
    _deit(
        "deit_s_2d",
        deit_s_2d,
        notes="DeiT-S on every frame, class tokens averaged; the paper samples 16 frames densely "
        "and all else is as for PST-T, from which the stride is taken",
    ),
    _deit(
        "deit_s_tsm",
        deit_s_tsm,
        notes="the same with channels shifted in every second block",
        shrunk={"channel_folds": 4},
    ),
    _deit("deit_s_tps", deit_s_tps, notes="the same with patches shifted in every second block"),
    _deit(
        "deit_tiny_tps",
        deit_tiny_tps,
        num_frames=8,
        size=32,
        notes="patches shifted, four blocks of width 64, for tests; not in the paper",
        weights_that_fit=(),
    ),
)

MODELS: Final[Mapping[str, CatalogueEntry]] = {
    entry.name: entry
    for entry in (
        *MOTION_MODELS,
        *_VIDEO_FOCALNET,
        *_PST,
        *_DEIT,
    )
}
"""By name."""
