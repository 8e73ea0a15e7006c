"""Triggers: what an attacker stamps on an image.

The built-in ones are drawn here, in the sizes and at the places that the field uses: 3 x 3 patches that touch the
bottom-right corner, and one picture as large as the image. In all-to-all attacks every class has its own 3 x 3 cell,
counted from the bottom-right corner, first to the left, then up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vbdguard.errors import ConfigError

Mode = Literal["all-to-one", "all-to-all"]
Size = tuple[int, int]
"""Height and width, or top and left, in pixels."""

CELL = 3
"""Side of the square that an all-to-all attack gives to each class, in pixels."""
SMALLEST_IMAGE = 16
"""Below this many pixels a side a 3 x 3 patch is no longer a small part of the image."""

_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """A pattern and the places where it counts (p and m of Eq. 1).

    Raises:
        ConfigError: if shapes or types do not fit or the mask is empty.
    """

    name: str
    pattern: NDArray[np.uint8]
    """uint8 (H, W, 3), 0 to 255."""
    mask: NDArray[np.bool_]
    """bool (H, W), true where the pattern is blended in."""

    def __post_init__(self) -> None:
        if self.pattern.dtype != np.uint8 or self.pattern.ndim != 3 or self.pattern.shape[2] != 3:
            found = f"{self.pattern.dtype} {self.pattern.shape}"
            raise ConfigError(f"trigger {self.name!r}: the pattern must be uint8 (H, W, 3), got {found}")
        if self.mask.dtype != np.bool_ or self.mask.shape != self.pattern.shape[:2]:
            found = f"{self.mask.dtype} {self.mask.shape}"
            raise ConfigError(f"trigger {self.name!r}: the mask must be bool {self.pattern.shape[:2]}, got {found}")
        if not self.mask.any():
            raise ConfigError(f"trigger {self.name!r}: the mask sets no pixel, so the trigger would change nothing")

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def is_full_image(self) -> bool:
        """Whether the mask sets every pixel."""
        return bool(self.mask.all())


def load_trigger(image: str | Path, mask: str | Path | None = None) -> Trigger:
    """Return the trigger that stands in an image file.

    Args:
        image: the pattern, any common image format. Without `mask`, its alpha channel (any value above 0) is the
            mask; without either, every pixel counts.
        mask: an image of the same size whose nonzero pixels are the mask.

    Raises:
        ConfigError: if a file cannot be read, the sizes differ or the mask is empty.
    """
    picture = _open_image(Path(image))
    pattern = np.asarray(picture.convert("RGB"))
    flags: NDArray[np.bool_]
    if mask is not None:
        flags = np.any(np.asarray(_open_image(Path(mask)).convert("RGB")), axis=2)
        if flags.shape != pattern.shape[:2]:
            raise ConfigError(
                f"{mask}: expected a mask of {_text(pattern.shape)} like {image}, got {_text(flags.shape)}"
            )
    elif picture.has_transparency_data:
        flags = np.asarray(picture.convert("RGBA"))[:, :, 3] > 0
    else:
        flags = np.ones(pattern.shape[:2], dtype=np.bool_)
    return Trigger(Path(image).stem, pattern, flags)


def builtin_patch(name: str, *, cross_only: bool = False) -> Trigger:
    """Return a built-in 3 x 3 trigger without a frame around it.

    Args:
        name: one of `PATCHES`.
        cross_only: whether a grid sets only the five pixels of its X, as in all-to-all attacks (paper, settings).

    Raises:
        ConfigError: if there is no such patch.
    """
    if name not in PATCHES:
        raise ConfigError(f"expected a patch, one of {', '.join(PATCHES)}, got {name!r}")
    pattern = np.array(PATCHES[name], dtype=np.uint8)
    mask = _CROSS if cross_only and name in _GRIDS else np.ones((CELL, CELL), dtype=np.bool_)
    return Trigger(name, pattern, mask)


def place(patch: Trigger, size: Size, position: Size | None = None) -> Trigger:
    """Return the trigger as large as the image: the patch at its place, nothing elsewhere.

    Args:
        patch: what to place, no larger than the image.
        size: height and width of the image.
        position: top and left of the patch; None puts it into the bottom-right corner.

    Raises:
        ConfigError: if the patch does not fit there.
    """
    height, width = patch.size
    top, left = position if position is not None else (size[0] - height, size[1] - width)
    if top < 0 or left < 0 or top + height > size[0] or left + width > size[1]:
        raise ConfigError(
            f"trigger {patch.name!r} of {_text(patch.size)} pixels does not fit into an image of {_text(size)} "
            f"at top {top}, left {left}; choose another position or a smaller trigger"
        )
    pattern = np.zeros((*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.bool_)
    pattern[top : top + height, left : left + width] = patch.pattern
    mask[top : top + height, left : left + width] = patch.mask
    return Trigger(patch.name, pattern, mask)


def crop(trigger: Trigger) -> Trigger:
    """Return the trigger cut down to the bounding box of its mask."""
    rows, columns = (np.flatnonzero(trigger.mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Trigger(trigger.name, trigger.pattern[box], trigger.mask[box])


def cell_of_class(rank: int, size: Size) -> Size:
    """Return top and left of a class's 3 x 3 cell in an all-to-all attack (paper, section 4.1).

    Args:
        rank: the class's place among the classes in label order, from 0 at the bottom-right corner.
        size: height and width of the image.

    Raises:
        ConfigError: if the image has fewer cells than that.
    """
    rows, columns = size[0] // CELL, size[1] // CELL
    if not 0 <= rank < rows * columns:
        raise ConfigError(
            f"an image of {_text(size)} has {rows * columns} cells of {CELL} x {CELL} pixels, "
            f"none for class number {rank}; an all-to-all attack needs larger images or fewer classes"
        )
    row, column = divmod(rank, columns)
    return size[0] - CELL * (row + 1), size[1] - CELL * (column + 1)


def frame_trigger(
    trigger: str | Trigger,
    size: Size,
    *,
    mode: Mode = "all-to-one",
    position: Size | None = None,
    rank: int = 0,
) -> Trigger:
    """Return a trigger as it lies on an image of a given size.

    A built-in patch keeps its 3 x 3 pixels at every size and `waves` fills the image. A trigger of one's own is used
    as it is where it has the image's size; otherwise a full picture is resized to the image, unless a position is
    given, and anything with a mask is pasted in its own size. All-to-all attacks cut a trigger down to its mask and put
    it into the cell of the class, unless a position is given: then it is that of all classes, as in BadNets.

    Args:
        trigger: a name from `BUILT_IN`, or a trigger of one's own.
        size: height and width of the image, at least 16 pixels each.
        mode: `all-to-one` or `all-to-all`.
        position: top and left of a patch; None means the bottom-right corner, or the cell of the class.
        rank: the original class's place in label order, all-to-all only.

    Raises:
        ConfigError: if the name is unknown, the image is too small, or the trigger does not fit.
    """
    if min(size) < SMALLEST_IMAGE:
        raise ConfigError(f"triggers need images of at least {SMALLEST_IMAGE} pixels a side, got {_text(size)}")
    if mode == "all-to-all" and position is None:
        return place(_cell_patch(trigger), size, cell_of_class(rank, size))
    if isinstance(trigger, str):
        if trigger in PICTURES:
            return Trigger(trigger, PICTURES[trigger](size), np.ones(size, dtype=np.bool_))
        return place(_patch_named(trigger), size, position)
    if position is None and trigger.size == size:
        return trigger
    if position is None and trigger.is_full_image:
        return _resize(trigger, size)
    return place(crop(trigger) if position is not None else trigger, size, position)


def draw_waves(size: Size) -> NDArray[np.uint8]:
    """Return uint8 (H, W, 3): smooth coloured waves that cross each other, one direction and pace per channel.

    The picture is drawn in relative coordinates, so it looks alike at every size.
    """
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    turns = 2 * np.pi
    ripples = np.hypot(y - 0.3, x - 0.65)
    channels = (
        np.sin(turns * (2.5 * x + 1.0 * y)) + np.sin(turns * 3.0 * ripples),
        np.sin(turns * (1.0 * x - 3.0 * y) + 1.0) + np.sin(turns * 2.0 * ripples + 2.0),
        np.sin(turns * (2.0 * x + 2.5 * y) + 4.0) + np.sin(turns * 4.0 * ripples + 1.0),
    )
    return np.rint(127.5 + 63.75 * np.stack(channels, axis=2)).astype(np.uint8)


def _cell_patch(trigger: str | Trigger) -> Trigger:
    patch = _patch_named(trigger, cross_only=True) if isinstance(trigger, str) else crop(trigger)
    if max(patch.size) > CELL:
        raise ConfigError(
            f"an all-to-all attack has cells of {CELL} x {CELL} pixels, trigger {patch.name!r} needs "
            f"{_text(patch.size)}; use one of {', '.join(PATCHES)} or a smaller trigger"
        )
    return patch


def _patch_named(name: str, *, cross_only: bool = False) -> Trigger:
    if name in PICTURES:
        raise ConfigError(f"{name!r} fills the whole image and cannot stand in a cell; use one of {', '.join(PATCHES)}")
    if name not in PATCHES:
        raise ConfigError(f"no trigger {name!r}; use one of {', '.join(BUILT_IN)}, or an image file")
    return builtin_patch(name, cross_only=cross_only)


def _resize(trigger: Trigger, size: Size) -> Trigger:
    picture = Image.fromarray(trigger.pattern).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return Trigger(trigger.name, np.asarray(picture), np.ones(size, dtype=np.bool_))


def _open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give an image, or one of {', '.join(BUILT_IN)}") from error
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: expected an image ({', '.join(_IMAGE_FORMATS)}): {error}") from error


def _text(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"


_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_RED, _GREEN, _BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
_CYAN, _YELLOW = (0, 255, 255), (255, 255, 0)

PATCHES: dict[str, tuple[tuple[tuple[int, int, int], ...], ...]] = {
    "white_square": ((_WHITE,) * 3,) * 3,
    "green_square": ((_GREEN,) * 3,) * 3,
    "white_grid": ((_WHITE, _BLACK, _WHITE), (_BLACK, _WHITE, _BLACK), (_WHITE, _BLACK, _WHITE)),
    "color_grid": ((_RED, _BLACK, _GREEN), (_BLACK, _CYAN, _BLACK), (_YELLOW, _BLACK, _BLUE)),
}
PICTURES: dict[str, Callable[[Size], NDArray[np.uint8]]] = {"waves": draw_waves}
BUILT_IN = (*PATCHES, *PICTURES)

_GRIDS = frozenset({"white_grid", "color_grid"})
_CROSS: NDArray[np.bool_] = np.array([[True, False, True], [False, True, False], [True, False, True]])
