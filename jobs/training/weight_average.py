"""An exponential average of a network's weights, which is evaluated in place of the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a network: ``average = decay * average + (1 - decay) * weights`` after each step.

    Buffers, such as the statistics of batch norms, are the network's own.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        """Begin with the network's weights."""
        self._network = network
        self._decay = decay
        self._weights = {
            name: parameter.detach().clone() for name, parameter in network.named_parameters()
        }

    def update(self) -> None:
        """Take a step's new weights in."""
        new = [parameter.detach() for parameter in self._network.parameters()]
        torch._foreach_lerp_(list(self._weights.values()), new, 1.0 - self._decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state dict of the network with averaged weights."""
        # By the parameter: one that two layers share has two names here, and one in the average.
        averaged = {id(parameter): self._weights[name] for name, parameter in self._named()}
        return {
            name: averaged.get(id(value), value.detach())
            for name, value in self._network.state_dict(keep_vars=True).items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        for name, weights in self._weights.items():
            weights.copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the averaged weights inside, and its own again after."""
        own = {name: parameter.detach().clone() for name, parameter in self._named()}
        self._copy(self._weights)
        try:
            yield
        finally:
            self._copy(own)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self._network.named_parameters()

    def _copy(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._named():
                parameter.copy_(weights[name])
