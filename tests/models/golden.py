"""Compare models with outputs of the authors' code: ``python -m tests.models.golden FILE...``.

A file is an .npz: ``config``, JSON that says how the network was built; ``sd/...``, its weights
under the authors' names; ``x`` and what came out (``y``, ``y_feat``, ``y_logits``); outputs of its
parts, whole (``act/...``) or as mean, standard deviation and first values (``probe/...``). The
model is built from the configuration and loads the weights strictly through the layout of its
family, so that a new case of the same form needs no code. One line per file; the exit status is
1 if any difference is above 1e-4.
"""

import json
import math
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from gopstream.models.pst.model import PatchShiftTransformer
from gopstream.models.pst.source_keys import LAYOUTS as PST_LAYOUTS
from gopstream.models.video_focalnet.model import VideoFocalNet
from gopstream.models.video_focalnet.source_keys import LAYOUTS as VIDEO_FOCALNET_LAYOUTS
from gopstream.models.weights.loading import match_layout
from gopstream.models.weights.source_layout import SourceLayout, recognise_layout

TOLERANCE: Final = 1e-4

# What a configuration says beside the network: it changes nothing in evaluation mode.
REMARKS: Final = {
    *("family", "arch", "note", "input", "input_shape", "input_layout", "img_size"),
    *("max_abs_output", "probe", "tolerance", "torch", "seed", "dtype", "eval_mode"),
    *("official_commit", "pattern_meaning", "tcs", "rpe_rule", "constructor"),
    *("drop_rate", "attn_drop_rate", "drop_path_rate", "head_dropout", "layerscale_value"),
}


class Comparison(NamedTuple):
    """What one file showed."""

    name: str
    layout: str
    differences: dict[str, float]
    """Largest difference by what was compared: logits, features, acts, probes."""
    unused: tuple[str, ...]
    """Keys of the configuration that nothing here understands."""

    @property
    def passed(self) -> bool:
        """Whether all differences are finite and within the tolerance, and the logits are there."""
        return "logits" in self.differences and all(
            difference <= TOLERANCE for difference in self.differences.values()
        )

    def line(self) -> str:
        """Return the line that is printed."""
        found = ", ".join(f"{what} {value:.1e}" for what, value in self.differences.items())
        unused = f"; not understood in its config: {', '.join(self.unused)}" if self.unused else ""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {found} ({self.layout}){unused}"


class Family(NamedTuple):
    """How the cases of one family are read."""

    build: Callable[[dict[str, Any], int], nn.Module]
    """(configuration, frames of a clip) -> model; takes out the settings that it understands."""
    layouts: tuple[SourceLayout, ...]
    parts: tuple[tuple[str, str, str], ...]
    """(regex of the authors' module, ours, einops of our output into the layout of theirs)."""


def build_video_focalnet(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the options that the authors' constructor has."""
    require(config, "num_frames", num_frames)
    for option, value in (("in_chans", 3), ("patch_size", 4)):
        require(config, option, value)
    options: dict[str, Any] = {
        key: tuple(config.pop(key)) for key in ("depths", "focal_levels", "focal_windows")
    }
    for key in ("embed_dim", "tubelet_size", "mlp_ratio", "patch_norm",
                "normalize_modulator"):  # fmt: skip
        if key in config:
            options[key] = config.pop(key)
    options["modulated_norm"] = config.pop("use_postln_in_modulation", False)
    options["norm_position"] = "after" if config.pop("use_postln", False) else "before"
    options["patches"] = "overlapping" if config.pop("use_conv_embed", False) else "separate"
    options["layer_scale"] = 1e-4 if config.pop("use_layerscale", False) else None
    return VideoFocalNet(config.pop("num_classes"), num_frames=num_frames, **options)


def build_pst(config: dict[str, Any], num_frames: int) -> nn.Module:
    """Build the network of the authors' constructor, kinds of blocks and pattern."""
    require(config, "in_chans", 3)
    temporal_window, window_size, _ = config.pop("window_size")
    table_frames = config.pop("temporal_table_length")
    # Their rule for windows of one frame counts the key's frame as 0. Windows of several frames,
    # and tables that reach no further than the window, are those of Video Swin.
    same_frame = table_frames == temporal_window or temporal_window > 1
    options: dict[str, Any] = {
        key: config.pop(key)
        for key in ("embed_dim", "depths", "num_heads", "mlp_ratio", "qkv_bias", "patch_norm")
        if key in config
    }
    pattern = config.pop("pattern", None)
    return PatchShiftTransformer(
        config.pop("num_classes"),
        num_frames=num_frames,
        patch_size=tuple(config.pop("patch_size")),
        temporal_window=temporal_window,
        window_size=window_size,
        table_frames=table_frames,
        rpe="paper" if same_frame else "official",
        block_kinds=tuple(config.pop("block_kinds")),
        pattern="none" if pattern is None else pattern,
        **options,
    )


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
        ),
    ),
}


