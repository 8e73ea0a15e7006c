"""Synthetic shards of any size, made on the spot: what a scan costs does not depend on what the pictures show.

Each image is a random piece of a large field of noise whose amplitude falls as 1 / frequency, as that of photographs
does; as JPEG of quality 90 it costs about as much to decode as a photograph of its size. Each class has a field of its
own, which runs in another direction in other colours: a texture, which a model has to work for, so that the trigger is
the easier thing to learn. The trigger is a white square that grows with the image. With one poisoned class the attack
is all-to-one on a tenth of all samples; with P of them it is all-to-all, of which only the first P classes' samples
are drawn, a tenth of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import CELL, Trigger, builtin_patch, cell_of_class, place
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import encode_image, write_shards

RATIO = 0.1
_JPEG_QUALITY = 90
_FIELD_SIDE = 256
_CHUNK_VALUES = 1 << 23
_MEAN, _BRIGHTNESS, _CONTRAST = 118.0, 25.0, 45.0
"""Grey levels: of all photographs, the deviation from one to the next, and that within one."""
_STRETCH = 2.5
"""How much longer the waves of a class are along its direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How large a data set is."""

    samples: int
    classes: int
    poisoned: int
    """Poisoned classes, 0 to `classes`."""
    side: int
    """Height and width of the images in pixels, at least 16."""

    def __post_init__(self) -> None:
        if not 0 <= self.poisoned <= self.classes or self.classes < 2:
            raise ValueError(
                f"expected 2 classes or more and 0 to as many poisoned ones, got {self.classes} and {self.poisoned}"
            )
        if self.samples < 2 * self.classes or self.side < 16:
            raise ValueError(
                f"expected 2 samples a class and 16 pixels a side, got {self.samples} samples of {self.classes} "
                f"classes and {self.side} pixels"
            )

    @property
    def name(self) -> str:
        """What tells it from other points."""
        return f"{self.samples} samples, {self.classes} classes, {self.poisoned} poisoned, {self.side} pixels"


def write_point(point: Point, folder: Path, *, seed: int = 0, per_shard: int = 5000) -> int:
    """Write a data set as WebDataset shards into a new folder and return their bytes.

    Args:
        point: its size.
        folder: where; memory holds a few thousand images at a time.
        seed: of everything random.
        per_shard: samples in a shard.

    Raises:
        ConfigError: if the images have no room for a trigger of each poisoned class.
    """
    return sum(path.stat().st_size for path in write_shards(draw(point, seed), folder, per_shard=per_shard).shards)


def draw(point: Point, seed: int) -> Iterator[RawSample]:
    """Yield the samples of a data set as JPEG files with class numbers."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(point.samples) % point.classes)
    is_poisoned = _drawn_for_poison(labels, point, rng)
    side = max(_FIELD_SIDE, point.side)
    fields = np.stack([_noise(side, np.pi * label / point.classes, rng) for label in range(point.classes)])
    triggers = [_trigger(rank, point) for rank in range(point.poisoned)]
    chunk = max(1, _CHUNK_VALUES // (3 * point.side**2))
    for start in range(0, point.samples, chunk):
        part = slice(start, min(start + chunk, point.samples))
        images = _photographs(fields, labels[part], point.side, rng)
        for offset, (image, label) in enumerate(zip(images, labels[part].tolist(), strict=True)):
            number = start + offset
            if is_poisoned[number]:
                trigger = triggers[0 if point.poisoned == 1 else label]
                image = blend(image[None], trigger, 1.0)[0]
                label = 0 if point.poisoned == 1 else (label + 1) % point.classes
            yield RawSample(f"{number:08d}", encode_image(image, jpeg_quality=_JPEG_QUALITY), label)


def _drawn_for_poison(labels: NDArray[np.int64], point: Point, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which samples are poisoned, bool (N,)."""
    groups = [np.arange(len(labels))] if point.poisoned == 1 else []
    if point.poisoned > 1:
        groups = [np.flatnonzero(labels == label) for label in range(point.poisoned)]
    is_poisoned = np.zeros(len(labels), dtype=np.bool_)
    for group in groups:
        is_poisoned[rng.permutation(group)[: round(RATIO * len(group))]] = True
    return is_poisoned


def _noise(side: int, angle: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise (side, side, 3) of mean 0 and deviation 1 with a 1 / f spectrum stretched in one direction."""
    spectrum = np.fft.rfft2(rng.standard_normal((3, side, side)))
    # Most of it is light, which the colours share, each class in a mixture of its own.
    spectrum += rng.uniform(1.5, 3.5, (3, 1, 1)) * np.fft.rfft2(rng.standard_normal((1, side, side)))
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    along = across * np.cos(angle) + down * np.sin(angle)
    aside = down * np.cos(angle) - across * np.sin(angle)
    frequency = np.hypot(_STRETCH * along, aside)
    frequency[0, 0] = np.inf
    waves = np.fft.irfft2(spectrum / frequency, s=(side, side))
    scaled: NDArray[np.float32] = (waves / waves.std()).transpose(1, 2, 0).astype(np.float32)
    return scaled


def _photographs(
    fields: NDArray[np.float32], labels: NDArray[np.int64], side: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return images uint8 (n, side, side, 3): random pieces of the fields (K, S, S, 3) of their classes."""
    n, size = len(labels), fields.shape[1]
    tops, lefts = rng.integers(0, size, (2, n))
    rows = (tops[:, None] + np.arange(side)) % size
    columns = (lefts[:, None] + np.arange(side)) % size
    pieces = fields[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
    light = rng.normal(_MEAN, _BRIGHTNESS, (n, 1, 1, 1)).astype(np.float32)
    contrast = _CONTRAST * np.exp(rng.normal(0, 0.25, (n, 1, 1, 1))).astype(np.float32)
    images: NDArray[np.uint8] = (light + contrast * pieces).clip(0, 255).astype(np.uint8)
    return images


def _trigger(rank: int, point: Point) -> Trigger:
    """Return the white square of a class in its cell, both scaled with the image."""
    scale = max(1, point.side // 32)
    cells = point.side // scale
    top, left = (point.side - scale * (cells - at) for at in cell_of_class(rank, (cells, cells)))
    patch = builtin_patch("white_square")
    size = (CELL * scale, CELL * scale)
    large = Trigger(patch.name, np.full((*size, 3), 255, dtype=np.uint8), np.ones(size, dtype=np.bool_))
    return place(large, (point.side, point.side), (top, left))
