"""Models of the catalogue made small by their own options, and what to feed them."""

import torch
from torch import Tensor, nn

from gopstream.models import create_model, list_models
from gopstream.models.catalogue import MODELS

NUM_CLASSES = 5
_RATES = ("drop_path_rate", "head_dropout")


def kinds() -> list[str]:
    """One name for each network: shrunk, T and B of a family differ in their rates alone."""
    names: dict[tuple[str, str], str] = {}
    for name in list_models():
        entry = MODELS[name]
        options = getattr(entry.constructor, "keywords", {}) | dict(entry.shrunk)
        kept = {key: value for key, value in options.items() if key not in _RATES}
        names.setdefault((entry.family, str(sorted(kept.items()))), name)
    return sorted(names.values())


def make_shrunk(name: str, *, seed: int = 0, **options: object) -> nn.Module:
    """Make the model with weights drawn from `seed`, in training mode."""
    torch.manual_seed(seed)
    return create_model(name, num_classes=NUM_CLASSES, **(dict(MODELS[name].shrunk) | options))


def make_inputs(name: str, *, batch: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """Draw what the shrunk model's `forward` takes, by keyword."""
    entry, model = MODELS[name], make_shrunk(name)
    size = entry.shrunk_size
    generator = torch.Generator().manual_seed(seed)
    inputs = {"frames": torch.randn(batch, 3, model.num_frames, size, size, generator=generator)}
    if "motion" in entry.contract.planes:
        shape = (batch, model.num_queries, 2, model.subclip_frames, size // 8, size // 8)
        inputs["motion"] = 3 * torch.randn(shape, generator=generator)
    return inputs
