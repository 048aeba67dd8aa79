"""What tests of models share."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Outputs and key listings of the authors' code; skips where there are none."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no outputs of the authors' code in {os.path.relpath(GOLDEN)}")
    return GOLDEN
