"""A trigger's pictures, decoded from a report: for the terminal and for the HTML page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vbdguard.report import TriggerReport

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_MAX_SIDE = 4096


@dataclass(frozen=True, slots=True)
class TriggerPicture:
    """A trigger's pixels in its full frame."""

    pattern: Pixels
    """(H, W, 3)."""
    mask: Mask
    """(H, W)."""
    bbox: tuple[int, int, int, int]
    """Top, left, height, width, inside the frame."""

    @classmethod
    def of(cls, trigger: TriggerReport) -> TriggerPicture:
        """Decode the pictures of a report's trigger.

        Raises:
            ValueError: if they are no PNG pictures of one size, or the box lies outside them.
        """
        pattern = np.asarray(open_png(trigger.pattern_png).convert("RGB"))
        mask = np.asarray(open_png(trigger.mask_png).convert("L")) > 127
        top, left, height, width = trigger.bbox
        if pattern.shape[:2] != mask.shape or top + height > mask.shape[0] or left + width > mask.shape[1]:
            raise ValueError(
                f"pattern {pattern.shape[:2]}, mask {mask.shape} and box {trigger.bbox} do not fit together"
            )
        return cls(pattern, mask, trigger.bbox)

    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the trigger's box with a margin of about a tenth, one pixel at least."""
        top, left, height, width = self.bbox
        margin = max(1, round(max(height, width) / 10))
        return slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)


def open_png(text: str) -> Image.Image:
    """Return a report's base64 PNG, loaded.

    Raises:
        ValueError: if it is none, or is larger than any report's.
    """
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",))
        if max(image.size) > _MAX_SIDE:
            raise ValueError(f"expected at most {_MAX_SIDE} pixels a side, got {image.size}")
        image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises SyntaxError on bad chunks
        raise ValueError(f"expected a PNG picture: {error}") from error
    return image
