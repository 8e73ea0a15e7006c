"""What a model is taught, how, and where that is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vbdguard.errors import ConfigError
from vbdguard.method.device import activation_dtype
from vbdguard.training.lessons import Lessons
from vbdguard.training.pixels import Normalization, PixelFeed
from vbdguard.training.settings import Amp, TrainingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What a model is taught and how: everything about a training but the model."""

    lessons: Lessons
    feed: PixelFeed
    normalization: Normalization
    settings: TrainingSettings
    n_classes: int
    device: torch.device
    dtype: torch.dtype
    """Of activations; weights stay float32."""

    def identity(self) -> dict[str, Any]:
        """Return what of it decides the trained weights, JSON-ready."""
        return {
            "lessons": self.lessons.digest(),
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "n_classes": self.n_classes,
            "device": self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
            **self.settings.to_dict(),
        }

    @property
    def batch_size(self) -> int:
        """Samples per step: as set, or all there are."""
        return min(self.settings.batch_size, len(self.lessons))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches; the rest of an epoch is left over, other samples each time."""
        return len(self.lessons) // self.batch_size


def resolve_dtype(amp: Amp, device: torch.device) -> torch.dtype:
    """Return the type of activations: bfloat16, which needs no scaling of the loss, or float32.

    Args:
        amp: `auto` takes bfloat16 where the hardware multiplies it natively, `on` in any case, `off` never.
        device: what computes.

    Raises:
        ConfigError: if `amp` is none of these.
    """
    if amp not in ("auto", "on", "off"):
        raise ConfigError(f"amp must be auto, on or off, got {amp!r}")
    if amp == "auto":
        return activation_dtype(device)
    return torch.bfloat16 if amp == "on" else torch.float32
