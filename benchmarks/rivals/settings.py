"""How the networks of the rivals are trained (the settings of the published comparison)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vbdguard.errors import ConfigError

Decay = Literal["cosine", "plateau", "constant"]
"""How the learning rate falls: a cosine down to 0, a tenth after ten epochs without a lower loss, or not at all."""
_SMALL_SIDE = 32
"""Images up to this side have the settings of CIFAR-10, larger ones those of Tiny ImageNet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """One training, every knob resolved."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float
    nesterov: bool
    augment: bool
    decay: Decay


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What a user may change about the networks; None means as published for the size of the images.

    Raises:
        ConfigError: if the rate is not above 0, or another value is below 1.
    """

    width: int = 64
    """Channels of the first blocks of PreAct-ResNet18, a multiple of 8; fewer make it affordable without a GPU."""
    victim_epochs: int | None = None
    """100 for images up to 32 pixels, else 200."""
    abl_epochs: int | None = None
    """20 for images up to 32 pixels, else 40."""
    batch_size: int | None = None
    """128 (ABL: 256) for images up to 32 pixels, else 64 (ABL: 256)."""
    lr: float = 0.01
    """Of both trainings; fewer epochs want a higher one."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        for name in ("width", "victim_epochs", "abl_epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    def victim(self, side: int) -> Fitting:
        """Return how the poisoned model is trained on images of this side, in pixels."""
        is_small = side <= _SMALL_SIDE
        return Fitting(
            epochs=self.victim_epochs or (100 if is_small else 200),
            batch_size=self.batch_size or (128 if is_small else 64),
            lr=self.lr,
            weight_decay=5e-4,
            nesterov=False,
            augment=True,
            decay="cosine" if is_small else "plateau",
        )

    def abl(self, side: int) -> Fitting:
        """Return how ABL trains on images of this side, in pixels: short, and on whole images."""
        return Fitting(
            epochs=self.abl_epochs or (20 if side <= _SMALL_SIDE else 40),
            batch_size=self.batch_size or 256,
            lr=self.lr,
            weight_decay=1e-4,
            nesterov=True,
            augment=False,
            decay="constant",
        )
