"""The families of the catalogue that follow motion: DVT with its baseline MViT, and SIFA."""

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
from gopstream.models.dvt import dvt_mvit_b, dvt_tiny, dvt_vit_b
from gopstream.models.dvt import source_keys as dvt_source_keys
from gopstream.models.mvit import mvit_b, mvit_tiny
from gopstream.models.mvit import source_keys as mvit_source_keys
from gopstream.models.paper_figures_motion import MOTION_FIGURES
from gopstream.models.sifa import (
    sifa_net_r50,
    sifa_net_r101,
    sifa_net_tiny,
    sifa_swin_b,
    sifa_swin_s,
    sifa_swin_t,
    sifa_swin_tiny,
    swin_source_keys,
)
from gopstream.models.sifa import source_keys as sifa_source_keys

_KINETICS_MEAN: Final = (0.45, 0.45, 0.45)
_KINETICS_STD: Final = (0.225, 0.225, 0.225)

_DVT_PAPER: Final = Paper(title="Deformable Video Transformer", year=2022)
_MVIT_PAPER: Final = Paper(title="Multiscale Vision Transformers", year=2021)
_SIFA_PAPER: Final = Paper(
    title="Stand-Alone Inter-Frame Attention in Video Models",
    year=2022,
)

_OF_MVIT: Final = (
    "MViT-B 16x4 of torchvision (Kinetics-400)",
    "MViT-B 16x4 of PySlowFast (Kinetics-400)",
)
_OF_VIT_B: Final = "ViT-B/16 of timm or torchvision (ImageNet); what it lacks stays random"


def _dvt(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    weights_that_fit: tuple[str, ...],
    shrunk: Mapping[str, object],
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="dvt",
        constructor=constructor,
        contract=InputContract(
            planes=("frames", "motion"),
            num_frames=16,
            frame_stride=4,
            size=224,
            mean=_KINETICS_MEAN,
            std=_KINETICS_STD,
            test_clips=5,
            test_crops=1,
            query_stride=2,
            subclip_frames=8,
        ),
        paper=_DVT_PAPER,
        notes=notes,
        figures=MOTION_FIGURES[name],
        layouts=dvt_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 8,
            "size": 16,
            "embed_dim": 16,
            "subclip_tokens": 2,
            "drop_path_rate": 0.0,
            **shrunk,
        },
        shrunk_size=16,
    )


def _mvit(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    num_frames: int = 16,
    frame_stride: int = 4,
    size: int = 224,
    weights_that_fit: tuple[str, ...] = _OF_MVIT,
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="mvit",
        constructor=constructor,
        contract=InputContract(
            planes=("frames",),
            num_frames=num_frames,
            frame_stride=frame_stride,
            size=size,
            mean=_KINETICS_MEAN,
            std=_KINETICS_STD,
            test_clips=5,
            test_crops=1,
            query_stride=None,
            subclip_frames=None,
        ),
        paper=_MVIT_PAPER,
        notes=notes,
        figures=MOTION_FIGURES.get(name),
        layouts=mvit_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 4,
            "size": 16,
            "embed_dim": 16,
            "depth": 3,
            "num_heads": 1,
            "stage_starts": (1,),
            "pooling_stride": 4,
        },
        shrunk_size=16,
    )


def _frames_alone(
    num_frames: int, *, frame_stride: int, size: int, test_clips: int
) -> InputContract:
    return InputContract(
        planes=("frames",),
        num_frames=num_frames,
        frame_stride=frame_stride,
        size=size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        test_clips=test_clips,
        test_crops=3,
        query_stride=None,
        subclip_frames=None,
    )


def _sifa_net(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    num_frames: int = 16,
    size: int = 224,
    weights_that_fit: tuple[str, ...] = (),
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="sifa",
        constructor=constructor,
        contract=_frames_alone(num_frames, frame_stride=1, size=size, test_clips=10),
        paper=_SIFA_PAPER,
        notes=notes,
        figures=MOTION_FIGURES.get(name),
        layouts=sifa_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 4,
            "stem_frames": 1,
            "depths": (1, 1, 1, 1),
            "base_width": 4,
            "region": 1,
            # Zeros would keep gradients from all that lies before them.
            "zero_init_residual": False,
            "scale": "mean",
        },
        shrunk_size=32,
    )


