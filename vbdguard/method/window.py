"""Rectangles of the image that stages 3 and 5 of preset `default` look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the image, in pixels."""

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
        return images[indices, self.top : self.bottom, self.left : self.right]

    def of_image(self, image: Tensor) -> Tensor:
        """Return the rectangle of one image, (h, w, C) of (H, W, C)."""
        return image[self.top : self.bottom, self.left : self.right]

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


def _span(is_used: Tensor, margin: int, size: int) -> tuple[int, int]:
    used = is_used.nonzero()
    return max(0, int(used.min()) - margin), min(size, int(used.max()) + 1 + margin)
