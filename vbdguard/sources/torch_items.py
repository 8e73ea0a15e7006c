"""What a dataset hands out for one index, turned into uint8 pixels and a class.

Everything is told by duck typing, so that this module loads neither torch nor Pillow: whoever hands
in a tensor or a picture has loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample

IMAGE_NAMES = ("image", "img", "pixel_values")
"""Where a dict item holds its image, the first that is there."""
LABEL_NAMES = ("label", "labels", "target", "cls", "class", "fine_label", "fine_labels")
"""Where a dict item holds its class, the first that is there."""

BAD_LAYOUT = "bad-layout"
BAD_RANGE = "bad-range"
NO_LABEL = "no-label"

_CHANNELS = (1, 3, 4)
_HALF_GREY_LEVEL = 0.5 / 255
"""Resampling may overshoot [0, 1] by this much and still round to a grey level."""
_DIRECT_MODES = ("L", "RGB", "RGBA")


def to_raw_sample(key: str, item: Any) -> RawSample:
    """Return the uint8 pixels and the class of a dataset's item.

    Args:
        key: the sample's key, passed through.
        item: (image, label, ...) as tuple or list, or a mapping with one of `IMAGE_NAMES` and one of
            `LABEL_NAMES`.

    Returns:
        The sample; uint8 pixels (H, W) or (H, W, C), C = 1, 3 or 4.

    Raises:
        ReadError: if the item has another layout ("bad-layout"), its floats are no pixels in [0, 1]
            ("bad-range"), or there is no class in it ("no-label").
    """
    image, label = split_item(item)
    return RawSample(key=key, image=to_pixels(image), label=to_label(label))


def split_item(item: Any) -> tuple[Any, Any]:
    """Return the image and the label of an item, as they stand in it.

    Raises:
        ReadError: if the item is neither a pair nor a mapping with known names.
    """
    if isinstance(item, Mapping):
        return item[_name_in(item, IMAGE_NAMES, "image")], item[label_name(item)]
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    raise ReadError(BAD_LAYOUT, f"expected an item (image, label) or a dict, got {_describe(item)}")


def label_name(item: Mapping[Any, Any]) -> str:
    """Return the name under which a mapping holds its class.

    Raises:
        ReadError: if none of `LABEL_NAMES` is there.
    """
    return _name_in(item, LABEL_NAMES, "label")


def _name_in(item: Mapping[Any, Any], names: Sequence[str], what: str) -> str:
    for name in names:
        if name in item:
            return name
    came = ", ".join(sorted(map(str, item))) or "an empty dict"
    raise ReadError(BAD_LAYOUT, f"expected the {what} under one of {', '.join(names)}, got {came}")


def to_label(label: Any) -> int | str:
    """Return a class as a plain int or str.

    Args:
        label: an int, a str, or a numpy or torch integer with one element.

    Raises:
        ReadError: if it is anything else, or negative, which stands for "unlabelled".
    """
    if isinstance(label, str):
        return label
    plain = _plain_integer(label)
    if plain is None:
        raise ReadError(NO_LABEL, f"expected a class number or a class name, got {_describe(label)}")
    if plain < 0:
        raise ReadError(NO_LABEL, f"expected a class number of 0 or more, got {plain}")
    return plain


def _plain_integer(label: Any) -> int | None:
    if isinstance(label, (int, np.integer)):
        return int(label)
    if isinstance(label, np.ndarray) or is_tensor(label):
        value = label.item() if _element_count(label) == 1 else None
        return int(value) if isinstance(value, int) else None
    return None


def _element_count(array: Any) -> int:
    return int(np.prod(tuple(array.shape), dtype=np.int64))


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """Return an image's pixels as uint8.

    Args:
        image: a Pillow image; or an array or tensor (H, W), (H, W, C) or (C, H, W), C = 1, 3 or 4,
            uint8, or floats in [0, 1], which become round(255 x).

    Returns:
        uint8 (H, W) or (H, W, C).

    Raises:
        ReadError: if shape or type are others ("bad-layout") or floats leave [0, 1] ("bad-range").
    """
    if _is_picture(image):
        return _pixels_of_picture(image)
    if is_tensor(image):
        return _quantised(_channels_last(_array_of_tensor(image), prefers_channels_first=True))
    if isinstance(image, np.ndarray):
        return _quantised(_channels_last(image, prefers_channels_first=False))
    raise ReadError(BAD_LAYOUT, f"expected a Pillow image, an array or a tensor, got {_describe(image)}")


def is_tensor(value: Any) -> bool:
    """Return whether `value` is a torch tensor, without loading torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_picture(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _array_of_tensor(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # numpy knows no bfloat16.
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _pixels_of_picture(picture: Any) -> NDArray[np.uint8]:
    """Return a Pillow image's pixels; 16 bits by their high byte, alpha kept (`vbdguard.ingest.decode` drops it)."""
    if picture.mode.startswith("I;16"):
        return (np.asarray(picture, dtype=np.uint16) >> 8).astype(np.uint8)
    if picture.mode in ("I", "F"):
        raise ReadError(BAD_LAYOUT, f"expected 8 or 16 bits a pixel, got a Pillow image of mode {picture.mode!r}")
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in _DIRECT_MODES:
        picture = picture.convert("RGB")
    # A copy: an image opened from a file shares nothing, one made from a user's buffer might.
    return _with_area(np.array(picture, dtype=np.uint8))


def _channels_last(array: NDArray[Any], *, prefers_channels_first: bool) -> NDArray[Any]:
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if first and (prefers_channels_first or not last):
            return array.transpose(1, 2, 0)
        if last:
            return array
    raise ReadError(
        BAD_LAYOUT, f"expected an image (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got {_describe(array)}"
    )


def _quantised(array: NDArray[Any]) -> NDArray[np.uint8]:
    _with_area(array)
    if array.dtype == np.uint8:
        return np.array(array, dtype=np.uint8, order="C")
    if not np.issubdtype(array.dtype, np.floating):
        raise ReadError(BAD_LAYOUT, f"expected uint8 or floats in [0, 1], got {_describe(array)}")
    low, high = float(array.min()), float(array.max())
    # Written so that NaN fails as well.
    if not (low >= -_HALF_GREY_LEVEL and high <= 1 + _HALF_GREY_LEVEL):
        raise ReadError(BAD_RANGE, f"expected floats in [0, 1], got values from {low:.4g} to {high:.4g}")
    return np.ascontiguousarray(np.rint(array.clip(0, 1) * 255).astype(np.uint8))


def _with_area(array: NDArray[Any]) -> NDArray[Any]:
    if 0 in array.shape:
        raise ReadError(BAD_LAYOUT, f"expected at least one pixel, got {_describe(array)}")
    return array


def _describe(value: Any) -> str:
    kind = type(value).__name__
    if shape := getattr(value, "shape", None):
        return f"{kind} of shape {tuple(shape)} and type {getattr(value, 'dtype', 'unknown')}"
    if isinstance(value, (tuple, list, Mapping)):
        return f"{kind} of {len(value)}"
    return kind
