"""Matched filters for a trigger at all places of an image, for a detector that is asked about all at once.

How windows vary hangs on where they lie, from one pixel to the next: images that were stored as JPEG keep the grid of
its blocks, scaled ones that of the pixels that they had. A filter made for one place tells the same faint trigger half
as well a few pixels further, so each place gets a filter of its own, as far as that can be afforded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import PIXEL_NOISE, at_once
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.window import Window

_MOST_PLACES = 4096
"""Places up to which each has a filter of its own."""
_ROWS = 8
"""Rows of places that are worked on together."""
_AT_ONCE = 16
"""Covariances that are held together."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where windows of one size may lie, one pixel apart."""

    first: Window
    """The one furthest up and left."""
    rows: int
    columns: int

    @property
    def around(self) -> Window:
        """All that some window sees."""
        first = self.first
        return Window(first.top, first.bottom + self.rows - 1, first.left, first.right + self.columns - 1)

    def window(self, row: int, column: int) -> Window:
        """Return the window at a place."""
        return self.first.moved(row, column)


@dataclass(frozen=True, slots=True)
class PlaceFilters:
    """A linear score for the window at each place."""

    kernels: Tensor
    """float32 (R, S, h, w, C), or (1, 1, h, w, C): the same at all places."""
    bands: Tensor | None
    """float32 (R, h * (S + w - 1) * C, S): the filters of a row, each where its window lies in the row's strip."""

    @classmethod
    def same(cls, kernel: Tensor) -> PlaceFilters:
        """Return the same filter, float32 (h, w, C), for all places."""
        return cls(kernel[None, None], None)

    @classmethod
    def own(cls, kernels: Tensor) -> PlaceFilters:
        """Return a filter for each place, float32 (R, S, h, w, C)."""
        rows, columns, height, width, channels = kernels.shape
        bands = kernels.new_zeros(rows, height, columns + width - 1, channels, columns)
        for column in range(columns):
            bands[:, :, column : column + width, :, column] = kernels[:, column]
        return cls(kernels, bands.flatten(1, 3))

    @property
    def lengths(self) -> Tensor:
        """Euclidean length of the filters, float32 (R, S) or (1, 1)."""
        lengths: Tensor = torch.linalg.vector_norm(self.kernels, dim=(2, 3, 4))
        return lengths

    def weights(self, row: int, column: int) -> Tensor:
        """Return the filter at a place, float32 (h * w * C,), up to a factor."""
        rows, columns = self.kernels.shape[:2]
        return self.kernels[row % rows, column % columns].flatten()

    def scores(self, around: Tensor) -> Tensor:
        """Return what they answer, float32 (n, R, S), to all that some window sees, uint8 (n, R+h-1, S+w-1, C)."""
        x = around.float()
        if self.bands is None:
            return F.conv2d(x.permute(0, 3, 1, 2), self.kernels[0].permute(0, 3, 1, 2).contiguous())[:, 0]
        height = self.kernels.shape[2]
        strips = (x[:, row : row + height].flatten(1) @ band for row, band in enumerate(self.bands))
        return torch.stack(list(strips), dim=1)


def filters_for(
    planted: PlantedTrigger, places: Places, images: Tensor, varied: Tensor, elsewhere: Tensor
) -> PlaceFilters:
    """Return the filters that tell a trigger from what is usual at each place.

    Args:
        planted: the trigger, with its box at the very top left; what it does to the mean is looked for.
        places: at the first of which the trigger lies so.
        images: uint8 (N, H, W, C).
        varied: int64 (n,), those that say how windows vary; a few thousand are needed.
        elsewhere: float32 (h, w, C), a filter for some place, which must do if there are too many.
    """
    if places.rows * places.columns > _MOST_PLACES:
        return PlaceFilters.same(elsewhere)
    mean = _mean(images, varied)

    def of_rows(rows: range) -> Tensor:
        return torch.stack(
            [
                _matched(planted, places, row, mean, covariances)
                for row, covariances in zip(rows, _covariances(images, varied, places, rows), strict=True)
            ]
        )

    blocks = [range(row, min(row + _ROWS, places.rows)) for row in range(0, places.rows, _ROWS)]
    return PlaceFilters.own(torch.cat(side_by_side(of_rows, blocks, device=images.device)))


def _mean(images: Tensor, chosen: Tensor) -> Tensor:
    sums = [
        images[chunk].sum(0, dtype=torch.float64) for chunk in chosen.split(at_once((images.shape[1], images.shape[2])))
    ]
    return (torch.stack(sums).sum(0) / len(chosen)).float()


def _covariances(images: Tensor, varied: Tensor, places: Places, rows: range) -> Iterator[Tensor]:
    """Yield for each row of places how its strip varies, float32 (h, W, C, h, W, C); the next one replaces it."""
    around = places.around
    height, width = places.first.size[0], around.size[1]
    strip = Window(places.first.top + rows.start, places.first.bottom + rows.stop - 1, around.left, around.right)
    x = strip.cut(images, varied).float()
    lines = (x - x.mean(0)).flatten(2).transpose(0, 1)  # (rows + h - 1, n, W * C)
    varies = lines.new_zeros(height, lines.shape[2], height, lines.shape[2])
    for line in range(len(lines)):
        # The strip moves down by one line; only what the new one has to do with the others is not known yet.
        varies[:-1, :, :-1] = varies[1:, :, 1:].clone()
        known = lines[max(0, line + 1 - height) : line + 1]
        new = torch.einsum("na,lnb->alb", lines[line], known) / len(varied)
        varies[-1, :, height - len(known) :] = new
        varies[height - len(known) :, :, -1] = new.permute(1, 2, 0)
        if line >= height - 1:
            yield varies.view(height, width, -1, height, width, x.shape[3])


def _matched(planted: PlantedTrigger, places: Places, row: int, mean: Tensor, varies: Tensor) -> Tensor:
    """Return the filters of a row of places, float32 (S, h, w, C): inverse covariance times what the trigger does."""
    width, found = places.first.size[1], []
    for columns in torch.arange(places.columns).split(_AT_ONCE):
        covariance = torch.stack([varies[:, s : s + width, :, :, s : s + width] for s in columns.tolist()])
        flat = covariance.flatten(4).flatten(1, 3)
        flat.diagonal(dim1=1, dim2=2).add_(PIXEL_NOISE)
        shifts = torch.stack([_shift(planted, places, row, s, mean) for s in columns.tolist()])
        solved = torch.cholesky_solve(shifts.flatten(1)[..., None], torch.linalg.cholesky(flat))
        found.append(solved.view_as(shifts))
    return torch.cat(found)


def _shift(planted: PlantedTrigger, places: Places, row: int, column: int, mean: Tensor) -> Tensor:
    moved = PlantedTrigger(planted.trigger.moved(row, column), planted.blend_factor)
    return places.window(row, column).of_image(moved.shift(mean.permute(2, 0, 1)).permute(1, 2, 0))
