"""What the papers and their released configurations say, written down by hand.

Tables by (family, data set); "finetuned" stands for all data sets but Kinetics, "something" for
both versions of Something-Something, "kinetics" for both of Kinetics, "any" for all.
"""

from typing import Final, NamedTuple

FAMILIES: Final = {
    "video_focalnet": ("video_focalnet_t", "video_focalnet_s", "video_focalnet_b"),
    "pst_t": ("pst_t", "pst_t_dagger", "swin2d_t", "video_swin_t"),
    "pst_b": ("pst_b", "pst_b_dagger"),
    "deit": ("deit_s_2d", "deit_s_tsm", "deit_s_tps"),
    "sifa_net": ("sifa_net_r50", "sifa_net_r101"),
    "sifa_swin": ("sifa_swin_b",),
    "dvt_mvit": ("dvt_mvit_b", "mvit_b"),
    "dvt_vit": ("dvt_vit_b",),
}
"""Models that are trained alike."""

DATASETS: Final = {
    "k400": "kinetics400",
    "k600": "kinetics600",
    "ssv1": "ssv1",
    "ssv2": "ssv2",
    "diving48": "diving48",
    "activitynet": "activitynet",
    "ek100": "epic_kitchens100",
}
"""Word in a recipe's name: name of the data set for ``gopstream shard``."""

_WIDER: Final = {
    "k400": ("kinetics", "any"),
    "k600": ("kinetics", "any"),
    "ssv1": ("something", "finetuned", "any"),
    "ssv2": ("something", "finetuned", "any"),
}


def lookup(table, family, data):
    """Return a table's row of a family and data set, or of the narrowest word that covers it."""
    for word in (data, *_WIDER.get(data, ("finetuned", "any"))):
        if (family, word) in table:
            return table[family, word]
    raise KeyError((family, data))


class Run(NamedTuple):
    """One run of a paper."""

    model: str
    data: str
    top1: float | None
    top5: float | None
    frames: int
    size: int = 224
    options: dict[str, str] = {}
    action: float | None = None


def _runs_of(model, rows, frames):
    return {f"{model}_{data}": Run(model, data, top1, top5, frames) for data, top1, top5 in rows}


_SIFA_NET: Final = """
k400      r50  77.4 93.3  78.5 93.6  80.1 94.4
k400      r101 78.7 94.0  79.8 94.2  81.3 95.2
k600      r50  79.6 94.5  80.5 95.2  82.1 95.8
k600      r101 80.8 95.2  81.6 95.5  83.2 95.9
ssv1      r50  52.7 81.9  54.0 82.2  55.2 83.3
ssv1      r101 53.7 82.0  55.4 83.1  56.1 84.0
ssv2      r50  64.8 89.4  66.0 89.6  66.9 90.7
ssv2      r101 65.9 89.8  67.3 91.1  68.1 92.0
"""
"""Long et al., tables 2 to 4: top-1 and top-5 of clips of 16, 32 and 64 frames."""


def _sifa_net():
    runs = {}
    for line in _SIFA_NET.split("\n")[1:-1]:
        data, depth, *scores = line.split()
        for number, frames in enumerate((16, 32, 64)):
            name = f"sifa_net_{depth}_{data}" + (f"_{frames}f" if frames > 16 else "")
            top1, top5 = map(float, scores[2 * number : 2 * number + 2])
            runs[name] = Run(f"sifa_net_{depth}", data, top1, top5, frames)
    return runs


