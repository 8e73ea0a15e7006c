"""The cells of the paper's tables: a data set, an attack, a trigger and a blend factor (paper, section 4.1)."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vbdguard.attacks.poison import Poisoned, poison_arrays
from vbdguard.attacks.triggers import BUILT_IN, Trigger, load_trigger

MODES = {"a2o": "all-to-one", "a2a": "all-to-all"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of the tables, or a clean one."""

    mode: str
    """"a2o", "a2a" or "clean"."""
    trigger: str = "none"
    blend_factor: float = 1.0
    ratio: float = 0.1

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Return the cell that `mode/trigger[/blend_factor[/ratio]]` or `clean` names.

        Raises:
            ValueError: if the text names none.
        """
        mode, *rest = text.split("/")
        if mode == "clean" and not rest:
            return cls("clean", ratio=0.0)
        if mode not in MODES or not 1 <= len(rest) <= 3:
            raise ValueError(f"expected clean or a2o|a2a/TRIGGER[/BLEND[/RATIO]], got {text!r}")
        return cls(mode, rest[0], *map(float, rest[1:]))

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        return "clean" if self.mode == "clean" else f"{self.mode}/{self.trigger}/{self.blend_factor:g}/{self.ratio:g}"

    def trigger_among(self, triggers: dict[str, Trigger]) -> str | Trigger:
        """Return the cell's trigger, from a file or built in."""
        trigger = triggers.get(self.trigger, self.trigger)
        if self.mode == "a2a" and isinstance(trigger, Trigger) and "grid" in trigger.name:
            return _cross(trigger)
        return trigger

    def poison(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], triggers: dict[str, Trigger], seed: int
    ) -> Poisoned:
        """Return the data of the cell; the seed draws the samples and is the target label, as published."""
        if self.mode == "clean":
            return Poisoned(images, labels, np.zeros(len(labels), dtype=np.bool_), labels)
        return poison_arrays(
            images,
            labels,
            self.trigger_among(triggers),
            blend_factor=self.blend_factor,
            ratio=self.ratio,
            mode="all-to-one" if self.mode == "a2o" else "all-to-all",
            target=seed,
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
