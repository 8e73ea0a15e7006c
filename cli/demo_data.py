"""The data set of `vbdguard demo`: crops of the photographs that the scikit-image wheel carries.

Each class is one photograph. Crops differ in place, scale, flip, light and colour, so that a class can be told by
its texture and shapes but hardly by its mean colour, and a model has to work for it: as with a real data set,
the trigger must be the easier thing to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vbdguard.errors import SourceError
from vbdguard.sources.base import RawSample

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "bricks": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "motorcycle": "motorcycle_left.png",
    "tissue": "ihc.png",
}
"""Class names, in label order, and the files; all of them lie in the wheel itself, nothing is downloaded."""

SIDE = 32
"""Height and width of a crop as it is written, in pixels."""

_SMALLEST_CROP, _LARGEST_CROP = 40, 160
_LEAST_CONTRAST = 14.0
"""Crops whose grey levels have a smaller standard deviation (bare sky, a table top) could be of any class."""
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class DemoSet:
    """How large the demo's data set is, and which draw of it."""

    per_class: int = 600
    seed: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0 to K - 1."""
        return tuple(PHOTOGRAPHS)

    def __len__(self) -> int:
        return self.per_class * len(PHOTOGRAPHS)

    def samples(self) -> Iterator[RawSample]:
        """Yield the samples in shuffled order: uint8 (32, 32, 3) pixels, the class number as label.

        Raises:
            SourceError: if scikit-image or one of its photographs is not installed.
        """
        rng = np.random.default_rng(self.seed)
        photographs = [_photograph(name) for name in PHOTOGRAPHS.values()]
        labels = rng.permutation(np.repeat(np.arange(len(photographs)), self.per_class))
        for number, label in enumerate(labels.tolist()):
            pixels = _relight(_crop(photographs[label], rng), rng)
            yield RawSample(f"{self.class_names[label]}_{number:05d}", pixels, label)


def _photograph(name: str) -> Image.Image:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SourceError("the demo takes its pictures from scikit-image, which is not installed; install it")
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        raise SourceError(f"{path}: expected a photograph of the scikit-image wheel; reinstall scikit-image")
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        return image.convert("RGB")


def _crop(photograph: Image.Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random square of the photograph as float64 (32, 32, 3), 0 to 255, flipped or not."""
    while True:
        side = float(np.exp(rng.uniform(np.log(_SMALLEST_CROP), np.log(_LARGEST_CROP))))
        left, top = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
        window = (left, top, left + side, top + side)
        pixels = np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=window), dtype=np.float64)
        if (pixels @ _LUMA).std() >= _LEAST_CONTRAST:
            return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _relight(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the crop as uint8 under another light: saturation, tint, contrast and brightness vary."""
    grey = (pixels @ _LUMA)[:, :, None]
    coloured = grey + rng.uniform(0.0, 1.0) * (pixels - grey)
    tinted = coloured * np.exp(rng.normal(0.0, 0.15, 3))
    mean = tinted.mean()
    lit = (tinted - mean) * np.exp(rng.normal(0.0, 0.25)) + rng.normal(118.0, 30.0)
    pixels_8bit: NDArray[np.uint8] = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
    return pixels_8bit
