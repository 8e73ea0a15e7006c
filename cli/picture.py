"""Draw a trigger in the terminal: half blocks where there is colour, letters where there is none."""

from __future__ import annotations

import numpy as np
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

from vbdguard.formats.trigger_picture import Mask, Pixels, TriggerPicture

_CHECKER = np.array([[44, 44, 48], [58, 58, 64]], dtype=np.uint8)
"""The two greys that stand for "not part of the trigger"."""
_FRAME = np.array([72, 72, 80], dtype=np.uint8)
_PLACE = np.array([255, 95, 95], dtype=np.uint8)


def draw_trigger(picture: TriggerPicture, side: int) -> Text:
    """Return the trigger, cut out with a margin and fitted into `side` columns by `side / 2` rows.

    Small triggers are enlarged by a whole factor; what does not belong to the trigger is a dim checkerboard.
    """
    rows, columns = picture.window()
    pattern, mask = _fit(picture.pattern[rows, columns], picture.mask[rows, columns], side)
    y, x = np.indices(mask.shape)
    cell = max(1, min(_zoom(picture, side), 2))
    checker = _CHECKER[(y // cell + x // cell) % 2]
    return half_blocks(np.where(mask[..., None], pattern, checker))


def draw_place(picture: TriggerPicture, side: int) -> Text:
    """Return a map of the full frame, at most `side` columns wide, with the trigger's box in colour."""
    height, width = picture.mask.shape
    scale = side / max(height, width)
    frame = np.tile(_FRAME, (max(2, round(height * scale)), max(2, round(width * scale)), 1))
    top, left, box_height, box_width = (round(value * scale) for value in picture.bbox)
    top, left = min(top, frame.shape[0] - 1), min(left, frame.shape[1] - 1)
    frame[top : top + max(1, box_height), left : left + max(1, box_width)] = _PLACE
    return half_blocks(frame)


def draw_letters(picture: TriggerPicture, side: int) -> Text:
    """Return the trigger's mask as `#` and `.`, two letters a pixel, at most `2 * side` columns wide."""
    rows, columns = picture.window()
    pattern, mask = picture.pattern[rows, columns], picture.mask[rows, columns]
    if max(mask.shape) > side:
        _, mask = _fit(pattern, mask, side)
    return Text("\n".join("".join("##" if inside else ".." for inside in row) for row in mask))


def half_blocks(pixels: Pixels) -> Text:
    """Return an image as text, two pixels a letter: the upper half block in one colour on another.

    Args:
        pixels: uint8 (H, W, 3).
    """
    lines = []
    for y in range(0, len(pixels), 2):
        line = Text()
        upper, lower = pixels[y], pixels[y + 1] if y + 1 < len(pixels) else None
        for x in range(len(upper)):
            line.append("▀", Style(color=_color(upper[x]), bgcolor=None if lower is None else _color(lower[x])))
        lines.append(line)
    return Text("\n", no_wrap=True).join(lines)


def _color(pixel: Pixels) -> Color:
    red, green, blue = (int(value) for value in pixel)
    return Color.from_rgb(red, green, blue)


def _zoom(picture: TriggerPicture, side: int) -> int:
    rows, columns = picture.window()
    return side // int(max(picture.mask[rows, columns].shape))


def _fit(pattern: Pixels, mask: Mask, side: int) -> tuple[Pixels, Mask]:
    """Enlarge by a whole factor, or reduce by area averaging, so that the longest side is at most `side`."""
    longest = max(mask.shape)
    if longest <= side:
        factor = side // longest
        return pattern.repeat(factor, 0).repeat(factor, 1), mask.repeat(factor, 0).repeat(factor, 1)
    height, width = (max(1, round(value * side / longest)) for value in mask.shape)
    rgba = np.dstack([pattern, mask.astype(np.uint8) * 255])
    small = np.asarray(Image.fromarray(rgba, "RGBA").resize((width, height), Image.Resampling.BOX))
    return small[..., :3], small[..., 3] > 85
