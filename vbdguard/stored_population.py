"""What was read, as the population that stages 1 to 6 look at: the pixels stay in the store until they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vbdguard.ingest.reader import Ingested
from vbdguard.ingest.store import PixelStore
from vbdguard.method.population import Population

_DRAW_DIGITS = 15
"""Hex digits of the data's digest that decide the draw: 60 bits, with room for the seed."""


@dataclass(frozen=True, slots=True)
class StoredImages:
    """Images in the pixel store, which come to a device when they are asked for."""

    store: PixelStore
    device: torch.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.store.image_shape

    def all(self) -> Tensor:
        """Return all images, uint8 (N, H, W, 3)."""
        return torch.from_numpy(self.store.gather(np.arange(len(self.store)))).to(self.device)

    def at(self, indices: Tensor) -> Tensor:
        """Return the images at int64 (n,) indices, uint8 (n, H, W, 3)."""
        return torch.from_numpy(self.store.gather(indices.cpu().numpy())).to(self.device)


def stored_population(ingested: Ingested, device: torch.device) -> Population:
    """Return all samples of a scan, in the order of their digests."""
    store = ingested.store
    return Population(
        images=StoredImages(store, device),
        labels=torch.from_numpy(store.labels.copy()).to(device),
        n_classes=len(store.class_labels),
        draw=int(ingested.dataset_digest[:_DRAW_DIGITS], 16),
    )
