"""Small pictures for the HTML page, as data addresses, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vbdguard.formats.trigger_picture import Pixels, TriggerPicture

Box = tuple[int, int, int, int]
"""Top, left, height, width."""

LARGEST = 128
"""Longest side of a picture as it is embedded, in pixels."""
_LOSSLESS = 64
"""Up to this side no pixel is lost: small triggers would be."""
_QUALITY = 82
_LEAST_OUTLINE = 0.07
"""Of the longest side: a box of a few pixels in a large image would be a dot."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page."""

    source: str
    """A data address."""
    width: int
    """Of the frame that `outline` is measured in, not of the embedded pixels."""
    height: int
    alt: str
    caption: str = ""
    outline: Box | None = None


class Budget:
    """Counts down the bytes that pictures may take.

    Args:
        size: how many there are.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Return whether there was room for `size` bytes, which are gone then."""
        if size > self.left:
            return False
        self.left -= size
        return True


def data_address(pixels: Pixels, *, largest: int = LARGEST) -> str:
    """Return an image as a data address: WebP, without loss up to 64 pixels a side.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        largest: longest side to keep; larger images are reduced by area averaging.
    """
    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest > largest:
        size = (max(1, round(image.width * largest / longest)), max(1, round(image.height * largest / longest)))
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS:
        image.save(buffer, "WEBP", lossless=True, exact=True, method=4)
    else:
        image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def pattern_pixels(picture: TriggerPicture, *, is_cropped: bool) -> Pixels:
    """Return a trigger's pattern, uint8 (h, w, 4), transparent outside the mask; in its window or in the full frame."""
    alpha = picture.mask.astype(np.uint8) * 255
    whole = np.dstack([picture.pattern * picture.mask[..., None], alpha])
    pixels: Pixels = whole[picture.window()] if is_cropped else whole
    return np.ascontiguousarray(pixels)


def mask_pixels(picture: TriggerPicture) -> Pixels:
    """Return a trigger's mask, uint8 (H, W), 255 inside."""
    pixels: Pixels = picture.mask.astype(np.uint8) * 255
    return pixels


def is_whole(picture: TriggerPicture) -> bool:
    """Return whether a trigger's box is most of the image, so that it makes no sense to point at it."""
    _, _, height, width = picture.bbox
    return height * width > 0.5 * picture.mask.size


def outline_of(picture: TriggerPicture) -> Box | None:
    """Return the box to point at a trigger with: never too small to be seen, None where it is most of the image."""
    if is_whole(picture):
        return None
    least = max(1, round(max(picture.mask.shape) * _LEAST_OUTLINE))
    top, height = _widened(picture.bbox[0], picture.bbox[2], least, picture.mask.shape[0])
    left, width = _widened(picture.bbox[1], picture.bbox[3], least, picture.mask.shape[1])
    return top, left, height, width


def _widened(start: int, length: int, least: int, limit: int) -> tuple[int, int]:
    """Return the start and length of a stretch of at least `least` around the given one, between 0 and `limit`."""
    wanted = min(max(length, least), limit)
    return min(max(0, start - (wanted - length) // 2), limit - wanted), wanted


def mean_difference(flagged: Pixels, kept: Pixels) -> Pixels:
    """Return how far the mean of the flagged images lies from that of the kept ones, uint8 (H, W).

    Args:
        flagged: uint8 (n, H, W, 3), n >= 1.
        kept: uint8 (m, H, W, 3), m >= 1.

    Returns:
        The root of the mean square over the channels, 255 for the largest.
    """
    difference = flagged.mean(0, dtype=np.float64) - kept.mean(0, dtype=np.float64)
    return _scaled(np.sqrt(np.square(difference).mean(-1)))


def variance_picture(flagged: Pixels) -> Pixels:
    """Return the min-max-scaled variance of each pixel over the flagged images, uint8 (H, W) (paper, Eq. 3).

    Args:
        flagged: uint8 (n, H, W, 3), n >= 2.

    Returns:
        The mean over the channels, 0 where the images agree and 255 where they differ most.
    """
    variance = flagged.var(0, dtype=np.float64)
    low, high = variance.min((0, 1)), variance.max((0, 1))
    return _scaled(((variance - low) / np.maximum(high - low, 1e-12)).mean(-1), largest=1.0)


def _scaled(image: NDArray[np.float64], largest: float | None = None) -> Pixels:
    top = float(image.max()) if largest is None else largest
    pixels: Pixels = np.rint(image / max(top, 1e-12) * 255).astype(np.uint8)
    return pixels