def _dvt():
    vit, mvit = "dvt_vit_b", "dvt_mvit_b"
    return {
        # Wang and Torresani, tables 4 and 5.
        "dvt_mvit_b_k400": Run(mvit, "k400", 79.0, 93.8, 16),
        "dvt_mvit_b_k400_32f": Run(mvit, "k400", 84.7, 96.2, 32),
        "dvt_vit_b_k400": Run(vit, "k400", 80.5, 94.7, 16),
        "dvt_vit_b_k400_336": Run(vit, "k400", 82.0, 95.3, 16, 336),
        "dvt_vit_b_k400_448": Run(vit, "k400", 84.5, 96.7, 16, 448),
        "dvt_mvit_b_ssv2": Run(mvit, "ssv2", 67.5, 90.8, 16),
        "dvt_mvit_b_ssv2_32f": Run(mvit, "ssv2", 68.5, 91.0, 32),
        "dvt_vit_b_ssv2": Run(vit, "ssv2", 67.0, 90.5, 16),
        "dvt_vit_b_ssv2_336": Run(vit, "ssv2", 67.9, 90.8, 16, 336),
        "dvt_vit_b_ssv2_8f": Run(vit, "ssv2", 64.8, 89.5, 8),
        "mvit_b_k400": Run("mvit_b", "k400", 78.4, 93.5, 16),
        "mvit_b_ssv2": Run("mvit_b", "ssv2", 64.7, 89.2, 16),
        # Table 2.
        **{
            f"dvt_mvit_b_{data}_{part}": Run(mvit, data, top1, None, 16, options=options)
            for part, options, k400, ssv2 in (
                ("space_time", {"attention": "space_time"}, 77.9, 65.6),
                ("multi_scale", {"attention": "multi_scale"}, 76.8, 65.1),
                ("linear", {"fusion": "linear"}, 78.1, 66.8),
            )
            for data, top1 in (("k400", k400), ("ssv2", ssv2))
        },
        # Table 6.
        "dvt_mvit_b_ek100": Run(mvit, "ek100", None, None, 16, action=44.2),
        "dvt_mvit_b_ek100_32f": Run(mvit, "ek100", None, None, 32, action=45.8),
        "dvt_vit_b_ek100": Run(vit, "ek100", None, None, 16, action=43.8),
        "dvt_vit_b_ek100_336": Run(vit, "ek100", None, None, 16, 336, action=45.0),
        # Table 7.
        "dvt_mvit_b_diving48": Run(mvit, "diving48", 86.0, None, 16),
        "dvt_mvit_b_diving48_32f": Run(mvit, "diving48", 86.9, None, 32),
        "dvt_vit_b_diving48": Run(vit, "diving48", 83.5, None, 16),
        "dvt_vit_b_diving48_448": Run(vit, "diving48", 86.6, None, 16, 448),
    }


RUNS: Final = {
    # Wasim et al., tables 2 to 6.
    **_runs_of("video_focalnet_t", [("k400", 79.8, None)], 8),
    **_runs_of("video_focalnet_s", [("k400", 81.4, None)], 8),
    **_runs_of(
        "video_focalnet_b",
        [("k400", 83.6, None), ("k600", 86.7, None), ("ssv2", 71.1, None)]
        + [("diving48", 90.8, None), ("activitynet", 89.8, None)],
        8,
    ),
    # Xiang et al., tables 3 to 7.
    **_runs_of(
        "pst_t",
        [
            ("k400", 78.2, 92.2),
            ("ssv1", 53.6, 82.2),
            ("ssv2", 67.3, 90.5),
            ("diving48", 81.2, 98.7),
        ],
        32,
    ),
    **_runs_of(
        "pst_t_dagger",
        [
            ("k400", 78.6, 93.5),
            ("ssv1", 54.0, 82.3),
            ("ssv2", 67.9, 90.8),
            ("diving48", 82.1, 98.6),
        ],
        32,
    ),
    **_runs_of(
        "pst_b",
        [
            ("k400", 81.8, 95.4),
            ("ssv1", 57.7, 83.4),
            ("ssv2", 69.2, 91.9),
            ("diving48", 85.0, 98.6),
        ],
        32,
    ),
    **_runs_of(
        "pst_b_dagger",
        [
            ("k400", 82.5, 95.6),
            ("ssv1", 58.3, 83.9),
            ("ssv2", 69.8, 93.0),
            ("diving48", 86.0, 98.6),
        ],
        32,
    ),
    **_runs_of("swin2d_t", [("ssv1", 40.6, 71.4), ("ssv2", 56.7, 84.1)], 32),
    **_runs_of("video_swin_t", [("ssv1", 51.5, 80.0), ("ssv2", 65.7, 90.1)], 32),
    **_runs_of("deit_s_2d", [("k400", 73.0, 90.7)], 16),
    **_runs_of("deit_s_tsm", [("k400", 74.8, 91.6)], 16),
    **_runs_of("deit_s_tps", [("k400", 75.3, 91.8)], 16),
    **_sifa_net(),
    **_runs_of(
        "sifa_swin_b",
        [("k400", 83.1, 95.7), ("k600", 84.5, 96.9), ("ssv1", 57.3, 85.1), ("ssv2", 69.8, 93.1)],
        64,
    ),
    **_dvt(),
}
"""Recipe: what the paper's table says of it."""

