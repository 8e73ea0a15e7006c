from __future__ import annotations

import math
from typing import Any

import pytest

from vbdguard.errors import ConfigError
from vbdguard.training.settings import RECIPES, TrainingSettings, resolve_settings

PLAIN: dict[str, Any] = {
    "policy": "suppress",
    "epochs": 5,
    "batch_size": 32,
    "lr": 0.1,
    "weight_decay": 0.0,
    "augment": True,
    "seed": 0,
}


def test_the_rate_rises_straight_then_falls_along_a_cosine_almost_to_nothing() -> None:
    settings = TrainingSettings(**PLAIN)
    rates = [settings.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    assert rates[10] == 0.1
    assert rates[55] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_rate_above_nothing(steps: int) -> None:
    assert all(TrainingSettings(**PLAIN).rate(step, steps) > 0 for step in range(steps))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "forget"}, "policy must be one of suppress, relabel, unlearn, got 'forget'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"seed": -1}, "seed must be 0 to 4294967295"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_right_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingSettings(**{**PLAIN, **change})


def resolved(model: str, **choices: Any) -> TrainingSettings:
    return resolve_settings(model, **{"policy": "suppress", "has_initial_weights": False, "seed": 0, **choices})


def test_what_the_user_names_wins_over_the_recipe() -> None:
    recipe = RECIPES["small"]
    assert (resolved("small").epochs, resolved("small").lr) == (recipe.epochs, recipe.lr)
    chosen = resolved("small", epochs=3, lr=0.5, batch_size=7, weight_decay=0.0)
    assert (chosen.epochs, chosen.lr, chosen.batch_size, chosen.weight_decay) == (3, 0.5, 7, 0.0)


def test_trained_weights_are_moved_more_gently_and_for_a_shorter_time() -> None:
    fresh, tuned = resolved("preact_resnet18"), resolved("preact_resnet18", has_initial_weights=True)
    assert (tuned.epochs, tuned.lr) == (10, pytest.approx(fresh.lr / 10))


def test_only_from_scratch_must_the_poison_be_learnt_before_it_is_unlearnt() -> None:
    assert resolved("small", policy="unlearn", epochs=9).poisoned_epochs == 4
    assert resolved("small", policy="unlearn", epochs=9, has_initial_weights=True).poisoned_epochs == 0
    with pytest.raises(ConfigError, match="at least 2 epochs"):
        resolved("small", policy="unlearn", epochs=1)
