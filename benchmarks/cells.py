"""The cells of the paper's tables: a data set, an attack, a trigger and a blend factor (paper, section 4.1)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.variations import Variation, random_place
from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.attacks.triggers import BUILT_IN, PICTURES, Trigger, builtin_patch, crop, load_trigger

MODES = {"a2o": "all-to-one", "a2a": "all-to-all"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of the tables, or a clean one."""

    mode: str
    """"a2o", "a2a" or "clean"."""
    trigger: str = "none"
    blend_factor: float = 1.0
    ratio: float = 0.1
    variation: Variation = field(default_factory=Variation)

    def __post_init__(self) -> None:
        if self.variation.place and self.mode != "a2o":
            raise ValueError(f"expected +place behind an a2o cell (a2a places by class), got {self.mode!r}")

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
            raise ValueError(f"expected clean or a2o|a2a/TRIGGER[/BLEND[/RATIO]][+VARIATION...], got {text!r}")
        blend_factor, ratio = [*map(float, rest[1:]), *(1.0, 0.1)[len(rest) - 1 :]]
        return cls(mode, rest[0], blend_factor, ratio, variation)

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        base = "clean" if self.mode == "clean" else f"{self.mode}/{self.trigger}/{self.blend_factor:g}/{self.ratio:g}"
        return base + self.variation.name

    def trigger_among(self, triggers: dict[str, Trigger]) -> str | Trigger:
        """Return the cell's trigger, from a file or built in."""
        trigger = triggers.get(self.trigger, self.trigger)
        if self.mode == "a2a" and isinstance(trigger, Trigger) and "grid" in trigger.name:
            return _cross(trigger)
        return trigger

    def place(self, triggers: dict[str, Trigger], size: tuple[int, int], seed: int) -> tuple[int, int] | None:
        """Return top and left of the trigger where the seed draws them, None where its file or the attack says it."""
        if not self.variation.place:
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
        if len(kept) < len(labels):
            images, labels = images[kept], labels[kept]
        poisoned = self._attack(images, labels, triggers, seed)
        return replace(poisoned, images=self.variation.finish(poisoned.images))

    def _attack(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], triggers: dict[str, Trigger], seed: int
    ) -> Poisoned:
        if self.mode == "clean":
            return Poisoned(images, labels, np.zeros(len(labels), dtype=np.bool_), labels)
        return poison_arrays(
            images,
            labels,
            self.trigger_among(triggers),
            blend_factor=self.blend_factor,
            ratio=self.ratio,
            mode="all-to-one" if self.mode == "a2o" else "all-to-all",
            target=seed % (int(labels.max()) + 1),
            position=self.place(triggers, (images.shape[1], images.shape[2]), seed),
            seed=seed,
        )


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


def known_triggers(triggers: dict[str, Trigger]) -> str:
    """Return the names that a cell may use, for messages."""
    return ", ".join(sorted({*triggers, *BUILT_IN}))


def _cross(trigger: Trigger) -> Trigger:
    """Return a 3 x 3 grid trigger with the 5 pixels of an X: the all-to-all cells set no others."""
    rows, columns = np.nonzero(trigger.mask)
    is_cross = (rows - rows.min() + columns - columns.min()) % 2 == 0
    mask = np.zeros_like(trigger.mask)
    mask[rows[is_cross], columns[is_cross]] = True
    return replace(trigger, mask=mask)
