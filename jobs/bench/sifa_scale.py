"""What SIFA's sum is beside the features that it is added to, with and without a scale.

The paper weighs taps by dot products and has neither a softmax nor a factor; the authors' code
divides by the width. Networks of full size with fresh weights, as training would begin, see a clip
of the demo in training mode; those of Swin are also drawn three times as wide, about the size that
trained ones have. For each attention between frames: the root mean square of what it adds, over
that of what it adds to.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any, Final, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gopstream.jobs.bench.sharding_runs import hardware
from gopstream.jobs.demo_scenes import VideoKey, draw_scene, render_clip
from gopstream.models import create_model
from gopstream.models.catalogue import find_model
from gopstream.models.sifa.motion_block import InterFrameAttention, Scale
from gopstream.shards.loading.batch_ops import normalise

_FRAMES: Final = 16
_SIZE: Final = 112
_CASES: Final = (("sifa_net_r50", 1.0), ("sifa_swin_t", 1.0), ("sifa_swin_t", 3.0))
"""Models, and factors on the fresh weights of their linear layers."""


def demo_clip(*, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return one clip of the demo, (1, 3, F, Y, X) float32, normalised."""
    key = VideoKey(seed=0, split="train", motion_class="move_left", index=0)
    frames = render_clip(key.motion_class, draw_scene(key, num_frames=_FRAMES, size=_SIZE))
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    return normalise(pixels, mean=mean, std=std)


@torch.no_grad()
def added_shares(network: nn.Module, clip: Tensor) -> list[float]:
    """Return for each attention between frames what it adds over what it adds to."""
    shares: list[float] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], taken: Tensor) -> None:
        shares.append(float(taken.norm() / given[0].norm()))

    hooks = [
        part.register_forward_hook(note)
        for part in network.modules()
        if isinstance(part, InterFrameAttention)
    ]
    network(clip)
    for hook in hooks:
        hook.remove()
    return shares


def measure(name: str, *, scale: Scale, wider: float) -> dict[str, Any]:
    """Return a row of the report.

    Args:
        name: Of a model of the catalogue.
        scale: As the model takes it.
        wider: Factor on the fresh weights of linear layers.
    """
    torch.manual_seed(0)
    network = create_model(name, num_classes=400, num_frames=_FRAMES, scale=scale)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(wider)
    contract = find_model(name).contract
    shares = added_shares(network.train(), demo_clip(mean=contract.mean, std=contract.std))
    return {
        "model": name,
        "scale": scale,
        "weights": "fresh" if wider == 1 else f"fresh, {wider:g} times as wide",
        "least": min(shares),
        "most": max(shares),
        "each": shares,
    }


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m gopstream.jobs.bench.sifa_scale",
        description="What SIFA adds, with dot products and with their mean over channels.",
    )
    parser.add_argument("--json", dest="json_file", type=Path, required=True, help="result file")
    given = parser.parse_args()
    rows = [
        measure(name, scale=scale, wider=wider)
        for name, wider in _CASES
        for scale in get_args(Scale)
    ]
    content = {
        "command": "python -m gopstream.jobs.bench.sifa_scale --json FILE",
        "hardware": hardware(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "clip": {"frames": _FRAMES, "size": _SIZE},
        "rows": rows,
    }
    given.json_file.parent.mkdir(parents=True, exist_ok=True)
    given.json_file.write_text(json.dumps(content, indent=2) + "\n")
    table = Table("model", "weights", "scale", "added / features, least", "most")
    for row in rows:
        numbers = (f"{row['least']:.3g}", f"{row['most']:.3g}")
        table.add_row(row["model"], row["weights"], row["scale"], *numbers)
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