# Sampling, stride, what a clip takes beyond its video, where test clips begin.
CLIPS: Final = {
    ("video_focalnet", "any"): ("segment_mmaction", 4, "loop", "centred"),
    ("pst_t", "kinetics"): ("dense_mmaction", 2, "loop", "centred"),
    ("pst_t", "finetuned"): ("segment_slowfast", 1, "last", "centred"),
    ("pst_b", "kinetics"): ("dense_mmaction", 2, "loop", "centred"),
    ("pst_b", "finetuned"): ("segment_slowfast", 1, "last", "centred"),
    ("deit", "kinetics"): ("dense_mmaction", 2, "loop", "centred"),
    ("sifa_net", "kinetics"): ("dense_mmaction", 1, "last", "starts"),
    ("sifa_net", "something"): ("dense_mmaction", 1, "last", "centred"),
    ("sifa_swin", "kinetics"): ("dense_mmaction", 2, "last", "starts"),
    ("sifa_swin", "something"): ("dense_mmaction", 1, "last", "centred"),
    ("dvt_mvit", "kinetics"): ("dense_slowfast", 4, "last", "offset"),
    ("dvt_mvit", "finetuned"): ("segment_slowfast", 1, "last", "centred"),
    ("dvt_vit", "kinetics"): ("dense_slowfast", 4, "last", "offset"),
    ("dvt_vit", "finetuned"): ("segment_slowfast", 1, "last", "centred"),
}

