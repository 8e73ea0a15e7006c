"""Images on the device, as the rivals' networks take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.training.pixels import Normalization

BATCH = 500
"""Samples per step where nothing is trained."""
_MEASURED = 20_000
_LEAST_STD = 1 / 255


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """N images and what is taken from their channels."""

    images: Tensor
    """uint8 (N, H, W, 3) on the device."""
    normalization: Normalization

    @classmethod
    def load(cls, images: NDArray[np.uint8], normalization: Normalization, device: torch.device) -> Pixels:
        """Return uint8 (N, H, W, C) images on a device; of grey ones (C = 1) the channel is taken three times."""
        pixels = torch.from_numpy(images)
        return cls((pixels.expand(-1, -1, -1, 3) if images.shape[3] == 1 else pixels).to(device), normalization)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images live."""
        return self.images.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and the 3 channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def subset(self, indices: NDArray[np.int64]) -> Pixels:
        """Return the images at the indices, in that order."""
        return Pixels(self.images[torch.from_numpy(indices).to(self.device)], self.normalization)

    def batches(self) -> Iterator[Tensor]:
        """Yield normalised float32 (n, 3, H, W), in order."""
        return map(self.normalization.apply, self.images.split(BATCH))


def measured_normalization(images: NDArray[np.uint8]) -> Normalization:
    """Return mean and standard deviation of the channels over (an even choice of) uint8 images (N, H, W, C)."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), _MEASURED)).astype(np.int64)
    counts = [np.bincount(images[chosen, :, :, channel].ravel(), minlength=256) for channel in range(images.shape[3])]
    levels = np.arange(256) / 255
    means = [float((count * levels).sum() / count.sum()) for count in counts]
    variances = [
        float((count * (levels - mean) ** 2).sum() / count.sum()) for count, mean in zip(counts, means, strict=True)
    ]
    stds = [max(variance**0.5, _LEAST_STD) for variance in variances]
    times = 3 // images.shape[3]
    return Normalization(tuple(means * times), tuple(stds * times))
