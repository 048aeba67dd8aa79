"""How the networks of golden files are built: one family after the other.

`tests.models.golden` reads the files. A configuration has the options of the authors' constructor,
or of ours; what a function here understands, it takes out.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from gopstream.models.pst.model import PatchShiftTransformer
from gopstream.models.pst.source_keys import LAYOUTS as PST_LAYOUTS
from gopstream.models.sifa.aggregation import attend_neighbours
from gopstream.models.sifa.resnet import SifaNet
from gopstream.models.sifa.source_keys import LAYOUTS as SIFA_LAYOUTS
from gopstream.models.sifa.swin import SifaTransformer
from gopstream.models.sifa.swin_source_keys import LAYOUTS as SIFA_SWIN_LAYOUTS
from gopstream.models.video_focalnet.model import VideoFocalNet
from gopstream.models.video_focalnet.source_keys import LAYOUTS as VIDEO_FOCALNET_LAYOUTS
from gopstream.models.weights.source_layout import SourceLayout

# What a configuration says beside the network: it changes nothing in evaluation mode.
REMARKS: Final = {
    *("family", "arch", "note", "input", "input_shape", "input_layout", "img_size"),
    *("max_abs_output", "probe", "tolerance", "torch", "seed", "dtype", "eval_mode"),
    *("official_commit", "pattern_meaning", "tcs", "rpe_rule", "constructor"),
    *("drop_rate", "attn_drop_rate", "drop_path_rate", "head_dropout", "layerscale_value"),
    *("use_checkpoint", "pretrained", "pretrained2d", "frozen_stages"),
}


def run_features_and_logits(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a network with one head, by their names in files."""
    features = model.forward_features(frames)
    logits = model.classify(features)
    return {"y": logits, "y_logits": logits, "y_feat": features}


