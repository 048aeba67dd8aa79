"""A network as it is trained: frames in, the logits of each head that has a loss."""

from typing import cast

from torch import Tensor, nn

from gopstream.models.sifa.resnet import SifaNet


class TrainedHeads(nn.Module):
    """Has a network's heads called by `forward`, as DDP and ``torch.compile`` want it."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network; its parameters stay its own."""
        super().__init__()
        self.network = network

    def forward(
        self, frames: Tensor, motion: Tensor | None = None, valid: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return (B, outputs) logits: of SIFA-Net those of both its heads, else one.

        SIFA-Net's authors add the losses of its two heads; that of their mean is another.
        """
        if isinstance(self.network, SifaNet):
            return self.network.forward_heads(frames)
        if motion is None and valid is None:
            return (cast(Tensor, self.network(frames)),)
        return (cast(Tensor, self.network(frames, motion=motion, valid=valid)),)