def _sifa_swin(
    name: str,
    constructor: Callable[..., nn.Module],
    *,
    notes: str,
    num_frames: int = 64,
    size: int = 224,
    weights_that_fit: tuple[str, ...] = (),
) -> CatalogueEntry:
    return CatalogueEntry(
        name=name,
        family="sifa",
        constructor=constructor,
        contract=_frames_alone(num_frames, frame_stride=2, size=size, test_clips=4),
        paper=_SIFA_PAPER,
        notes=notes,
        figures=MOTION_FIGURES.get(name),
        layouts=swin_source_keys.LAYOUTS,
        weights_that_fit=weights_that_fit,
        shrunk={
            "num_frames": 8,
            "embed_dim": 16,
            "depths": (2, 1),
            "num_heads": (1, 2),
            "window_size": 4,
            "stem_frames": 2,
        },
        shrunk_size=32,
    )


MOTION_MODELS: Final = (
    CatalogueEntry(
        name="dvt_tiny",
        family="dvt",
        constructor=dvt_tiny,
        contract=InputContract(
            planes=("frames", "motion"),
            num_frames=8,
            frame_stride=2,
            size=32,
            mean=_KINETICS_MEAN,
            std=_KINETICS_STD,
            query_stride=2,
            subclip_frames=4,
        ),
        paper=_DVT_PAPER,
        notes="D-ST-A in two blocks of width 48 and 96, for tests and the demo; not in the paper",
        layouts=dvt_source_keys.LAYOUTS,
        shrunk_size=32,
    ),
    _dvt(
        "dvt_mvit_b",
        dvt_mvit_b,
        notes="D-ST+MS-A (M) on MViT-B; attention= and fusion= make the other rows of Table 2",
        weights_that_fit=(*_OF_MVIT, "what both lack stays random"),
        shrunk={"depth": 3, "stage_starts": (1,), "coarse_stride": 4},
    ),
    _dvt(
        "dvt_vit_b",
        dvt_vit_b,
        notes="D-ST+MS-A (M) on ViT-B with tubelets of two frames; size=336 and 448 are the "
        "paper's larger ones",
        weights_that_fit=(_OF_VIT_B,),
        shrunk={
            "depth": 2,
            "num_heads": 2,
            "patch_kernel": (2, 4, 4),
            "patch_stride": (2, 4, 4),
        },
    ),
    _mvit("mvit_b", mvit_b, notes="pooling attention (MHPA), which DVT replaces; torchvision's"),
    _mvit(
        "mvit_tiny",
        mvit_tiny,
        num_frames=8,
        frame_stride=2,
        size=32,
        notes="three blocks from width 32, for tests; not in the paper",
        weights_that_fit=(),
    ),
    _sifa_net(
        "sifa_net_r50",
        sifa_net_r50,
        notes="SIFA in every block of res3 to res5 of ResNet-50; style='released' is the authors' "
        "code; frames in a row",
        weights_that_fit=("ResNet-50 of torchvision (ImageNet-1K)",),
    ),
    _sifa_net(
        "sifa_net_r101",
        sifa_net_r101,
        notes="as sifa_net_r50, on ResNet-101",
        weights_that_fit=("ResNet-101 of torchvision (ImageNet-1K)",),
    ),
    _sifa_net(
        "sifa_net_tiny",
        sifa_net_tiny,
        num_frames=8,
        size=32,
        notes="one or two blocks a stage from width 16, for tests; not in the paper",
    ),
    _sifa_swin(
        "sifa_swin_t",
        sifa_swin_t,
        notes="SIFA after the window attention of Swin-T's undisplaced blocks; the paper has B "
        "alone",
        weights_that_fit=("Swin-T of Microsoft, timm or torchvision (ImageNet-1K)",),
    ),
    _sifa_swin(
        "sifa_swin_s",
        sifa_swin_s,
        notes="as sifa_swin_t, on Swin-S; the paper has B alone",
        weights_that_fit=("Swin-S of Microsoft, timm or torchvision (ImageNet-1K)",),
    ),
    _sifa_swin(
        "sifa_swin_b",
        sifa_swin_b,
        notes="as sifa_swin_t, on Swin-B; style='released' is the authors' code",
        weights_that_fit=("Swin-B of Microsoft, timm or torchvision (ImageNet-1K or 21K)",),
    ),
    _sifa_swin(
        "sifa_swin_tiny",
        sifa_swin_tiny,
        num_frames=8,
        size=32,
        notes="a small one for tests; not in the paper",
    ),
)
