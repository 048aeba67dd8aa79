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

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from einops import rearrange
from tests.models.golden_families import FAMILIES, REMARKS, Family, run_sifa_operator
from torch import Tensor, nn

from gopstream.models.weights.loading import match_layout
from gopstream.models.weights.source_layout import recognise_layout

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


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Refuse what is left of a configuration, but for remarks and sentences."""
    unknown = [
        key
        for key, value in config.items()
        if key not in REMARKS and not (isinstance(value, str) and " " in value)
    ]
    if unknown:
        raise ValueError(f"not understood in its config: {', '.join(map(repr, sorted(unknown)))}")


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
