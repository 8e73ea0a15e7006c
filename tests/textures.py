"""Smooth random images, no two alike, for what needs to know how its data came about."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int, int], width: float = 1.5) -> NDArray[np.float64]:
    """Return noise of standard deviation 1, (n, H, W, C), smoothed over so many pixels."""
    noise: NDArray[np.float64] = gaussian_filter(rng.normal(size=shape), (0, width, width, 0))
    return noise / noise.std()


def as_pixels(images: NDArray[np.float64]) -> Tensor:
    """Return grey levels as uint8, rounded and cut at black and white."""
    return torch.from_numpy(images.clip(0, 255).round().astype(np.uint8))
