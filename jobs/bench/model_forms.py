"""Networks in two forms, the product's and the plain one, with the same weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gopstream.jobs.bench.eager_pst import EagerPst
from gopstream.jobs.bench.eager_video_focalnet import EagerVideoFocalNet
from gopstream.models import create_model
from gopstream.models.catalogue import MODELS, CatalogueEntry
from gopstream.models.pst.model import PAPER_TOKEN_FRAMES
from gopstream.models.weights.loading import load_weights

Form = Literal["gopstream", "compiled", "plain"]

LOGITS_TOLERANCE: Final = 1e-5
"""Of the largest value: how far the two forms may be apart in float32."""
GRADIENT_TOLERANCE: Final = 1e-4
"""Wider: at full size both forms of Video-FocalNet-T are 1.5e-5 off float64, which is where they
agree to 4e-14. Its gradients run through products of three activations."""

_WITHOUT_CHANCE: Final[Mapping[str, Mapping[str, object]]] = {
    "video_focalnet": {"drop_path_rate": 0.0},
    "pst": {"drop_path_rate": 0.0, "head_dropout": 0.0},
    "deit": {"drop_path_rate": 0.0, "head_dropout": 0.0},
}
"""Options by family, so that two forms in training do the same."""

_PLAIN_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "video_focalnet": {"focal_levels": (2, 2, 2, 2), "focal_windows": (3, 3, 3, 3)},
    "pst": {
        "embed_dim": 96,
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
        "temporal_window": 1,
        "block_kinds": ("tcs", "tps"),
        "rpe": "official",
        "table_frames": PAPER_TOKEN_FRAMES,
    },
}
"""What the constructors of the product take where the catalogue says nothing."""


class Clips(NamedTuple):
    """What a model is fed."""

    frames: Tensor
    """(B, 3, T, size, size) float32."""
    labels: Tensor
    """(B,) int64."""

    def to(self, device: torch.device) -> "Clips":
        """Return them on a device."""
        return Clips(self.frames.to(device), self.labels.to(device))


class Agreement(NamedTuple):
    """How far two forms are apart, relative to the largest value."""

    logits: float
    gradient: float
    """Of the loss by the frames: every layer's way back is in it."""

    @property
    def holds(self) -> bool:
        """Whether both are within tolerance; figures of networks that differ mean nothing."""
        return self.logits <= LOGITS_TOLERANCE and self.gradient <= GRADIENT_TOLERANCE


class Workload(NamedTuple):
    """A model of the catalogue, at its own size or made small."""

    name: str
    is_shrunk: bool
    num_classes: int = 400

    @property
    def entry(self) -> CatalogueEntry:
        """Of the catalogue."""
        return MODELS[self.name]

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        shrunk = self.entry.shrunk.get("num_frames") if self.is_shrunk else None
        return shrunk if isinstance(shrunk, int) else self.entry.contract.num_frames

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.entry.shrunk_size if self.is_shrunk else self.entry.contract.size

    def draw_clips(self, batch: int) -> Clips:
        """Draw the same clips each time."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, 3, self.num_frames, self.size, self.size)
        labels = torch.arange(batch) % self.num_classes
        return Clips(torch.randn(shape, generator=generator), labels)


def has_plain_form(name: str) -> bool:
    """Tell whether a model of the catalogue is written the plain way as well."""
    return MODELS[name].family in _PLAIN_DEFAULTS


def make_form(workload: Workload, form: Form) -> nn.Module:
    """Make one form of a model, on the CPU; those with the same weights that have a plain one.

    Dropout and stochastic depth are off.
    """
    name = workload.name
    shrunk = workload.entry.shrunk if workload.is_shrunk else {}
    if form == "plain":
        return _make_plain(workload, shrunk)
    options: dict[str, Any] = {**shrunk, **_WITHOUT_CHANCE.get(workload.entry.family, {})}
    torch.manual_seed(0)
    model = create_model(name, num_classes=workload.num_classes, **options)
    if has_plain_form(name):
        weights = _make_plain(workload, shrunk).state_dict()
        load_weights(model, weights, layouts=workload.entry.layouts)
    if form == "compiled":
        model.compile(fullgraph=True)
    return model


def _make_plain(workload: Workload, shrunk: Mapping[str, object]) -> nn.Module:
    family = workload.entry.family
    of_variant = getattr(workload.entry.constructor, "keywords", {})
    chosen = {**_PLAIN_DEFAULTS[family], **of_variant, **shrunk}
    options = {
        key: value
        for key, value in chosen.items()
        if key not in (*_WITHOUT_CHANCE[family], "num_frames")
    }
    torch.manual_seed(0)
    model: nn.Module
    if family == "video_focalnet":
        model = EagerVideoFocalNet(workload.num_classes, num_frames=workload.num_frames, **options)
    else:
        model = EagerPst(
            workload.num_classes, num_frames=workload.num_frames, size=workload.size, **options
        )
    _draw_weights(model)
    return model


@torch.no_grad()
def _draw_weights(model: nn.Module) -> None:
    """Draw weights with which each part counts: with fresh ones some would hardly be seen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            spread = math.prod(parameter.shape[1:]) ** -0.5
            parameter.normal_(std=spread, generator=generator)
        else:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def compare_forms(models: Sequence[nn.Module], clips: Clips) -> Agreement:
    """Compare two forms on the same clips, forwards and backwards."""
    outputs = []
    for model in models:
        frames = clips.frames.clone().requires_grad_()
        logits = model(frames)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, clips.labels), frames)
        outputs.append((logits.detach(), gradient))
    (logits, gradient), (plain_logits, plain_gradient) = outputs
    return Agreement(_apart(logits, plain_logits), _apart(gradient, plain_gradient))


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
