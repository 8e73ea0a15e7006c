"""A trigger as samples show it: where, what, and how opaque (paper, Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.trigger import TriggerCandidate

_SAME_PIXELS, _SAME_BLEND, _SAME_LEVELS = 0.95, 0.15, 20.0
"""Share of pixels, part of the blend factor and grey levels up to which two readings of a trigger count as one: well
within what a detector is trained to bear. One stray pixel among ten of a faint trigger halves what it explains."""
CLEAR_PARTS = 0.35, 0.5
"""Parts of the strongest pixel's shift from which on a pixel is taken for the trigger's, to see what explains most."""
_LEAST_ROOM = 5.0
"""Grey levels that are left to a pattern at least, where the background is black or white."""


@dataclass(frozen=True, slots=True)
class PlantedTrigger:
    """A trigger as the samples that seem to carry it show it.

    Raises:
        ValueError: if the blend factor is out of range.
    """

    trigger: TriggerCandidate
    blend_factor: float
    """In (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.blend_factor <= 1:
            raise ValueError(f"blend_factor must be above 0 and at most 1, got {self.blend_factor}")

    def shift(self, background: Tensor) -> Tensor:
        """Return how far it moves the mean of its carriers, float (C, H, W), 0 outside its mask.

        Args:
            background: float (C, H, W), mean of the images that it was pasted on.
        """
        return self.blend_factor * (self.trigger.pattern - background) * self.trigger.mask

    def clearer(self, background: Tensor, part: float) -> PlantedTrigger:
        """Return it without pixels that move the mean of its carriers less than a part of the strongest does.

        Args:
            background: float (C, H, W), mean of the images that it was pasted on.
            part: in [0, 1).
        """
        strength = self.shift(background).norm(dim=0)
        mask = self.trigger.mask & (strength > part * strength.max())
        if not mask.any():  # nothing is darker than a black background
            return self
        return replace(self, trigger=TriggerCandidate(mask, self.trigger.pattern * mask))

    def shows_the_same_as(self, other: PlantedTrigger) -> bool:
        """Return whether a detector of the one would learn nothing new from the other."""
        mine, theirs = self.trigger.mask, other.trigger.mask
        both = mine & theirs
        if int(both.sum()) < _SAME_PIXELS * int((mine | theirs).sum()):
            return False
        change = (self.trigger.pattern - other.trigger.pattern)[:, both].abs().mean()
        slack = _SAME_BLEND * max(self.blend_factor, other.blend_factor)
        return abs(self.blend_factor - other.blend_factor) <= slack and float(change) <= _SAME_LEVELS


def lowest_blend_factor(shift: NDArray[np.floating], background: NDArray[np.floating]) -> float:
    """Return the lowest blend factor that a shift can have; above 1 where no pattern can move the mean so far.

    No pattern is darker than 0 or brighter than 255, so the mean cannot move further than a (255 - mean) or a mean.

    Args:
        shift: of the trigger's pixels, grey levels.
        background: of the same shape, mean of the images that it was pasted on, 0 to 255.
    """
    up, down = np.maximum(255 - background, _LEAST_ROOM), np.maximum(background, _LEAST_ROOM)
    return float(np.maximum(shift / up, -shift / down).max())
