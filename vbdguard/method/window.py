"""Rectangles of the image that stages 3 and 5 of preset `default` look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

OUTSIDE = 128
"""Level of what a window shows beyond the image's edges."""


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle, in pixels of the image; it may reach beyond the edges."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the rectangle of some images, (n, h, w, C) of (N, H, W, C)."""
        (rows, columns), beyond = self._inside(images.shape[1:3])
        inside = images[indices, rows, columns]
        return F.pad(inside, (0, 0, *beyond), value=OUTSIDE) if any(beyond) else inside

    def of_image(self, image: Tensor) -> Tensor:
        """Return the rectangle of one image, (h, w, ...) of (H, W, ...), 0 beyond the edges."""
        (rows, columns), beyond = self._inside(image.shape)
        inside = image[rows, columns]
        return F.pad(inside, (*(0, 0) * (image.dim() - 2), *beyond)) if any(beyond) else inside

    def _inside(self, size: Sequence[int]) -> tuple[tuple[slice, slice], tuple[int, int, int, int]]:
        """Return the part inside an image, and how far the rectangle reaches beyond it: left, right, top, bottom."""
        rows, above, below = _part(self.top, self.bottom, size[0])
        columns, left, right = _part(self.left, self.right, size[1])
        return (rows, columns), (left, right, above, below)

    def overlaps(self, other: Window, slack: int) -> bool:
        """Return whether another window of the same size lies within `slack` pixels."""
        return abs(self.top - other.top) <= slack and abs(self.left - other.left) <= slack


def window_at(row: int, column: int, side: int, size: tuple[int, int]) -> Window:
    """Return the square of a side around a pixel, moved inside an image of a size (and cut to it)."""
    height, width = (min(side, length) for length in size)
    top = min(max(row - height // 2, 0), size[0] - height)
    left = min(max(column - width // 2, 0), size[1] - width)
    return Window(top, top + height, left, left + width)


def window_around(mask: Tensor, margin: int, max_side: int) -> Window:
    """Return the bounding box of a bool (H, W) mask with a margin, at most `max_side` a side.

    A larger box gives way to the square of that side that holds most of the mask.
    """
    (top, bottom), (left, right) = (_span(mask.any(axis), margin, mask.shape[1 - axis]) for axis in (1, 0))
    if bottom - top > max_side or right - left > max_side:
        height, width = (min(max_side, side) for side in mask.shape)
        inside = F.avg_pool2d(mask[None, None].float(), (height, width), stride=1)[0, 0]
        top, left = divmod(int(inside.argmax()), inside.shape[1])
        bottom, right = top + height, left + width
    return Window(top, bottom, left, right)


def _part(low: int, high: int, length: int) -> tuple[slice, int, int]:
    """Return what of a range lies in an axis of a length, and how much of it lies before and after."""
    start = min(max(low, 0), length)
    stop = max(start, min(high, length))
    before = min(max(-low, 0), high - low)
    return slice(start, stop), before, high - low - before - (stop - start)


def _span(is_used: Tensor, margin: int, size: int) -> tuple[int, int]:
    used = is_used.nonzero()
    return max(0, int(used.min()) - margin), min(size, int(used.max()) + 1 + margin)
