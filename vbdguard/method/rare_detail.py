"""Stage 2 of preset `default`, second look: details that hardly any image shows, at the same pixels of one class.

A trigger on one sample in a hundred of its class moves the class's mean less than natural differences do. But the edges
of an opaque patch are harder than nearly all that photographs show. How far a pixel differs from the mean of its eight
neighbours, beyond what all but one in a thousand do (the excess over a threshold, as extreme value theory has it), is 0
nearly everywhere. The class means of that excess are compared like those of the images themselves (`contrast`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.method.samples import evenly

_NEIGHBOURS = 8
_LARGEST = 255 * _NEIGHBOURS
_ENOUGH, _CHUNK = 2000, 256
"""Images that say how hard the edges of nearly all images are, and how many of them are looked at at a time."""


@dataclass(frozen=True, slots=True)
class RareDetail:
    """What counts as rare in a set of images."""

    threshold: int
    """By which a pixel differs from the mean of its neighbours, grey levels times 8, from 0 to 2040."""

    @classmethod
    def among(cls, images: Tensor, share: float) -> RareDetail:
        """Return what only a share of the values of uint8 (N, H, W, C) images exceeds, told from some of them."""
        counts = torch.zeros(_LARGEST + 1, dtype=torch.int64, device=images.device)
        for some in evenly(images, _ENOUGH).split(_CHUNK):
            counts += _detail(some).abs().flatten().long().bincount(minlength=len(counts))
        beyond = counts.sum() - counts.cumsum(0)
        return cls(int((beyond > share * counts.sum()).sum()))

    def of(self, images: Tensor) -> Tensor:
        """Return by how much pixels of uint8 (n, H, W, C) images exceed it, with their sign, int16 of that shape."""
        detail = _detail(images)
        return detail - detail.clamp(-self.threshold, self.threshold)


def _detail(images: Tensor) -> Tensor:
    """Return 8 times pixel minus mean of its neighbours, int16 (n, H, W, C); at the border each repeats itself."""
    pixels = images.to(torch.int16)
    total = pixels
    for axis in (1, 2):
        length = total.shape[axis]
        before = torch.cat([total.narrow(axis, 0, 1), total.narrow(axis, 0, length - 1)], axis)
        after = torch.cat([total.narrow(axis, 1, length - 1), total.narrow(axis, length - 1, 1)], axis)
        total = total + before + after
    return (_NEIGHBOURS + 1) * pixels - total
