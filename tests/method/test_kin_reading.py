"""A trigger that six classes carry, each with noise of its own and at its own place, two of them at the edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from textures import as_pixels, smooth_noise

from vbdguard.config import DirectMethodConfig
from vbdguard.method.kin_reading import common_reading
from vbdguard.method.level import image_levels
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

SIDE, PER_CLASS, CARRIERS, BLEND = 20, 200, 40, 0.25
CORNERS = [(0, 0), (4, 9), (9, 3), (8, 14), (14, 8), (17, 17)]
"""Where each class has its 3 x 3 trigger."""
CONFIG = DirectMethodConfig()


@pytest.fixture(scope="module")
def kin() -> tuple[list[Suspect], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    n = len(CORNERS) * PER_CLASS
    images, labels = 128 + 30 * smooth_noise(rng, (n, SIDE, SIDE, 3)), torch.arange(n) % len(CORNERS)
    pattern = rng.choice([80.0, 176.0], size=(3, 3, 3))
    for label, (top, left) in enumerate(CORNERS):
        place = np.s_[(labels == label).nonzero().squeeze(1)[:CARRIERS].numpy(), top : top + 3, left : left + 3]
        images[place] = (1 - BLEND) * images[place] + BLEND * pattern
    samples = Samples(as_pixels(images), labels, len(CORNERS))
    level = image_levels(Population.of(samples), samples, CONFIG)[0]
    suspects = [
        Suspect(
            label=label,
            members=samples.members(label),
            level=level,
            planted=PlantedTrigger(roughly(pattern, corner, rng), BLEND),
            window=Window(0, 9, 0, 9),
            logits=torch.where(torch.arange(PER_CLASS) < CARRIERS, 2.0, -2.0),
            gain=100.0 + label,
            trace=MixtureTrace(Window(0, 9, 0, 9), torch.zeros(243), [], 0.5),
            extent=torch.ones(SIDE, SIDE, dtype=torch.bool),
            is_wide=False,
            is_painted=True,
            kin=0,
        )
        for label, corner in enumerate(CORNERS)
    ]
    return suspects, pattern


def roughly(
    pattern: NDArray[np.float64], corner: tuple[int, int], rng: np.random.Generator, noise: float = 20.0
) -> TriggerCandidate:
    """Return the trigger as the few carriers of one class show it: noisy, and one pixel too wide somewhere."""
    mask, shown = torch.zeros(SIDE, SIDE, dtype=torch.bool), torch.zeros(3, SIDE, SIDE)
    (top, left), noisy = corner, (pattern + rng.normal(0, noise, pattern.shape)).clip(0, 255)
    mask[top : top + 3, left : left + 3] = True
    shown[:, top : top + 3, left : left + 3] = torch.from_numpy(noisy).permute(2, 0, 1).float()
    extra = top + int(rng.integers(0, 3)), left + 3 if left + 3 < SIDE else left - 1
    mask[extra], shown[:, extra[0], extra[1]] = True, 128.0
    return TriggerCandidate(mask, shown)


def error(planted: PlantedTrigger, corner: tuple[int, int], pattern: NDArray[np.float64]) -> float:
    """Return by how many grey levels what it does to a mean of 128 is off."""
    place = np.s_[:, corner[0] : corner[0] + 3, corner[1] : corner[1] + 3]
    shown = planted.trigger.pattern[place].permute(1, 2, 0).numpy()
    return float(np.abs(planted.blend_factor * (shown - 128) - BLEND * (pattern - 128)).mean())


def test_all_show_the_trigger_more_clearly_than_one_and_at_the_place_of_each(
    kin: tuple[list[Suspect], NDArray[np.float64]],
) -> None:
    suspects, pattern = kin
    readings = common_reading(suspects)
    for suspect, reading, corner in zip(suspects, readings, CORNERS, strict=True):
        assert reading is not None
        assert reading.trigger.bbox == (*corner, 3, 3)
        assert error(reading, corner, pattern) < 0.6 * error(suspect.planted, corner, pattern)
        assert not reading.trigger.pattern[:, ~reading.trigger.mask].any()


def test_classes_part_the_shift_differently_and_agree_on_it_together(
    kin: tuple[list[Suspect], NDArray[np.float64]],
) -> None:
    """The same move of the mean, told as a strong pattern blended little or as a weak one blended much."""
    suspects, pattern = kin
    told = []
    for factor, suspect in zip((1.0, 1.5, 2.0, 1.0, 1.2, 1.6), suspects, strict=True):
        trigger = suspect.planted.trigger
        weaker = (128 + (trigger.pattern - 128) / factor) * trigger.mask
        told.append(replace(suspect, planted=PlantedTrigger(TriggerCandidate(trigger.mask, weaker), BLEND * factor)))
    for reading, corner in zip(common_reading(told), CORNERS, strict=True):
        assert reading is not None
        assert error(reading, corner, pattern) < 4
        assert BLEND - 0.05 <= reading.blend_factor <= 2 * BLEND


def test_who_shows_something_else_is_not_heard(kin: tuple[list[Suspect], NDArray[np.float64]]) -> None:
    suspects, _ = kin
    odd = suspects[3].planted.trigger
    inverted = TriggerCandidate(odd.mask, (255 - odd.pattern) * odd.mask)
    changed = [replace(one, planted=PlantedTrigger(inverted, BLEND)) if one.label == 3 else one for one in suspects]
    readings = common_reading(changed)
    assert [reading is None for reading in readings] == [False, False, False, True, False, False]
    alone = common_reading([one for one in suspects if one.label != 3])
    for reading, expected in zip([one for one in readings if one is not None], alone, strict=True):
        assert expected is not None
        assert torch.equal(reading.trigger.pattern, expected.trigger.pattern)


def test_the_clearest_does_not_speak_for_the_others_where_it_shows_something_else(
    kin: tuple[list[Suspect], NDArray[np.float64]],
) -> None:
    suspects, _ = kin
    odd = suspects[3].planted.trigger
    inverted = PlantedTrigger(TriggerCandidate(odd.mask, (255 - odd.pattern) * odd.mask), BLEND)
    changed = [replace(one, planted=inverted, gain=9e3) if one.label == 3 else one for one in suspects]
    assert [reading is None for reading in common_reading(changed)] == [False, False, False, True, False, False]


def test_a_class_with_many_carriers_is_heard_more(kin: tuple[list[Suspect], NDArray[np.float64]]) -> None:
    suspects, pattern = kin
    exact = roughly(pattern, CORNERS[0], np.random.default_rng(0), noise=0.0)
    many = replace(suspects[0], planted=PlantedTrigger(exact, BLEND), logits=torch.full((PER_CLASS,), 9.0), gain=1000.0)
    before, after = (common_reading([first, *suspects[1:]])[0] for first in (suspects[0], many))
    assert before is not None
    assert after is not None
    assert error(after, CORNERS[0], pattern) < error(before, CORNERS[0], pattern)
