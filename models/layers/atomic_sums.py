"""What operators say that add atomically, where results must not change from run to run."""

import warnings

import torch


def alert_to_changing_order(operator: str) -> None:
    """Do what torch's own operators do that add atomically (grid_sample's gradient is one).

    Args:
        operator: Its name, for the message.

    Raises:
        RuntimeError: If only deterministic algorithms are allowed.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        f"the gradient of {operator} adds in an order that differs from run to run, which "
        "torch.use_deterministic_algorithms(True) forbids; warn_only=True lets it pass"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, stacklevel=2)
