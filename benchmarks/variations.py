"""What the paper's cells lack: other sets, marks that mean nothing, triggers that move, several triggers.

A variation is written behind a cell, each word after a plus sign: `a2o/white_square/0.2/0.01+jpeg75+place+grey`.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.marks import MARKS

_FLAGS = ("place", "jitter", "grey", "bootstrap")
_NUMBERS = ("jpeg", "classes", "drawn", "samples", "imbalance", "places")
_NAMES = ("also", "other", "mark")
_WORD = re.compile(rf"({'|'.join(_FLAGS)})|({'|'.join(_NUMBERS)})([1-9][0-9]*)|({'|'.join(_NAMES)})=([a-z_0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How a cell departs from those of the paper.

    Raises:
        ValueError: if a setting is out of range.
    """

    classes: int | None = None
    """Only the first so many classes take part."""
    drawn: int | None = None
    """Only so many classes take part, drawn by the seed."""
    samples: int | None = None
    """Only so many samples take part, drawn by the seed."""
    bootstrap: bool = False
    """Whether samples are drawn with replacement: as many, and a third of them is missing."""
    imbalance: int | None = None
    """How many times as many samples the first class keeps as the last; those between fall exponentially."""
    place: bool = False
    """Whether the trigger lies at a place that the seed draws (all samples share it), not where its file puts it."""
    places: int | None = None
    """At how many places, drawn by the seed, the trigger lies; each sample has it at one of them."""
    jitter: bool = False
    """Whether each sample's trigger lies up to one pixel off, in both directions."""
    also: str | None = None
    """A second trigger of the same class; each takes half of the poison."""
    other: str | None = None
    """The trigger of a second attacker, who wants the next class; each takes half of the poison."""
    mark: str | None = None
    """An innocent mark on most images of one class, which the seed draws (`benchmarks.marks`)."""
    grey: bool = False
    """Whether all images are grey after the pasting: three equal channels."""
    jpeg: int | None = None
    """Quality at which all images are encoded after the pasting as JPEG 4:2:0; all, so that it tells nothing."""

    def __post_init__(self) -> None:
        for name in ("classes", "drawn", "places"):
            number = getattr(self, name)
            if number is not None and number < 2:
                raise ValueError(f"expected at least 2 {name}, got {number}")
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise ValueError(f"expected a JPEG quality of 1 to 100, got {self.jpeg}")
        if self.mark is not None and self.mark not in MARKS:
            raise ValueError(f"expected a mark of {', '.join(MARKS)}, got {self.mark!r}")
        if sum((self.place, self.jitter, self.places is not None)) > 1:
            raise ValueError("expected one of +place, +placesN and +jitter")

    @classmethod
    def parse(cls, words: list[str]) -> Variation:
        """Return the variation that words such as `jpeg75`, `place`, `classes2` and `also=white_grid` name.

        Raises:
            ValueError: if a word names none or stands twice.
        """
        values: dict[str, int | bool | str] = {}
        for word in words:
            match = _WORD.fullmatch(word)
            if match is None:
                known = [*_FLAGS, *(f"{name}N" for name in _NUMBERS), *(f"{name}=NAME" for name in _NAMES)]
                raise ValueError(f"expected one of {', '.join(f'+{name}' for name in known)}, got {word!r}")
            flag, numbered, number, named, name = match.groups()
            key = flag or numbered or named
            if key in values:
                raise ValueError(f"expected each variation once, got {word!r} besides another")
            values[key] = True if flag else int(number) if numbered else name
        return cls(**values)  # type: ignore[arg-type]  # the pattern ties each name to its type

    @property
    def name(self) -> str:
        """What stands behind the cell: empty, or words that each begin with a plus sign."""
        numbers = [f"{name}{number}" for name in _NUMBERS if (number := getattr(self, name)) is not None]
        names = [f"{key}={name}" for key in _NAMES if (name := getattr(self, key)) is not None]
        flags = [name for name in _FLAGS if getattr(self, name)]
        return "".join(f"+{word}" for word in (*numbers, *names, *flags))

    @property
    def has_fixed_trigger(self) -> bool:
        """Whether all poisoned samples of one original class carry the same at the same place."""
        return not self.jitter and self.places is None and self.also is None and self.other is None

    def keeps(self, labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Return the indices of the samples that take part, ascending; a bootstrap repeats some.

        The imbalance is the long tail of the field: class k of K keeps a share of imbalance ** -(k / (K - 1)).

        Raises:
            ValueError: if there are fewer classes or samples than asked for.
        """
        rng = np.random.default_rng(seed)
        kept = self._of_classes(labels, rng)
        if self.bootstrap:
            kept = np.sort(rng.choice(kept, len(kept)))
        if self.samples is None:
            return kept
        if self.samples > len(kept):
            raise ValueError(f"expected at least {self.samples} samples in the data, got {len(kept)}")
        return np.sort(rng.permutation(kept)[: self.samples])

    def _of_classes(self, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        present = np.unique(labels)
        wanted = max(self.classes or 0, self.drawn or 0)
        if wanted > len(present):
            raise ValueError(f"expected at least {wanted} classes in the data, got {len(present)}")
        chosen = present[: self.classes]
        if self.drawn is not None:
            chosen = np.sort(rng.permutation(chosen)[: self.drawn])
        if self.imbalance is None:
            return np.flatnonzero(np.isin(labels, chosen))
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
