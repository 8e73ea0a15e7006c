"""What the paper's cells lack: other class counts, imbalance, grey images, JPEG after pasting, a random place.

A variation is written behind a cell, each word after a plus sign: `a2o/white_square/0.2/0.01+jpeg75+place+grey`.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_WORD = re.compile(r"(place|grey)|(jpeg|classes|imbalance)([1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How a cell departs from those of the paper.

    Raises:
        ValueError: if a setting is out of range.
    """

    classes: int | None = None
    """Only the first so many classes take part."""
    imbalance: int | None = None
    """How many times as many samples the first class keeps as the last; those between fall exponentially."""
    place: bool = False
    """Whether the trigger lies at a place that the seed draws (all samples share it), not where its file puts it."""
    grey: bool = False
    """Whether all images are grey after the pasting: three equal channels."""
    jpeg: int | None = None
    """Quality at which all images are encoded after the pasting as JPEG 4:2:0; all, so that it tells nothing."""

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"expected at least 2 classes, got {self.classes}")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise ValueError(f"expected a JPEG quality of 1 to 100, got {self.jpeg}")

    @classmethod
    def parse(cls, words: list[str]) -> Variation:
        """Return the variation that words such as `jpeg75`, `place` and `classes2` name.

        Raises:
            ValueError: if a word names none or stands twice.
        """
        values: dict[str, int | bool] = {}
        for word in words:
            match = _WORD.fullmatch(word)
            if match is None:
                raise ValueError(f"expected +place, +grey, +jpegQ, +classesK or +imbalanceR, got {word!r}")
            flag, name, number = match.groups()
            if (flag or name) in values:
                raise ValueError(f"expected each variation once, got {word!r} besides another")
            values[flag or name] = True if flag else int(number)
        return cls(**values)  # type: ignore[arg-type]  # the pattern ties each name to its type

    @property
    def name(self) -> str:
        """What stands behind the cell: empty, or words that each begin with a plus sign."""
        numbers = (("jpeg", self.jpeg), ("classes", self.classes), ("imbalance", self.imbalance))
        words = [f"{name}{number}" for name, number in numbers if number is not None]
        words += [name for name, is_set in (("place", self.place), ("grey", self.grey)) if is_set]
        return "".join(f"+{word}" for word in words)

    def keeps(self, labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Return the indices of the samples that take part, ascending.

        The imbalance is the long tail of the field: class k of K keeps a share of imbalance ** -(k / (K - 1)).

        Raises:
            ValueError: if there are fewer classes than asked for.
        """
        present = np.unique(labels)
        if self.classes is not None and self.classes > len(present):
            raise ValueError(f"expected at least {self.classes} classes in the data, got {len(present)}")
        chosen = present[: self.classes]
        if self.imbalance is None:
            return np.flatnonzero(np.isin(labels, chosen))
        rng = np.random.default_rng(seed)
        kept = []
        for rank, label in enumerate(chosen):
            members = np.flatnonzero(labels == label)
            share = self.imbalance ** -(rank / (len(chosen) - 1))
            kept.append(rng.permutation(members)[: max(1, round(share * len(members)))])
        return np.sort(np.concatenate(kept))

    def finish(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what becomes of images uint8 (N, H, W, 3) after the pasting, of the same shape."""
        if self.grey:
            images = np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in images])
        if self.jpeg is not None:
            images = np.stack([_through_jpeg(image, self.jpeg) for image in images])
        return images


def random_place(size: tuple[int, int], patch: tuple[int, int], seed: int) -> tuple[int, int]:
    """Return top and left for a patch, drawn uniformly among all places inside the image.

    Args:
        size: height and width of the image.
        patch: height and width of the patch.
        seed: of the draw.

    Raises:
        ValueError: if the patch leaves no choice.
    """
    free = (size[0] - patch[0], size[1] - patch[1])
    if min(free) < 0 or max(free) == 0:
        raise ValueError(f"expected a trigger smaller than the image of {size} pixels for +place, got one of {patch}")
    rng = np.random.default_rng(seed)
    return int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))


def _through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file))