def run_both_heads(model: Any, frames: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a SIFA-Net with a dual branch, by their names in files."""
    logits, dual_logits = model.forward_heads(frames)
    return {"y": logits, "y_dual": dual_logits, "prob": model(frames).exp()}


class Family(NamedTuple):
    """How the cases of one family are read."""

    build: Callable[[dict[str, Any], int], nn.Module]
    """(configuration, frames of a clip) -> model; takes out the settings that it understands."""
    layouts: tuple[SourceLayout, ...]
    parts: tuple[tuple[str, str, str], ...]
    """(regex of the authors' module, ours, einops of our output into the layout of theirs)."""
    run: Callable[[Any, Tensor], dict[str, Tensor]] = run_features_and_logits
    """(model, frames) -> outputs by their names in files."""


def build_video_focalnet(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the options that the authors' constructor has, or of ours."""
    for option, value in (("num_frames", num_frames), ("in_chans", 3), ("patch_size", 4)):
        require(config, option, value)
    options = own_options(config, VideoFocalNet)
    for theirs, ours, values in (
        ("use_postln_in_modulation", "modulated_norm", (False, True)),
        ("use_postln", "norm_position", ("before", "after")),
        ("use_conv_embed", "patches", ("separate", "overlapping")),
        ("use_layerscale", "layer_scale", (None, 1e-4)),
    ):
        if theirs in config:
            options[ours] = values[bool(config.pop(theirs))]
    return VideoFocalNet(pop(config, "num_classes"), num_frames=num_frames, **options)


def build_pst(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the authors' constructor, kinds of blocks and pattern, or of ours."""
    for option, value in (("num_frames", num_frames), ("in_chans", 3), ("qk_scale", None)):
        require(config, option, value)
    temporal_window, window_size, width = pop(config, "window_size")
    if window_size != width:
        raise ValueError(f"windows must be square, got {window_size} x {width} in window_size")
    table_frames = pop(config, "temporal_table_length")
    if config.get("pattern", "") is None:
        # No pattern: there are no blocks to have one, or they move nothing.
        del config["pattern"]
        config |= {"pattern": "none"} if "tps" in config.get("block_kinds", ()) else {}
    options = own_options(config, PatchShiftTransformer)
    # The authors' rule for windows of one frame counts the key's frame as 0. Windows of several
    # frames, and tables that reach no further than the window, are those of Video Swin.
    same_frame = table_frames == temporal_window or temporal_window > 1
    return PatchShiftTransformer(
        pop(config, "num_classes"),
        num_frames=num_frames,
        **{
            "temporal_window": temporal_window,
            "window_size": window_size,
            "table_frames": table_frames,
            "rpe": "paper" if same_frame else "official",
            **options,
        },
    )


def build_sifa_resnet(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the authors' code, whose constants for each tap the file may change."""
    require(config, "clip_length", num_frames)
    if isinstance(config.get("dual_branch"), str):
        del config["dual_branch"]  # a sentence about what the code always has
    for theirs, ours in (
        ("blocks_per_stage", "depths"),
        ("stem_temporal_stride", "stem_frames"),
        ("region_size_per_stage", "region"),
        ("region_dilation_per_stage", "dilation"),
    ):
        if theirs in config:
            config[ours] = config.pop(theirs)
    options = {"style": "released", "tap_weights": True, **own_options(config, SifaNet)}
    return SifaNet(pop(config, "num_classes"), num_frames=num_frames, **options)


def build_sifa_swin(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the authors' code, whose constants for each tap the file may change."""
    for option, value in (
        ("clip_length", num_frames),
        ("patch_size", 4),
        # The intended shift; as it is written, the code copies a tensor over itself.
        ("temporal_shift", "clean"),
    ):
        require(config, option, value)
    for theirs, ours in (
        ("img_size", "size"),
        ("tubelet_frames", "stem_frames"),
        ("region_size", "region"),
    ):
        if theirs in config:
            config[ours] = config.pop(theirs)
    options = {"style": "released", "tap_weights": True, **own_options(config, SifaTransformer)}
    return SifaTransformer(pop(config, "num_classes"), num_frames=num_frames, **options)


def run_sifa_operator(arrays: dict[str, Any], config: dict[str, Any]) -> dict[str, Tensor]:
    """Take the inputs of the bare operator out of a file's arrays, and return its outputs.

    Ours gives sums alone. A product is the sum that a channel of ones has, which takes part in no
    product, where the weights of all other taps are 0; for that channel to be 1 outside the
    picture too, the picture gets a margin of zeros.
    """
    region, dilation = pop(config, "region"), config.pop("dilation", 1)
    require(config, "pad", (dilation * (region - 1) + 1) // 2)
    keys = rearrange(torch.from_numpy(arrays.pop("x")), "n c t h w -> n t h w c")
    query = torch.cat([keys[:, :1], keys[:, :-1]], dim=1)
    offsets = rearrange(
        torch.from_numpy(arrays.pop("offset")), "n (k two) t h w -> n t h w k two", two=2
    )
    weights = rearrange(torch.from_numpy(arrays.pop("weight")), "c t i j -> t (i j) c")

    def attend(query: Tensor, keys: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        return attend_neighbours(
            query,
            keys,
            offsets_BPHWK2=offsets,
            region=region,
            dilation=dilation,
            tap_weights=weights,
        )

    margin = math.ceil(offsets.abs().max().item()) + region * dilation
    around = (margin,) * 4
    wide_query = pad(query, (0, 1, *around))
    wide_keys = torch.cat([pad(keys, (0, 0, *around)), torch.ones_like(wide_query[..., :1])], -1)
    wide_offsets = pad(offsets, (0, 0, 0, 0, *around))
    products = []
    for tap in range(region**2):
        alone = torch.zeros_like(weights)
        alone[:, tap] = weights[:, tap]
        sums = attend(wide_query, wide_keys, wide_offsets, pad(alone, (0, 1)))
        products.append(sums[:, :, margin:-margin, margin:-margin, -1])
    return {
        "agg": rearrange(attend(query, keys, offsets, weights), "n t h w c -> n c t h w"),
        "cor": torch.stack(products, dim=1),
    }


def own_options(config: dict[str, Any], model: type[nn.Module]) -> dict[str, Any]:
    """Take the settings that our constructor has under the same name; lists become tuples."""
    names = inspect.signature(model).parameters.keys() - {"num_classes", "num_frames"}
    taken = {name: config.pop(name) for name in sorted(names & config.keys() - REMARKS)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()
    }


def pop(config: dict[str, Any], option: str) -> Any:
    """Take an option that must be there."""
    if option not in config:
        raise ValueError(f"its config lacks {option!r}")
    return config.pop(option)


def require(config: dict[str, Any], option: str, value: object) -> None:
    """Take an option that has one value only."""
    given = config.pop(option, value)
    if given != value:
        raise ValueError(f"{option} must be {value!r}, got {given!r}")


_STAGES: Final = r"layers\.(\d+)"
FAMILIES: Final[Mapping[str, Family]] = {
    "video-focalnet": Family(
        build_video_focalnet,
        VIDEO_FOCALNET_LAYOUTS,
        (
            (r"patch_embed", "patch_embedding", "b t h w c -> (b t) (h w) c"),
            (_STAGES, r"stages.\1", "b t h w c -> (b t) (h w) c"),
            (rf"{_STAGES}\.blocks\.(\d+)", r"stages.\1.blocks.\2", "b t h w c -> (b t) (h w) c"),
            (rf"{_STAGES}\.downsample", r"stages.\1.downsampling", "b t h w c -> (b t) (h w) c"),
            (r"norm", "norm", "b t h w c -> (b t) (h w) c"),
        ),
    ),
    "pst": Family(
        build_pst,
        PST_LAYOUTS,
        (
            (r"patch_embed", "patch_embedding", "b t h w c -> b c t h w"),
            (_STAGES, r"stages.\1", "b t h w c -> b c t h w"),
            (rf"{_STAGES}\.downsample", r"stages.\1.merging", "b t h w c -> b t h w c"),
            (rf"{_STAGES}\.blocks\.(\d+)", r"stages.\1.blocks.\2", "b t h w c -> b t h w c"),
            (r"norm", "norm", "b t h w c -> b t h w c"),
        ),
    ),
    "sifa-resnet": Family(
        build_sifa_resnet,
        SIFA_LAYOUTS,
        (
            (r"maxpool", "stem", "b t h w c -> b c t h w"),
            (r"layer1", "stages.0", "b t h w c -> b c t h w"),
            (r"layer2", "stages.1", "b t h w c -> b c t h w"),
            (r"layer3", "stages.2", "b t h w c -> b c t h w"),
            (r"layer4", "stages.3", "b t h w c -> b c t h w"),
            (r"layer4_dual", "dual_stage", "b t h w c -> b c t h w"),
        ),
        run_both_heads,
    ),
    "sifa-swin": Family(
        build_sifa_swin,
        SIFA_SWIN_LAYOUTS,
        (
            (r"patch_embed", "patch_embedding", "b t h w c -> (b t) (h w) c"),
            (_STAGES, r"stages.\1", "b t h w c -> (b t) (h w) c"),
        ),
    ),
}
