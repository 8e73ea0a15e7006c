"""From the pixel store to normalised batches on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vbdguard.errors import ConfigError
from vbdguard.ingest.store import PixelStore

_RESIDENT_BYTES = 4 << 30
"""Up to so many bytes of pixels are kept on an accelerator; beyond, each batch is fetched from the store."""
_MEASURED = 20_000
"""Samples that mean and standard deviation are taken from, at most."""
_LEAST_STD = 1 / 255


@dataclass(frozen=True, slots=True)
class Normalization:
    """What is taken from each channel and what it is divided by, for pixels scaled to 0..1, as torchvision has it."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"expected three means and three deviations above 0, got {self.mean} and {self.std}")

    @classmethod
    def measure(cls, store: PixelStore, indices: NDArray[np.int64]) -> Normalization:
        """Return mean and standard deviation of the channels over (an even choice of) the samples at `indices`."""
        chosen = indices[np.linspace(0, len(indices) - 1, min(len(indices), _MEASURED)).astype(np.int64)]
        total, square, count = np.zeros(3), np.zeros(3), 0
        for start in range(0, len(chosen), 1000):
            pixels = store.gather(chosen[start : start + 1000]).reshape(-1, 3).astype(np.float64) / 255
            total += pixels.sum(0)
            square += (pixels**2).sum(0)
            count += len(pixels)
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, _LEAST_STD**2))
        return cls(tuple(mean.round(6).tolist()), tuple(std.round(6).tolist()))

    def apply(self, images: Tensor) -> Tensor:
        """Return uint8 (n, H, W, C) as normalised float32 (n, C, H, W), channels last in memory."""
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        return ((images.to(torch.float32) / 255 - mean) / std).permute(0, 3, 1, 2)


class PixelFeed:
    """A store's pixels on a device.

    Args:
        store: N samples.
        device: where batches are wanted.
    """

    def __init__(self, store: PixelStore, device: torch.device) -> None:
        self._store = store
        self._device = device
        size = len(store) * int(np.prod(store.image_shape))
        is_resident = device.type != "cpu" and size <= _RESIDENT_BYTES
        self._resident = torch.from_numpy(store.gather(np.arange(len(store)))).to(device) if is_resident else None

    def batch(self, indices: Sequence[int] | ArrayLike | Tensor) -> Tensor:
        """Return the pixels at the indices (n,) of the store, uint8 (n, H, W, C) on the device."""
        wanted = torch.as_tensor(indices, dtype=torch.int64)
        if self._resident is not None:
            return self._resident[wanted.to(self._device)]
        return torch.from_numpy(self._store.gather(wanted.numpy())).to(self._device)
