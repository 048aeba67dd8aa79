"""Small networks of every family, each option of theirs, and each way to train one."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Case(NamedTuple):
    """A network and how it is trained."""

    model: str
    options: Mapping[str, Any] = {}
    """Of the model, beside those that make it small."""
    sections: Mapping[str, Mapping[str, Any]] = {}
    """Of the recipe, where it differs."""


class Small(NamedTuple):
    """What makes the models of a family small."""

    num_frames: int
    size: int
    options: Mapping[str, Any]


_NO_RATES: Final = {"head_dropout": 0.0, "drop_path_rate": 0.0}
_WINDOWED: Final = {
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "window_size": 2,
    **_NO_RATES,
}
_DVT: Final = Small(
    4, 16, {"embed_dim": 16, "num_heads": 2, "subclip_tokens": 2, "initial_std": 0.1, **_NO_RATES}
)
_SIFA_NET: Final = Small(
    4,
    16,
    {
        "depths": (1, 1, 2, 1),
        "sifa_stages": (4,),
        "base_width": 4,
        "stem_frames": 1,
        "head_dropout": 0.0,
    },
)
SMALL: Final[Mapping[str, Small]] = {
    "dvt_tiny": _DVT,
    "dvt_vit_b": _DVT._replace(
        options={
            **_DVT.options,
            "depth": 2,
            "patch_kernel": (2, 4, 4),
            "patch_stride": (2, 4, 4),
        }
    ),
    "mvit_tiny": Small(4, 16, {"embed_dim": 16, "num_heads": 1, **_NO_RATES}),
    "sifa_net_tiny": _SIFA_NET,
    "sifa_swin_tiny": Small(4, 16, {**_WINDOWED, "stem_frames": 1}),
    "video_focalnet_tiny": Small(
        4,
        16,
        {
            "embed_dim": 16,
            "depths": (1, 1),
            "focal_levels": (2, 2),
            "focal_windows": (3, 3),
            "drop_path_rate": 0.0,
        },
    ),
    "pst_tiny": Small(4, 16, _WINDOWED),
    "deit_tiny_tps": Small(
        4, 16, {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, **_NO_RATES}
    ),
}
"""By the model of the family that cases are made of."""


def _each(model: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Case]:
    """Name cases of one model by what differs."""
    return {f"{model}-{name}": Case(model, given) for name, given in options.items()}


_DVT_CASES: Final = _each(
    "dvt_tiny",
    {
        "space_time": {},
        "multi_scale": {"attention": "multi_scale"},
        "both": {"attention": "both"},
        "both-linear": {"attention": "both", "fusion": "linear"},
        "both-mixer": {"attention": "both", "fusion": "mixer"},
        "commuted": {"attention": "multi_scale", "scale_form": "commuted"},
        "motion": {"cue": "motion"},
        "residual": {"cue": "residual"},
        "difference": {"cue": "difference"},
        "average": {"cue": "average"},
        "none": {"cue": "none"},
        "frames": {"motion_targets": "frames"},
        "value_output": {"projections": "value_output"},
        "asinh": {"motion_scaling": "asinh"},
        "tanh": {"motion_scaling": "tanh"},
        "checkpointing": {"checkpointing": True},
        "rates": {"head_dropout": 0.3, "drop_path_rate": 0.2},
    },
)
_DVT_VIT_CASES: Final = _each("dvt_vit_b", {"both": {}, "frames": {"motion_targets": "frames"}})
_MVIT_CASES: Final = _each(
    "mvit_tiny",
    {
        "pooling": {},
        "checkpointing": {"checkpointing": True},
        "rates": {"head_dropout": 0.3, "drop_path_rate": 0.2},
    },
)
_MOTION_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "paper": {},
    "released": {"style": "released"},
    "none": {"variant": "none"},
    "correlation": {"variant": "correlation"},
    "regular": {"variant": "regular"},
    "bidirectional": {"variant": "bidirectional"},
    "frame": {"offset_source": "frame"},
    "clip": {"offset_source": "clip"},
    "difference": {"offset_source": "difference"},
    "random": {"offset_start": "random"},
    "zero-ends": {"last": "zero"},
    "self-ends": {"style": "released", "last": "self", "offset_start": "zero"},
    "saliency_residual": {"saliency_residual": True},
    "no-saliency_residual": {"style": "released", "saliency_residual": False},
    "tap_weights": {"tap_weights": True},
    "unscaled": {"scale": "none"},
    "checkpointing": {"checkpointing": True},
}
"""That both kinds of SIFA have."""
_SIFA_NET_CASES: Final = _each(
    "sifa_net_tiny",
    {
        **_MOTION_OPTIONS,
        "none": {"variant": "none", "sifa_stages": (3, 4, 5)},  # the default: nothing attends
        "every": {"style": "released", "placement": "every"},
        "odd": {"placement": "odd", "depths": (2, 2, 2, 2)},
        "global_context": {"global_context": True},
        "no-global_context": {"style": "released", "global_context": False},
        "dual_branch": {"dual_branch": True},
        "no-dual_branch": {"style": "released", "dual_branch": False},
        "deep_stem": {"deep_stem": True},
        "random-residual": {"zero_init_residual": False},
        "two-stem-frames": {"stem_frames": 2},
        "regions": {"region": (1, 3, 3, 5), "dilation": 2},
        "all-stages": {"sifa_stages": (2, 3, 4, 5)},
        "dropout": {"head_dropout": 0.3},
    },
)
_SIFA_SWIN_CASES: Final = _each(
    "sifa_swin_tiny",
    {
        **_MOTION_OPTIONS,
        "deformable": {"variant": "deformable"},
        "even": {"style": "released", "placement": "even"},
        "undisplaced": {"placement": "undisplaced"},
        "tokens": {"motion_input": "tokens"},
        "attention": {"style": "released", "motion_input": "attention"},
        "motion_norm": {"motion_norm": True},
        "no-motion_norm": {"style": "released", "motion_norm": False},
        "temporal_convolution": {"temporal_convolution": True},
        "no-temporal_convolution": {"style": "released", "temporal_convolution": False},
        "patch_norm": {"patch_norm": True},
        "no-patch_norm": {"style": "released", "patch_norm": False},
        "rates": {"head_dropout": 0.3, "drop_path_rate": 0.2},
    },
)
_FOCALNET_CASES: Final = _each(
    "video_focalnet_tiny",
    {
        "parallel": {},
        "spatial": {"design": "spatial"},
        "factorized_convolution": {"design": "factorized_convolution"},
        "factorized_encoder": {"design": "factorized_encoder", "temporal_depth": 2},
        "divided": {"design": "divided"},
        "average": {"fusion": "average"},
        "projection": {"fusion": "projection"},
        "pointwise": {"temporal_convolution": "pointwise"},
        "depthwise": {"temporal_convolution": "depthwise"},
        "identity": {"temporal_start": "identity"},
        "tubelets": {"tubelet_size": 2},
        "overlapping": {"patches": "overlapping"},
        "norms-after": {"norm_position": "after"},
        "no-patch_norm": {"patch_norm": False},
        "normalize_modulator": {"normalize_modulator": True},
        "modulated_norm": {"modulated_norm": True},
        "layer_scale": {"layer_scale": 0.1},
        "checkpointing": {"checkpointing": True},
        "rates-of-frames": {"dropout": 0.1, "drop_path_rate": 0.2},
        "rates-of-clips": {"drop_path_rows": "clip", "drop_path_rate": 0.2},
    },
)
_PST_CASES: Final = _each(
    "pst_tiny",
    {
        "shifts": {},
        "plain": {"block_kinds": ("plain", "plain"), "rpe": "paper", "table_frames": 1},
        "joint": {
            "block_kinds": ("plain", "plain"),
            "rpe": "paper",
            "table_frames": 2,
            "temporal_window": 2,
        },
        "sparse": {
            "block_kinds": ("plain", "sparse"),
            "rpe": "paper",
            "temporal_window": 2,
        },
        "channels": {"block_kinds": ("tcs", "tcs")},
        "patches": {"block_kinds": ("tps", "tps")},
        "dagger": {"temporal_window": 2, "rpe": "paper"},
        "pattern-none": {"pattern": "none"},
        "pattern-center-one": {"pattern": "center-one"},
        "pattern-uneven": {"pattern": "uneven"},
        "pattern-even-2": {"pattern": "even-2"},
        "pattern-A": {"pattern": "A"},
        "pattern-B": {"pattern": "B"},
        "pattern-D": {"pattern": "D"},
        "offsets-of-the-paper": {"offset_sign": "paper"},
        "zero-channels": {"channel_boundary": "zero"},
        "cyclic-channels": {"channel_boundary": "cyclic"},
        "not-shifted-back": {"shift_back": False},
        "no-shift_positions": {"shift_positions": False},
        "no-qkv_bias": {"qkv_bias": False},
        "no-patch_norm": {"patch_norm": False},
        "last-stage": {"shift_stages": (1,)},
        "checkpointing": {"checkpointing": True},
        "rates": {"head_dropout": 0.3, "drop_path_rate": 0.2},
    },
)
_DEIT_CASES: Final = _each(
    "deit_tiny_tps",
    {
        "tps": {},
        "2d": {"temporal_shift": "none", "positions": "shared"},
        "tsm": {"temporal_shift": "channel"},
        "tsm-zero": {"temporal_shift": "channel", "channel_boundary": "zero"},
        "tsm-cyclic": {"temporal_shift": "channel", "channel_boundary": "cyclic"},
        "pattern-none": {"pattern": "none"},
        "pattern-center-one": {"pattern": "center-one"},
        "pattern-uneven": {"pattern": "uneven"},
        "pattern-even-2": {"pattern": "even-2"},
        "pattern-A": {"pattern": "A"},
        "pattern-B": {"pattern": "B"},
        "pattern-D": {"pattern": "D"},
        "offsets-of-the-paper": {"offset_sign": "paper"},
        "checkpointing": {"checkpointing": True},
        "rates": {"head_dropout": 0.3, "drop_path_rate": 0.2},
    },
)


def _trained(model: str, train: Mapping[str, Any], **sections: Mapping[str, Any]) -> Case:
    return Case(model, sections={"train": train, **sections})


_SGD: Final = {"name": "sgd", "momentum": 0.9}

TRAININGS: Final[Mapping[str, Case]] = {
    "sgd": _trained("pst_tiny", {"learning_rate": 0.2}, optimiser=_SGD),
    "nesterov": _trained(
        "video_focalnet_tiny", {"learning_rate": 0.1}, optimiser={**_SGD, "nesterov": True}
    ),
    "decayed-vectors": _trained("pst_tiny", {}, optimiser={"decay_vectors": True}),
    "layer_decay": _trained("dvt_tiny", {}, optimiser={"layer_decay": 0.7}),
    "groups": _trained(
        "pst_tiny",
        {},
        optimiser={
            "groups": [
                {"match": "head.*", "rate": 2.0},
                {"match": "patch_embedding.*", "rate": 0.0},
                {"match": "*", "rate": 0.5, "weight_decay": 0.0},
            ]
        },
    ),
    "milestones": _trained(
        "pst_tiny",
        {"epochs": 60, "steps": 0},
        schedule={"kind": "steps", "milestones": [20, 40], "factor": 0.5},
    ),
    "cosine-from-start": _trained(
        "pst_tiny", {}, schedule={"cosine_from": "start", "warmup_start": 0.1, "final_rate": 0.0}
    ),
    "mixup": _trained("dvt_tiny", {}, mix={"mixup": 0.8}),
    "cutmix": _trained("dvt_tiny", {}, mix={"cutmix": 1.0}),
    "mixup-and-cutmix": _trained("dvt_tiny", {}, mix={"mixup": 0.8, "cutmix": 1.0}),
    "label_smoothing": _trained("video_focalnet_tiny", {}, mix={"label_smoothing": 0.1}),
    "ema": _trained("pst_tiny", {"ema": 0.9}),
    "bfloat16": _trained("video_focalnet_tiny", {"precision": "bfloat16"}),
    "bfloat16-of-dvt": _trained("dvt_tiny", {"precision": "bfloat16"}),
    "accumulate": _trained("pst_tiny", {"accumulate": 2}),
    "clip_norm": _trained("pst_tiny", {"clip_norm": 0.1}),
    "no-clip_norm": _trained("pst_tiny", {"clip_norm": 0.0}),
}
"""By the setting."""

NETWORKS: Final[Mapping[str, Case]] = {
    **_DVT_CASES,
    **_DVT_VIT_CASES,
    **_MVIT_CASES,
    **_SIFA_NET_CASES,
    **_SIFA_SWIN_CASES,
    **_FOCALNET_CASES,
    **_PST_CASES,
    **_DEIT_CASES,
}
"""By model and what differs."""
