"""Every knob of stage 7, and the schedule of the learning rate."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vbdguard.errors import ConfigError

Policy = Literal["suppress", "relabel", "unlearn"]
"""What becomes of flagged samples:

- `suppress`: they are left out;
- `relabel`: they train under the class that the poisoned model finds second most likely (paper, settings of stage 7);
- `unlearn`: the model forgets them by gradient ascent while it learns the rest by descent.
"""
Amp = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how hard a kind of network trains."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 5e-4


RECIPES = {
    # 50,000 images of 32 pixels in 4 minutes on one core that multiplies bfloat16.
    "small": Recipe(epochs=8, batch_size=128, lr=0.1),
}
LARGE = Recipe(epochs=100, batch_size=128, lr=0.1)
"""What has no recipe of its own: the length of the published runs, with the rate that augmentation calls for."""
_FINE_TUNING_EPOCHS, _FINE_TUNING_RATE = 10, 0.1


def recipe_for(model: str, *, is_fine_tuning: bool = False) -> Recipe:
    """Return how a model trains where the user says nothing: shorter and softer if it starts from trained weights."""
    recipe = RECIPES.get(model, LARGE)
    if not is_fine_tuning:
        return recipe
    return Recipe(
        epochs=min(recipe.epochs, _FINE_TUNING_EPOCHS), batch_size=recipe.batch_size, lr=recipe.lr * _FINE_TUNING_RATE
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The settings of one training, resolved.

    Raises:
        ConfigError: if a value is out of range.
    """

    policy: Policy
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    augment: bool
    seed: int
    poisoned_epochs: int = 0
    """Epochs at the start that learn flagged samples too, so that there is something to unlearn."""
    momentum: float = 0.9
    warm_up: float = 0.1
    """Share of all steps in which the learning rate rises."""

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}")
        for name, least in (("epochs", 1), ("batch_size", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"lr must be above 0, got {self.lr}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ConfigError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        if self.policy == "unlearn" and self.epochs <= self.poisoned_epochs:
            raise ConfigError(f"unlearning from scratch needs at least 2 epochs, got {self.epochs}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings JSON-ready."""
        return asdict(self)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step: a straight rise, then a cosine down to almost 0.

        Args:
            step: 0 to steps - 1.
            steps: of the whole training.
        """
        rising = max(1, round(self.warm_up * steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def resolve_settings(
    model: str,
    *,
    policy: Policy,
    has_initial_weights: bool,
    seed: int,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    augment: bool = True,
) -> TrainingSettings:
    """Return the settings that a user's choices stand for, the rest from the model's recipe.

    Raises:
        ConfigError: if a value is out of range.
    """
    recipe = recipe_for(model, is_fine_tuning=has_initial_weights)
    length = recipe.epochs if epochs is None else epochs
    return TrainingSettings(
        policy=policy,
        epochs=length,
        batch_size=recipe.batch_size if batch_size is None else batch_size,
        lr=recipe.lr if lr is None else lr,
        weight_decay=recipe.weight_decay if weight_decay is None else weight_decay,
        augment=augment,
        seed=seed,
        # Nothing can be unlearnt that was not learnt: from scratch, the first half learns it.
        poisoned_epochs=max(1, length // 2) if policy == "unlearn" and not has_initial_weights else 0,
    )
