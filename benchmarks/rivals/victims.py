"""One training for all methods that look at the same poisoned model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from benchmarks.methods import Task
from benchmarks.rivals.settings import NetworkSettings

if TYPE_CHECKING:
    import torch

    from benchmarks.rivals.victim import Victim


@dataclass(slots=True, eq=False)
class Victims:
    """Trains poisoned models on demand; the last one stays in memory, all of them in a folder if one is given."""

    settings: NetworkSettings = field(default_factory=NetworkSettings)
    folder: Path | None = None
    _last: tuple[str, Victim] | None = field(default=None, init=False, repr=False)

    def of(self, data: Task, *, seed: int, device: torch.device) -> Victim:
        """Return the model trained on a task with a seed; the same task, seed and device train it once."""
        key = self._key(data, seed, device)
        if self._last is None or self._last[0] != key:
            from benchmarks.rivals.victim import train_victim

            self._last = None  # frees the old one before the new one needs the memory
            kept_at = self.folder / f"{key}.safetensors" if self.folder else None
            self._last = key, train_victim(data, self.settings, seed=seed, device=device, kept_at=kept_at)
        return self._last[1]

    def _key(self, data: Task, seed: int, device: torch.device) -> str:
        """Return a hex digest of all that decides the weights."""
        hasher = blake3(data.images.tobytes())
        hasher.update(data.labels.tobytes())
        hasher.update(repr((data.images.shape, data.n_classes, self.settings, seed, device.type)).encode())
        return hasher.hexdigest()[:32]
