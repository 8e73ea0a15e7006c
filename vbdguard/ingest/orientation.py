"""EXIF orientation, applied where the reader that trains applies it.

Hugging Face `datasets` turns an image by its EXIF (or XMP) orientation when it decodes it; torchvision's loaders, timm
and webdataset's `decode("pil")` show the pixels as they are stored. What a scan should see is therefore a property of
the source (`vbdguard.sources.base.exif_rule`). Otherwise a trigger could be stored in four corners and trained in one.
TIFF is an exception that needs no rule: Pillow itself turns it, for everybody.
"""

from __future__ import annotations

from PIL import Image, ImageOps
from PIL.ExifTags import Base

from vbdguard.sources.base import ExifRule

_UPRIGHT = (None, 1)
_SWAPPING = (5, 6, 7, 8)
"""Orientations that make width of height."""


class Turner:
    """Turns images as `datasets` does, and counts those that it turned."""

    def __init__(self) -> None:
        self.turned = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image upright.

        Raises:
            Exception: whatever Pillow makes of broken EXIF data; `datasets` fails on them alike.
        """
        image.load()  # of a PNG, orientation may stand behind the pixels
        if image.getexif().get(Base.Orientation) in _UPRIGHT:
            return image
        self.turned += 1
        return ImageOps.exif_transpose(image)


def make_turner(rule: ExifRule) -> Turner | None:
    """Return what turns images by a rule; None where it shows them as they are stored."""
    return Turner() if rule == "turned" else None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width in pixels as they are once the image is upright; a PNG is decoded for it."""
    swaps = image.getexif().get(Base.Orientation) in _SWAPPING
    # Of a TIFF, Pillow has swapped them already.
    return (image.width, image.height) if swaps and image.format != "TIFF" else (image.height, image.width)
