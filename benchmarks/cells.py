"""The cells of the paper's tables: a data set, an attack, a trigger and a blend factor (paper, section 4.1)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.beyond import PATTERNLESS, both, clean_label, nearby, stamp_variants, without_pattern
from benchmarks.marks import mark_class
from benchmarks.variations import Variation, random_place
from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.attacks.triggers import (
    BUILT_IN,
    PICTURES,
    Mode,
    Trigger,
    builtin_patch,
    crop,
    frame_trigger,
    load_trigger,
)

MODES = {"a2o": "all-to-one", "a2a": "all-to-all", "cl": "clean-label"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of the tables, or a clean one."""

    mode: str
    """"a2o", "a2a", "cl" (the trigger on the target class's own samples) or "clean"."""
    trigger: str = "none"
    blend_factor: float = 1.0
    ratio: float = 0.1
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        if self.mode != "a2o" and not self.variation.has_fixed_trigger:
            raise ValueError(f"expected +jitter, +also and the like behind an a2o cell, got {self.mode!r}")
        if self.mode not in ("a2o", "a2a") and self.variation.place:
            raise ValueError(f"expected +place behind an a2o or a2a cell, got {self.mode!r}")

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Return the cell that `mode/trigger[/blend_factor[/ratio]]` or `clean` names, with `+variation`s behind.

        Raises:
            ValueError: if the text names none.
        """
        place, *words = text.split("+")
        mode, *rest = place.split("/")
        variation = Variation.parse(words)
        if mode == "clean" and not rest:
            return cls("clean", ratio=0.0, variation=variation)
        if mode not in MODES or not 1 <= len(rest) <= 3:
            raise ValueError(f"expected clean or a2o|a2a|cl/TRIGGER[/BLEND[/RATIO]][+VARIATION...], got {text!r}")
        blend_factor, ratio = [*map(float, rest[1:]), *(1.0, 0.1)[len(rest) - 1 :]]
        return cls(mode, rest[0], blend_factor, ratio, variation)

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        base = "clean" if self.mode == "clean" else f"{self.mode}/{self.trigger}/{self.blend_factor:g}/{self.ratio:g}"
        return base + self.variation.name

    @property
    def trigger_names(self) -> list[str]:
        """The names of all its triggers."""
        return [name for name in (self.trigger, self.variation.also, self.variation.other) if name is not None]

    def trigger_among(self, triggers: dict[str, Trigger]) -> str | Trigger:
        """Return the cell's trigger, from a file or built in."""
        trigger = triggers.get(self.trigger, self.trigger)
        if self.mode == "a2a" and isinstance(trigger, Trigger) and "grid" in trigger.name:
            return _cross(trigger)
        return trigger

    def place(self, triggers: dict[str, Trigger], size: tuple[int, int], seed: int) -> tuple[int, int] | None:
        """Return top and left of the trigger where the seed draws them, None where its file or the attack says it."""
        if not self.variation.place and self.variation.places is None:
            return None
        trigger = self.trigger_among(triggers)
        if isinstance(trigger, Trigger):
            return random_place(size, crop(trigger).size, seed)
        return random_place(size, size if trigger in PICTURES else builtin_patch(trigger).size, seed)

    def poison(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], triggers: dict[str, Trigger], seed: int
    ) -> Poisoned:
        """Return the data of the cell; the seed draws the samples and is the target label, as published.

        Where there are fewer classes than that, the target is the seed modulo their number.
        """
        kept = self.variation.keeps(labels, seed)
        if len(kept) < len(labels) or self.variation.bootstrap:
            images, labels = images[kept], numbered(labels[kept])
        if self.variation.mark is not None:
            images, _ = mark_class(images, labels, self.variation.mark, seed)
        poisoned = self._attack(images, labels, triggers, seed)
        return replace(poisoned, images=self.variation.finish(poisoned.images))

    def _attack(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], triggers: dict[str, Trigger], seed: int
    ) -> Poisoned:
        if self.mode == "clean":
            return Poisoned(images, labels, np.zeros(len(labels), dtype=np.bool_), labels)
        target = seed % (int(labels.max()) + 1)
        if self.trigger in PATTERNLESS and self.mode == "a2o":
            return without_pattern(self.trigger, images, labels, ratio=self.ratio, target=target, seed=seed)
        second = self.variation.also or self.variation.other
        if second is None:
            return self._stamp(images, labels, triggers, target, seed)
        half = replace(self, ratio=self.ratio / 2, variation=replace(self.variation, also=None, other=None))
        wanted = target if self.variation.also else (target + 1) % (int(labels.max()) + 1)
        return both(
            half._stamp(images, labels, triggers, target, seed),
            replace(half, trigger=second)._stamp(images, labels, triggers, wanted, seed + 1000),
        )

    def _stamp(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        triggers: dict[str, Trigger],
        target: int,
        seed: int,
    ) -> Poisoned:
        size = (images.shape[1], images.shape[2])
        trigger, place = self.trigger_among(triggers), self.place(triggers, size, seed)
        how: dict[str, Any] = {"blend_factor": self.blend_factor, "ratio": self.ratio, "target": target, "seed": seed}
        if self.mode == "cl":
            return clean_label(images, labels, frame_trigger(trigger, size), **how)
        if self.variation.jitter:
            return stamp_variants(images, labels, nearby(frame_trigger(trigger, size)), **how)
        if self.variation.places is not None:
            seeds = range(seed, seed + 1000 * self.variation.places, 1000)
            places = [self.place(triggers, size, each) for each in seeds]
            return stamp_variants(images, labels, [frame_trigger(trigger, size, position=p) for p in places], **how)
        mode: Mode = "all-to-one" if self.mode == "a2o" else "all-to-all"
        return poison_arrays(images, labels, trigger, mode=mode, position=place, **how)


def numbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels as ranks, 0 to K - 1."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def load_parquet(
    folder: Path, limit: int | None = None, *, split: str = "train"
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 (N, H, W, 3) and labels int64 (N,) of a folder's `<split>-*.parquet`."""
    import pyarrow.parquet as pq

    images, labels = [], []
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        table = pq.read_table(path, columns=["image", "label"])
        images += [
            np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in table["image"].to_pylist()
        ]
        labels += table["label"].to_pylist()
    return np.stack(images)[:limit], np.array(labels, dtype=np.int64)[:limit]


def load_triggers(folder: Path | None) -> dict[str, Trigger]:
    """Return the triggers of a folder that holds NAME.png beside NAME_mask.png; built-in names need no file."""
    triggers: dict[str, Trigger] = {}
    for mask in sorted(folder.glob("*_mask.png")) if folder else ():
        name = mask.stem.removesuffix("_mask").removeprefix("trigger_").replace("hello_", "")
        triggers[name] = replace(load_trigger(mask.with_name(mask.name.replace("_mask", "")), mask), name=name)
    return triggers


def check_triggers(cells: Iterable[Cell], triggers: dict[str, Trigger]) -> None:
    """Check that the cells use triggers that are there.

    Raises:
        ValueError: if one names another.
    """
    wanted = {name for cell in cells if cell.mode != "clean" for name in cell.trigger_names}
    known = {*triggers, *BUILT_IN, *PATTERNLESS}
    if wanted - known:
        unknown, known_names = ", ".join(sorted(wanted - known)), ", ".join(sorted(known))
        raise ValueError(f"no trigger {unknown}; at hand: {known_names}; more with --triggers DIR")


def _cross(trigger: Trigger) -> Trigger:
    """Return a 3 x 3 grid trigger with the 5 pixels of an X: the all-to-all cells set no others."""
    rows, columns = np.nonzero(trigger.mask)
    is_cross = (rows - rows.min() + columns - columns.min()) % 2 == 0
    mask = np.zeros_like(trigger.mask)
    mask[rows[is_cross], columns[is_cross]] = True
    return replace(trigger, mask=mask)
