"""All samples of a training set, wherever their images lie, and the sample of them that preset `default` is fitted on.

What is told from a few thousand samples of a class is told no better from a million, so the fit looks at a bounded
number of each class and the rest is judged by what it has learned. Memory then follows from the bound, not from the
size of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from vbdguard.config import SampleConfig
from vbdguard.method.samples import Samples

_CHUNK_BYTES = 2 << 20
_LARGEST_CHUNK = 4096
"""Sums of so many pixels stay far below 2**24, up to where float32 holds every whole number."""


class Images(Protocol):
    """The images of a training set."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""

    def all(self) -> Tensor:
        """Return all images, uint8 (N, H, W, C)."""

    def at(self, indices: Tensor) -> Tensor:
        """Return the images at int64 (n,) indices, uint8 (n, H, W, C)."""


@dataclass(frozen=True, slots=True)
class HeldImages:
    """Images in memory."""

    images: Tensor
    """uint8 (N, H, W, C)."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def all(self) -> Tensor:
        """Return the images themselves."""
        return self.images

    def at(self, indices: Tensor) -> Tensor:
        """Return a copy of some of them."""
        return self.images[indices]


@dataclass(frozen=True, slots=True)
class Population:
    """A training set: all labels, and the images when they are asked for."""

    images: Images
    labels: Tensor
    """int64 (N,), 0 to K - 1, on the device that does the work; images come to the same one."""
    n_classes: int
    draw: int = 0
    """What decides, with the seed, which samples are drawn: a number that follows from the data's digest, or 0."""

    @classmethod
    def of(cls, samples: Samples) -> Population:
        """Return samples that are in memory as a population."""
        return cls(HeldImages(samples.images), samples.labels, samples.n_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def whole(self) -> Samples:
        """Return all samples."""
        return Samples(self.images.all(), self.labels, self.n_classes)

    def at(self, indices: Tensor) -> Samples:
        """Return some samples; all of them where there are as many indices, which then must be ascending."""
        if len(indices) == len(self):
            return self.whole()
        return Samples(self.images.at(indices), self.labels[indices], self.n_classes)

    def chunks(self, indices: Tensor | None = None) -> Iterator[tuple[Tensor, Samples]]:
        """Yield the samples at int64 (n,) indices (None: all), some megabytes at a time, with their indices."""
        if indices is None:
            indices = torch.arange(len(self), device=self.labels.device)
        size = min(max(1, _CHUNK_BYTES // prod(self.images.image_shape)), _LARGEST_CHUNK)
        for chunk in indices.split(size) if len(indices) else ():
            yield chunk, Samples(self.images.at(chunk), self.labels[chunk], self.n_classes)

    def fit_sample(self, config: SampleConfig, seed: int) -> Tensor:
        """Return the indices of the samples to learn from, int64 (n,), ascending.

        Classes up to the cap are taken whole; of larger ones that many samples are drawn. The draw hangs on the data
        and on the seed alone: an attacker who knows only part of the data cannot foresee it, one who knows all of it
        and the seed can.

        Args:
            config: the caps.
            seed: of the draw.
        """
        counts = self.labels.bincount(minlength=self.n_classes)
        cap = class_cap(counts.tolist(), config, prod(self.images.image_shape))
        if int(counts.max()) <= cap:
            return torch.arange(len(self), device=self.labels.device)
        generator = torch.Generator().manual_seed((self.draw + seed) % (1 << 63))
        order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        by_class = order[self.labels[order].argsort(stable=True)]
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        rank = torch.arange(len(self), device=self.labels.device) - starts
        return by_class[rank < cap].sort().values


def class_cap(counts: list[int], config: SampleConfig, image_bytes: int) -> int:
    """Return how many samples of a class the fit may take, at least 1.

    Args:
        counts: samples of each class.
        config: the caps.
        image_bytes: bytes of one image's pixels.
    """
    cap = config.per_class
    room = max(1, (config.megabytes << 20) // image_bytes)
    # The largest classes give way first: what small ones leave is shared out among the others.
    left = len(counts)
    for count in sorted(counts):
        if min(count, cap) * left > room:
            return max(1, room // left)
        room -= min(count, cap)
        left -= 1
    return cap
