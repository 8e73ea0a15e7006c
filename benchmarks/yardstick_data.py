"""The data sets of the yardstick: Pillow images in memory, converted again each time that one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from vbdguard.attacks.triggers import Trigger

_BLEND_RANGE = (0.2, 1.0)
"""Of the published runs."""

Transform = Callable[[Any], Tensor]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pillow images with their labels, as a transformed tensor each."""

    def __init__(self, images: Sequence[Image.Image], labels: Sequence[int], transform: Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Each image once clean and once with the trigger, blended in anew with a random factor."""

    def __init__(self, images: Sequence[Image.Image], trigger: Trigger, transform: Transform, seed: int) -> None:
        self.images, self.transform = images, transform
        self.pattern, self.mask = trigger.pattern[trigger.mask].astype(np.float32), trigger.mask
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        alpha = self.rng.uniform(*_BLEND_RANGE)
        blended = np.array(image)
        blended[self.mask] = ((1 - alpha) * blended[self.mask] + alpha * self.pattern).astype(np.uint8)
        return self.transform(image), self.transform(Image.fromarray(blended))


def to_pillow(images: NDArray[np.uint8]) -> list[Image.Image]:
    """Return uint8 (N, H, W, 3) as Pillow images."""
    return [Image.fromarray(image) for image in images]


def to_normalised_tensor(images: NDArray[np.uint8]) -> Transform:
    """Return the transform to a tensor, normalised with mean and standard deviation of uint8 (N, H, W, 3)."""
    counts = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    std = np.sqrt(counts @ levels**2 / counts.sum(1) - mean**2)
    composed: Transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(mean.tolist(), std.clip(1e-3).tolist())]
    )
    return composed


def stratified_split(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices of `share` of each class, drawn at random, and those of the rest."""
    rng = np.random.default_rng(seed)
    first = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        first.append(members[: round(share * len(members))])
    train = np.sort(np.concatenate(first))
    return train, np.setdiff1d(np.arange(len(labels)), train)
