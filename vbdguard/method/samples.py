"""The images and labels that stages 1 to 6 look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 256
_PIXELS_AT_ONCE = 2**17
_SHORTEST_SIDE = 6
"""Pixels that no copy of an image goes below: two 3 x 3 convolutions and a pool need them."""
PIXEL_CENTRE = 128
"""Models see pixel - 128: small whole numbers, which bfloat16 still holds exactly."""
PIXEL_NOISE = 4.0
"""Variance, in squared grey levels, that rounding and compression add to any window."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Decoded images of a training set with their (possibly poisoned) labels."""

    images: Tensor
    """uint8 (N, H, W, C), 0 to 255."""
    labels: Tensor
    """int64 (N,), 0 to K - 1."""
    n_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def device(self) -> torch.device:
        """Where images and labels live."""
        return self.images.device

    def pixels(self, indices: Tensor) -> Tensor:
        """Return centred pixels, float32 (n, C, H, W) in [-128, 127], channels last in memory."""
        return centred(self.images[indices])

    def members(self, label: int) -> Tensor:
        """Return the indices of the samples that bear a label, int64 (n,), ascending."""
        return (self.labels == label).nonzero().squeeze(1)

    def subset(self, indices: Tensor) -> Samples:
        """Return the samples at the indices, in that order."""
        return Samples(self.images[indices], self.labels[indices], self.n_classes)

    def halved_to(self, max_side: int) -> Samples:
        """Return the samples with images halved until no side is longer than `max_side`."""
        return Samples(by_chunks(lambda chunk: halved(chunk, max_side), self.images), self.labels, self.n_classes)


def by_chunks(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return a function's results, one per image, computed a chunk of (n, H, W, C) images at a time, each in its place.

    What the function needs meanwhile it needs for a chunk only, and the chunks are not held twice.
    """
    first = function(images[:1])
    results = first.new_empty((len(images), *first.shape[1:]))
    for start in range(0, len(images), _CHUNK):
        results[start : start + _CHUNK] = function(images[start : start + _CHUNK])
    return results


def at_once(image_size: tuple[int, int]) -> int:
    """Return how many images of height and width a network may look at together that keeps their size, at least 1."""
    return max(1, _PIXELS_AT_ONCE // (image_size[0] * image_size[1]))


def halved(images: Tensor, max_side: int) -> Tensor:
    """Return uint8 (n, H, W, C) images halved until no side is longer than `max_side`, or one would be too short.

    Wide and tall images stay as large as windows and networks need them.
    """
    while max(images.shape[1:3]) > max_side and min(images.shape[1:3]) >= 2 * _SHORTEST_SIDE:
        images = F.avg_pool2d(images.permute(0, 3, 1, 2).float(), 2).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images.contiguous()


def centred(images: Tensor) -> Tensor:
    """Return uint8 (n, H, W, C) images as centred float32 (n, C, H, W), channels last in memory."""
    return images.to(torch.float32).sub_(PIXEL_CENTRE).permute(0, 3, 1, 2)


def stratified_split(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split indices at random so that each class gives `share` of its samples to the first part.

    Args:
        labels: int64 (N,).
        share: share of the first part, 0 to 1; rounded per class.
        generator: CPU generator.

    Returns:
        Two int64 index tensors on the device of `labels`, each ascending; together all of 0 to N - 1.
    """
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels), device=labels.device) - starts.repeat_interleave(counts)
    is_first = rank < (counts * share).round().to(torch.int64).repeat_interleave(counts)
    return by_class[is_first].sort().values, by_class[~is_first].sort().values


def shuffled_batches(indices: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices in random order, `batch_size` at a time, the last batch shorter."""
    order = torch.randperm(len(indices), generator=generator).to(indices.device)
    yield from indices[order].split(batch_size)


def other_samples(samples: Samples, label: int, most: int, seed: int, *, among: Tensor | None = None) -> Tensor:
    """Return up to `most` samples of other classes, int64 (m,), ascending, the same for every stage.

    Args:
        samples: the training set.
        label: the class that they must not bear.
        most: how many.
        seed: of the draw.
        among: bool (N,), those to draw from; None: all.
    """
    generator = torch.Generator().manual_seed(seed)
    is_other = samples.labels != label
    others = (is_other if among is None else is_other & among).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[:most].sort().values
    return others[drawn.to(others.device)]


def evenly(items: Tensor, most: int) -> Tensor:
    """Return `most` of the items, evenly spread over them, in their order; all where there are no more."""
    n = len(items)
    if n <= most:
        return items
    return items[torch.arange(most, device=items.device) * n // most]
