"""Compare models with outputs of the authors' code: ``python -m tests.models.golden FILE...``.

A file is an .npz: ``config``, JSON that says how the network was built; ``sd/...``, its weights
under the authors' names; ``x`` and what came out (``y``, ``y_feat``, ``y_logits``); outputs of its
parts, whole (``act/...``) or as mean, standard deviation and first values (``probe/...``). The
model is built from the configuration, under the authors' names or those of our options, and loads
the weights strictly through the layout of its family, so that a new case of the same form needs no
code. SIFA-Net has a second head (``y_dual``) and scores clips by both (``prob``); its operator
alone, without a network, has ``offset``, ``weight``, products (``cor``) and sums (``agg``). One
line per file; the exit status is 1 if any difference is above 1e-4.
"""

import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from gopstream.models.pst.model import PatchShiftTransformer
from gopstream.models.pst.source_keys import LAYOUTS as PST_LAYOUTS
from gopstream.models.sifa.aggregation import attend_neighbours
from gopstream.models.sifa.resnet import SifaNet
from gopstream.models.sifa.source_keys import LAYOUTS as SIFA_LAYOUTS
from gopstream.models.video_focalnet.model import VideoFocalNet
from gopstream.models.video_focalnet.source_keys import LAYOUTS as VIDEO_FOCALNET_LAYOUTS
from gopstream.models.weights.loading import match_layout
from gopstream.models.weights.source_layout import SourceLayout, recognise_layout

TOLERANCE: Final = 1e-4

# What the outputs of a file are; those of float64 have a 64 in their names.
KINDS: Final = {
    **{"y": "logits", "y_logits": "logits", "y_dual": "dual logits", "y_feat": "features"},
    **{"prob": "probabilities", "agg": "sums", "cor": "products"},
}
RESULTS: Final = {"logits", "sums"}

USAGE: Final = """\
usage: python -m tests.models.golden FILE.npz...
Give files of weights, inputs and outputs of an authors' code, such as ../shared/golden/pst_*.npz;
each gets a line. What such a file holds: the head of tests/models/golden.py."""

# What a configuration says beside the network: it changes nothing in evaluation mode.
REMARKS: Final = {
    *("family", "arch", "note", "input", "input_shape", "input_layout", "img_size"),
    *("max_abs_output", "probe", "tolerance", "torch", "seed", "dtype", "eval_mode"),
    *("official_commit", "pattern_meaning", "tcs", "rpe_rule", "constructor"),
    *("drop_rate", "attn_drop_rate", "drop_path_rate", "head_dropout", "layerscale_value"),
    *("use_checkpoint", "pretrained", "pretrained2d", "frozen_stages"),
}


class Comparison(NamedTuple):
    """What one file showed."""

    name: str
    layout: str
    differences: dict[str, float]
    """Largest difference by what was compared: one of `KINDS`, acts, probes."""

    @property
    def passed(self) -> bool:
        """Whether all differences are finite and within the tolerance, and a result is there."""
        return not RESULTS.isdisjoint(self.differences) and all(
            difference <= TOLERANCE for difference in self.differences.values()
        )

    def line(self) -> str:
        """Return the line that is printed."""
        found = ", ".join(f"{what} {value:.1e}" for what, value in self.differences.items())
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {found} ({self.layout})"


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


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Refuse what is left of a configuration, but for remarks and sentences."""
    unknown = [
        key
        for key, value in config.items()
        if key not in REMARKS and not (isinstance(value, str) and " " in value)
    ]
    if unknown:
        raise ValueError(f"not understood in its config: {', '.join(map(repr, sorted(unknown)))}")


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
}


def compare_file(path: Path) -> Comparison:
    """Build the model of a file, load its weights, run it and compare.

    Raises:
        ValueError: If the file's configuration or weights are not those of a known family.
    """
    with path.open("rb") as file:
        if not is_zipfile(file):
            raise ValueError("it is no .npz file")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = json.loads(str(arrays.pop("config")))
    if config.get("family") == "sifa-op":
        with torch.no_grad():
            outputs = run_sifa_operator(arrays, config)
        refuse_unknown(config)
        found = differences(arrays, outputs=outputs, parts={})
        return Comparison(path.stem, "no network", found)
    frames = to_frames(torch.from_numpy(arrays["x"]), layout=config.get("input_layout", "BCTHW"))
    name = config.get("family", "pst")
    if name not in FAMILIES:
        known = ", ".join(map(repr, [*FAMILIES, "sifa-op"]))
        raise ValueError(f"its family is {name!r}, none of {known}")
    family = FAMILIES[name]
    settings = {**config, **config.get("constructor", {})}
    torch.manual_seed(0)  # the same model each time; all its weights are replaced below
    model = family.build(settings, frames.shape[2]).eval()
    refuse_unknown(settings)
    source = take(arrays, "sd/")
    layout = recognise_layout(family.layouts, source)
    match = match_layout(layout, wanted=model.state_dict(), source=source)
    if match.report.left_random:
        raise ValueError(f"{path} leaves weights random: {sorted(match.report.left_random)}")
    model.load_state_dict(match.tensors)
    expected_parts = {**take(arrays, "act/"), **take(arrays, "probe/")}
    with torch.no_grad():
        parts = watch(model, sorted(expected_parts), family=family)
        outputs = family.run(model, frames)
    return Comparison(path.stem, layout.name, differences(arrays, outputs=outputs, parts=parts))


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
    arrays: Mapping[str, Any], *, outputs: Mapping[str, Tensor], parts: Mapping[str, Tensor]
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
        output = name.replace("64", "")
        if output in outputs:
            compare(KINDS[output], name, outputs[output])
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
        print(USAGE, file=sys.stderr)
        return 2
    status = 0
    for argument in arguments:
        try:
            comparison = compare_file(Path(argument))
            print(comparison.line())
            status |= not comparison.passed
        except (ValueError, TypeError, KeyError, OSError, RuntimeError, BadZipFile) as error:
            # The other files are compared all the same.
            print(f"FAIL {Path(argument).stem}: {error}")
            status = 1
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