_AREA: Final = {"crop": "area", "crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3)}
_FOCALNET_COLOURS: Final = {
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "jitter_per_frame": True,
    "greyscale": 0.2,
}
_PST_STRONG: Final = {
    "policy": "imgaug",
    "policy_on": "crop",
    "erase": 0.25,
    "erase_per_frame": False,
    "erase_fill": "mean",
    "erase_mean": (0.485, 0.456, 0.406),
}
_MVIT_STRONG: Final = {
    "policy": "rand-m7-n4-mstd0.5-inc1",
    "policy_on": "frame",
    "erase": 0.25,
    "erase_per_frame": False,
    "erase_fill": "noise",
}
_SIFA_CROP: Final = {"crop": "short_side", "short_side": (256.0, 340.0)}
_V1_DIRECTIONS: Final = (2, 4, 30, 41, 52, 66)
_V2_DIRECTIONS: Final = (86, 87, 93, 94, 166, 167)
"""Pulling and pushing to the right and to the left, turning the camera to the left and right."""

# Fields of TransformSpec; "size" is of the run, as are the sides of a crop by the short side.
TRANSFORMS: Final = {
    ("video_focalnet", "any"): _AREA | _FOCALNET_COLOURS | {"flip": 0.5},
    ("video_focalnet", "ssv2"): _AREA | _FOCALNET_COLOURS | {"flip": 0.0},
    ("pst_t", "kinetics"): _AREA | {"flip": 0.5},
    ("pst_t", "ssv1"): _AREA | _PST_STRONG | {"flip": 0.5, "keep_direction": _V1_DIRECTIONS},
    ("pst_t", "ssv2"): _AREA | _PST_STRONG | {"flip": 0.5, "keep_direction": _V2_DIRECTIONS},
    ("pst_t", "diving48"): _AREA | _PST_STRONG | {"flip": 0.5},
    ("pst_b", "kinetics"): _AREA | {"flip": 0.5},
    ("pst_b", "ssv1"): _AREA | _PST_STRONG | {"flip": 0.5, "keep_direction": _V1_DIRECTIONS},
    ("pst_b", "ssv2"): _AREA | _PST_STRONG | {"flip": 0.5, "keep_direction": _V2_DIRECTIONS},
    ("pst_b", "diving48"): _AREA | _PST_STRONG | {"flip": 0.5},
    ("deit", "kinetics"): _AREA | {"flip": 0.5},
    ("sifa_net", "kinetics"): _SIFA_CROP | {"flip": 0.5},
    ("sifa_net", "something"): _SIFA_CROP | {"flip": 0.0},
    ("sifa_swin", "kinetics"): _SIFA_CROP | {"flip": 0.5},
    ("sifa_swin", "something"): _SIFA_CROP | {"flip": 0.0},
    ("dvt_mvit", "kinetics"): _AREA | _MVIT_STRONG | {"flip": 0.5},
    ("dvt_mvit", "finetuned"): _MVIT_STRONG | {"flip": 0.0, "crop": "short_side"},
    ("dvt_vit", "kinetics"): _AREA | _MVIT_STRONG | {"flip": 0.5},
    ("dvt_vit", "finetuned"): _MVIT_STRONG | {"flip": 0.0, "crop": "short_side"},
}
MVIT_SHORT_SIDES: Final = {224: (256.0, 320.0), 336: (384.0, 480.0), 448: (512.0, 640.0)}
"""Size: range of the short side, in the proportion of the 256 to 320 that 224 has."""

# Mixup, CutMix, label smoothing.
MIXES: Final = {
    ("video_focalnet", "any"): (0.8, 1.0, 0.1),
    ("pst_t", "kinetics"): (0.0, 0.0, 0.0),
    ("pst_t", "something"): (0.0, 0.0, 0.1),
    ("pst_t", "diving48"): (0.0, 0.0, 0.02),
    ("pst_b", "kinetics"): (0.0, 0.0, 0.0),
    ("pst_b", "something"): (0.0, 0.0, 0.1),
    ("pst_b", "diving48"): (0.0, 0.0, 0.02),
    ("deit", "kinetics"): (0.0, 0.0, 0.0),
    ("sifa_net", "any"): (0.0, 0.0, 0.0),
    ("sifa_swin", "any"): (0.0, 0.0, 0.0),
    ("dvt_mvit", "any"): (0.8, 1.0, 0.1),
    ("dvt_vit", "any"): (0.8, 1.0, 0.1),
}

# Epochs, clips of a step, learning rate, upper limit of the gradient's norm (0: none). MViT's 200
# epochs show two clips of each video.
LENGTHS: Final = {
    ("video_focalnet", "any"): (120, 512, 0.1, 5.0),
    ("pst_t", "any"): (30, 64, 1e-3, 0.0),
    ("pst_b", "any"): (30, 64, 3e-4, 0.0),
    ("deit", "any"): (30, 64, 1e-3, 0.0),
    ("sifa_net", "kinetics"): (128, 256, 0.04, 40.0),
    ("sifa_net", "something"): (64, 256, 0.04, 40.0),
    ("sifa_swin", "kinetics"): (128, 256, 0.01, 40.0),
    ("sifa_swin", "something"): (64, 256, 0.01, 40.0),
    ("dvt_mvit", "kinetics"): (200 * 2, 512, 1e-4 * 512 / (16 * 2), 1.0),
    ("dvt_mvit", "finetuned"): (100, 128, 2.5e-3 * 128 / 16, 0.0),
    ("dvt_vit", "kinetics"): (15, 8, 5e-3, 0.0),
    ("dvt_vit", "finetuned"): (100, 128, 2.5e-3 * 128 / 16, 0.0),
}

# Name, decay, whether vectors decay, momentum, Nesterov (of SGD).
OPTIMISERS: Final = {
    ("video_focalnet", "any"): ("sgd", 1e-4, False, 0.9, True),
    ("pst_t", "any"): ("adamw", 0.02, True, None, None),
    ("pst_b", "any"): ("adamw", 0.05, True, None, None),
    ("deit", "any"): ("adamw", 0.02, True, None, None),
    ("sifa_net", "any"): ("sgd", 1e-4, True, 0.9, False),
    ("sifa_swin", "any"): ("sgd", 1e-4, True, 0.9, False),
    ("dvt_mvit", "kinetics"): ("adamw", 0.05, False, None, None),
    ("dvt_mvit", "finetuned"): ("sgd", 1e-4, False, 0.9, True),
    ("dvt_vit", "kinetics"): ("sgd", 1e-4, True, 0.9, True),
    ("dvt_vit", "finetuned"): ("sgd", 1e-4, False, 0.9, True),
}

# Epochs of warm-up, first rate, last rate, clock of the cosine.
COSINES: Final = {
    ("video_focalnet", "any"): (20, 0.001, 0.001, "start"),
    ("pst_t", "any"): (2.5, 1e-4, 0.0, "start"),
    ("pst_b", "any"): (2.5, 3e-5, 0.0, "start"),
    ("deit", "any"): (2.5, 1e-4, 0.0, "start"),
    ("sifa_net", "kinetics"): (1, 4e-4, 1e-6, "warmup"),
    ("sifa_net", "something"): (5, 4e-4, 1e-6, "warmup"),
    ("sifa_swin", "kinetics"): (1, 1e-4, 1e-6, "warmup"),
    ("sifa_swin", "something"): (5, 1e-4, 1e-6, "warmup"),
    ("dvt_mvit", "kinetics"): (30 * 2, 1e-6 * 16, 1e-6 * 16, "warmup"),
    ("dvt_mvit", "finetuned"): (3, 1e-4 * 8, 1e-6 * 8, "warmup"),
    ("dvt_vit", "finetuned"): (3, 1e-4 * 8, 1e-6 * 8, "warmup"),
}

# Rate of the last block; None where the model has no drop path.
DROP_PATHS: Final = {
    "video_focalnet_t": 0.2,
    "video_focalnet_s": 0.3,
    "video_focalnet_b": 0.5,
    "pst_t": 0.1,
    "pst_t_dagger": 0.1,
    "swin2d_t": 0.1,
    "video_swin_t": 0.1,
    "deit_s_2d": 0.1,
    "deit_s_tsm": 0.1,
    "deit_s_tps": 0.1,
    "pst_b": 0.2,
    "pst_b_dagger": 0.2,
    "sifa_net_r50": None,
    "sifa_net_r101": None,
    "sifa_swin_b": 0.5,
}
DVT_DROP_PATHS: Final = {
    ("dvt_mvit", "kinetics", 16): 0.2,
    ("dvt_mvit", "kinetics", 32): 0.3,
    ("dvt_vit", "kinetics", 16): 0.1,
}
"""On Kinetics; 0.4 elsewhere."""

# Clips x crops; side of the crops; short side before them (0: the side).
VIEWS: Final = {
    ("video_focalnet", "kinetics"): ("4x3", 224, 0),
    ("video_focalnet", "finetuned"): ("1x3", 224, 0),
    ("pst_t", "kinetics"): ("4x3", 224, 0),
    ("pst_t", "finetuned"): ("1x3", 224, 0),
    ("pst_b", "kinetics"): ("4x3", 224, 0),
    ("pst_b", "finetuned"): ("1x3", 224, 0),
    ("deit", "kinetics"): ("4x3", 224, 0),
    ("sifa_net", "kinetics"): ("10x3", 256, 256),
    ("sifa_net", "something"): ("1x3", 256, 256),
    ("sifa_swin", "kinetics"): ("4x3", 224, 0),
    ("sifa_swin", "something"): ("1x3", 224, 0),
    ("dvt_mvit", "kinetics"): ("5x1", 224, 256),
    ("dvt_mvit", "finetuned"): ("1x3", 224, 0),
    ("dvt_vit", "kinetics"): ("5x1", 224, 256),
    ("dvt_vit", "finetuned"): ("1x3", 224, 0),
}
"""For frames of 224; larger ones in proportion."""
ONE_VIEW: Final = ("swin2d_t", "video_swin_t")
"""Of PST's table 6, whose row of PST-T is that of one view in table 3."""


def share_and_decay(key, *, family, model, decay, decays):
    """Return a parameter's share of the learning rate, and its decay.

    PST's released groups, as mmcv reads them: tables of positions have the whole rate and no
    decay, the head the whole rate, all else a tenth. MViT decays positions and class token.
    """
    if family in ("pst_t", "pst_b", "deit") and not key.startswith("head."):
        return (1.0, 0.0) if key.endswith("position_table") else (0.1, decay)
    if model == "mvit_b" and key in ("pos_encoding.class_token", "pos_encoding.class_pos"):
        return 1.0, decay
    return 1.0, decay if decays else 0.0
