"""The benchmarks are run from the repository and never installed, so their folder has to be made known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

_ROOT = str(Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)


@pytest.fixture
def images() -> np.ndarray:
    """400 images without a white pixel."""
    return np.random.default_rng(0).integers(1, 200, (400, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    """Their labels: four classes in turn."""
    return np.arange(400) % 4
