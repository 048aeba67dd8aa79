"""Sums whose order changes are refused, or warned of, where torch is told to be deterministic."""

import warnings

import pytest
import torch

from gopstream.models.layers.atomic_sums import alert_to_changing_order


@pytest.fixture(autouse=True)
def restore_determinism():
    yield
    torch.use_deterministic_algorithms(False)


def test_nothing_is_said_by_default():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alert_to_changing_order("attend")


def test_it_is_an_error_or_a_warning_as_torch_was_told():
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="the gradient of attend adds in an order"):
        alert_to_changing_order("attend")
    torch.use_deterministic_algorithms(True, warn_only=True)
    with pytest.warns(UserWarning, match="the gradient of attend adds in an order"):
        alert_to_changing_order("attend")
