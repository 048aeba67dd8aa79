"""What tests of SIFA share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def compute_in_one_thread() -> Iterator[None]:
    """Use one thread: for tensors this small, a second one costs time on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