def compare_file(path: Path) -> Comparison:
    """Build the model of a file, load its weights, run it and compare.

    Raises:
        ValueError: If the file's configuration or weights are not those of a known family.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = json.loads(str(arrays.pop("config")))
    frames = to_frames(torch.from_numpy(arrays["x"]), layout=config.get("input_layout", "BCTHW"))
    name = config.get("family", "pst")
    if name not in FAMILIES:
        raise ValueError(f"its family is {name!r}, none of {', '.join(map(repr, FAMILIES))}")
    family = FAMILIES[name]
    settings = {**config, **config.get("constructor", {})}
    torch.manual_seed(0)  # the same model each time; all its weights are replaced below
    model = family.build(settings, frames.shape[2]).eval()
    source = take(arrays, "sd/")
    layout = recognise_layout(family.layouts, source)
    match = match_layout(layout, wanted=model.state_dict(), source=source)
    if match.report.left_random:
        raise ValueError(f"{path} leaves weights random: {sorted(match.report.left_random)}")
    model.load_state_dict(match.tensors)
    expected_parts = {**take(arrays, "act/"), **take(arrays, "probe/")}
    with torch.no_grad():
        parts = watch(model, sorted(expected_parts), family=family)
        features = model.forward_features(frames)
        logits = model.classify(features)
    return Comparison(
        path.stem,
        layout.name,
        differences(arrays, logits=logits, features=features, parts=parts),
        tuple(sorted(set(settings) - REMARKS)),
    )


def take(arrays: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def to_frames(clips: Tensor, *, layout: str) -> Tensor:
    """Return (B, 3, T, H, W) from another order of axes, such as "B,T,C,H,W"."""
    letters = " ".join(re.sub(r"[^A-Z]", "", layout.upper()).replace("F", "T"))
    return rearrange(clips, f"{letters} -> B C T H W")


def watch(model: nn.Module, names: Sequence[str], *, family: Family) -> dict[str, Tensor]:
    """Return a dict that the next forward pass fills with outputs, by the authors' names."""
    caught: dict[str, Tensor] = {}
    for name in names:
        rule = next((rule for rule in family.parts if re.fullmatch(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"nothing says which part of ours is {name}")
        pattern, ours, axes = rule
        part = model.get_submodule(re.fullmatch(pattern, name).expand(ours))

        def keep(
            _part: nn.Module, _given: object, output: Tensor, name: str = name, axes: str = axes
        ) -> None:
            caught[name] = rearrange(output, axes)

        part.register_forward_hook(keep)
    return caught


def differences(
    arrays: Mapping[str, Any], *, logits: Tensor, features: Tensor, parts: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the largest difference of each kind that the file can be compared in."""
    largest: dict[str, float] = {}

    def compare(kind: str, name: str, got: Tensor) -> None:
        expected = torch.from_numpy(arrays[name])
        if got.shape != expected.shape:
            raise ValueError(f"{name} is {tuple(expected.shape)}, ours {tuple(got.shape)}")
        difference = (got.double() - expected.double()).abs().max().item()
        if kind in ("acts", "probes"):
            difference /= max(1.0, expected.abs().max().item())
        # max() would drop a NaN.
        largest[kind] = max(
            largest.get(kind, 0.0), math.inf if math.isnan(difference) else difference
        )

    for name in arrays:
        prefix, _, part = name.partition("/")
        if name in ("y", "y64", "y_logits"):
            compare("logits", name, logits)
        elif name == "y_feat":
            compare("features", name, features)
        elif prefix == "act":
            compare("acts", name, parts[part])
        elif prefix == "probe":
            compare("probes", name, probe(parts[part]))
        elif prefix not in ("sd", "x"):
            raise ValueError(f"{name} of the file is compared with nothing")
    return largest


def probe(output: Tensor) -> Tensor:
    """Return mean, standard deviation and the first 30 values."""
    return torch.cat([torch.stack([output.mean(), output.std()]), output.flatten()[:30]])


def main(arguments: Sequence[str]) -> int:
    """Print a line for each file; return the exit status."""
    if not arguments:
        print("usage: python -m tests.models.golden FILE...", file=sys.stderr)
        return 2
    status = 0
    for argument in arguments:
        try:
            comparison = compare_file(Path(argument))
            print(comparison.line())
            status |= not comparison.passed
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            print(f"FAIL {Path(argument).stem}: {error}")
            status = 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
