"""Rectangles of the image that stages 3 and 5 of preset `default` look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the image, in pixels; what lies beyond the border is the image mirrored there."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def moved(self, down: int, right: int) -> Window:
        """Return the same rectangle so many pixels further down and right."""
        return Window(self.top + down, self.bottom + down, self.left + right, self.right + right)

    def cut(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the rectangle of some images, (n, h, w, C) of (N, H, W, C)."""
        if self._is_inside(images.shape[1:3]):
            return images[indices, self.top : self.bottom, self.left : self.right]
        rows, columns = self._mirrored(images.shape[1:3], images.device)
        return images[indices[:, None, None], rows[:, None], columns]

    def of_image(self, image: Tensor) -> Tensor:
        """Return the rectangle of one image, (h, w, ...) of (H, W, ...)."""
        if self._is_inside(image.shape[:2]):
            return image[self.top : self.bottom, self.left : self.right]
        rows, columns = self._mirrored(image.shape[:2], image.device)
        return image[rows[:, None], columns]

    def _is_inside(self, size: Sequence[int]) -> bool:
        return min(self.top, self.left) >= 0 and self.bottom <= size[0] and self.right <= size[1]

    def _mirrored(self, size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return rows and columns of an image of a size; the border itself is not repeated."""
        spans = ((self.top, self.bottom, size[0]), (self.left, self.right, size[1]))
        rows, columns = (torch.arange(low, high, device=device).abs() for low, high, _ in spans)
        return torch.minimum(rows, 2 * (size[0] - 1) - rows), torch.minimum(columns, 2 * (size[1] - 1) - columns)

    def overlaps(self, other: Window, slack: int) -> bool:
        """Return whether another window of the same size lies within `slack` pixels."""
        return abs(self.top - other.top) <= slack and abs(self.left - other.left) <= slack


def window_at(row: int, column: int, side: int, size: tuple[int, int]) -> Window:
    """Return the square of a side around a pixel, moved inside an image of a size (and cut to it)."""
    height, width = (min(side, length) for length in size)
    top = min(max(row - height // 2, 0), size[0] - height)
    left = min(max(column - width // 2, 0), size[1] - width)
    return Window(top, top + height, left, left + width)


def window_around(mask: Tensor, margin: int, max_side: int, *, beyond: bool = False) -> Window:
    """Return the bounding box of a bool (H, W) mask with a margin, at most `max_side` a side.

    A larger box gives way to the square of that side that holds most of the mask.

    Args:
        mask: what it is to hold.
        margin: pixels on each side.
        max_side: pixels.
        beyond: whether the margin is as wide where it reaches beyond the border.
    """
    whole = [_box(mask, axis, margin) for axis in (1, 0)]
    spans = [(max(0, low), min(size, high)) for (low, high), size in zip(whole, mask.shape, strict=True)]
    if beyond and all(high - low <= min(max_side, size) for (low, high), size in zip(whole, mask.shape, strict=True)):
        spans = whole
    (top, bottom), (left, right) = spans
    if bottom - top > max_side or right - left > max_side:
        height, width = (min(max_side, side) for side in mask.shape)
        inside = F.avg_pool2d(mask[None, None].float(), (height, width), stride=1)[0, 0]
        top, left = divmod(int(inside.argmax()), inside.shape[1])
        bottom, right = top + height, left + width
    return Window(top, bottom, left, right)


def _box(mask: Tensor, axis: int, margin: int) -> tuple[int, int]:
    used = mask.any(axis).nonzero()
    return int(used.min()) - margin, int(used.max()) + 1 + margin
