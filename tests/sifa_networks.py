"""Small SIFA-Nets of which every weight matters, and what to feed them."""

import torch
from torch import Tensor, nn

from gopstream.models.sifa.resnet import SifaNet


def shake(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """Draw weights, and statistics of norms, that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or "tap_weights" in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.ndim > 1:
                tensor.copy_(noise * tensor.shape[1:].numel() ** -0.5)
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(1 + 0.5 * noise.tanh())
            else:
                tensor.copy_(0.3 * noise)
    return module


def make_network(num_classes: int = 3, *, seed: int = 0, **options: object) -> SifaNet:
    """Make a network in float64, in evaluation mode, for clips of 8 frames by default."""
    shape = {"num_frames": 8, "depths": (1, 2, 2, 2), "base_width": 4, "stem_frames": 2}
    model = SifaNet(num_classes, **(shape | {"head_dropout": 0.0} | options))
    shake(model.double(), seed=seed)
    # Statistics that fit the weights, without which unscaled products grow beyond all numbers.
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(make_frames(4, num_frames=model.num_frames, seed=seed + 2))
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()
    return model.eval()


def make_frames(
    batch: int = 2, *, num_frames: int = 8, height: int = 24, width: int = 32, seed: int = 1
) -> Tensor:
    """Draw (batch, 3, num_frames, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, num_frames, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
