"""A trigger too faint for a matched filter, on textures, with places that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from listeners import Counting
from textures import as_pixels, smooth_noise

from vbdguard.config import DirectMethodConfig
from vbdguard.method.level import Level, image_levels
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.trigger_search import search
from vbdguard.method.window import window_at
from vbdguard.progress import Silent

SIDE, CLASSES, PER_CLASS, CARRIERS = 24, 16, 80, 8
CONFIG = DirectMethodConfig()
MARK = 32.0 * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    places = np.random.default_rng(1).integers(2, SIDE - 5, (CLASSES, 2))
    places[-3:] = [(0, 9), (SIDE - 3, SIDE - 3), (12, 0)]
    return places


def textures(places: Mapping[int, Sequence[int]]) -> Samples:
    """Return textures of which a tenth of each class bears a mark at its place; none of a class without a place."""
    rng = np.random.default_rng(0)
    n = CLASSES * PER_CLASS
    noise = smooth_noise(rng, (n, SIDE, SIDE, 3))
    labels = np.arange(n) % CLASSES
    images = 128 + 25 * noise + rng.normal(0, 8, noise.shape)
    for label, (top, left) in places.items():
        carriers = np.flatnonzero(labels == label)[:CARRIERS]
        images[carriers, top : top + 3, left : left + 3] += MARK[..., None]
    return Samples(as_pixels(images), torch.from_numpy(labels), CLASSES)


@pytest.fixture(scope="module")
def samples(places: np.ndarray) -> Samples:
    """Return textures with a mark in each class but class 0."""
    return textures({label: place for label, place in enumerate(places.tolist()) if label})


@pytest.fixture(scope="module")
def level(samples: Samples) -> Level:
    return image_levels(Population.of(samples), samples, CONFIG)[0]


def suspect(samples: Samples, level: Level, label: int, mask: np.ndarray, top: int, left: int) -> Suspect:
    """Return a suspect with a mark of 32 grey levels in a mask at a place, all of whose first samples carry it."""
    height, width = mask.shape
    whole = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    whole[top : top + height, left : left + width] = torch.from_numpy(mask)
    members = samples.members(label)
    return Suspect(
        label=label,
        members=members,
        level=level,
        planted=PlantedTrigger(TriggerCandidate(whole, 240.0 * whole.expand(3, -1, -1)), 32 / 112),
        window=window_at(top + 1, left + 1, level.side, level.image_size),
        logits=torch.where(torch.arange(len(members)) < CARRIERS, 3.0, -3.0),
        gain=60.0,
        trace=MixtureTrace(window_at(top + 1, left + 1, level.side, level.image_size), torch.zeros(243), [], 0.1),
        extent=whole,
        is_wide=False,
        is_painted=True,
        kin=0,
    )


def test_what_some_classes_show_is_found_in_all_others_also_at_the_border(
    samples: Samples, level: Level, places: np.ndarray
) -> None:
    """Ten classes teach it, half of them at a wrong place: it is learned from samples that are stamped there."""
    shown = [(label, *(places[label] if label % 2 else (1, 1))) for label in range(1, 11)]
    kin = [suspect(samples, level, label, MARK > 0, top, left) for label, top, left in shown]
    listener = Counting()
    found = search(samples, kin, CONFIG, 0, listener)
    assert listener.steps == CLASSES
    right = [one for one in found if one.planted.trigger.bbox == (*places[one.label], 3, 3)]
    assert len(right) >= 13
    assert {CLASSES - 3, CLASSES - 2, CLASSES - 1} <= {one.label for one in right}
    assert all(one.is_common and one.explains_enough(CONFIG) for one in found)
    hits = sum(int((one.logits[:CARRIERS] > 0).sum()) for one in right)
    assert hits > 0.6 * CARRIERS * len(right)
    strongest = max((one.gain for one in found if one.label == 0), default=0.0)
    assert strongest < min(sorted(one.gain for one in right)[3:])


def test_a_class_too_small_to_be_asked_is_no_obstacle(samples: Samples, level: Level, places: np.ndarray) -> None:
    few = samples.labels.clone()
    few[samples.members(0)[3:]] = 1
    shown = [(label, *places[label]) for label in range(2, 12)]
    kin = [suspect(samples, level, label, MARK > 0, top, left) for label, top, left in shown]
    listener = Counting()
    found = search(Samples(samples.images, few, CLASSES + 1), kin, CONFIG, 0, listener)
    assert listener.steps == CLASSES + 1
    assert {one.label for one in found}.isdisjoint({0, CLASSES})
    assert len([one for one in found if one.planted.trigger.bbox == (*places[one.label], 3, 3)]) >= 11


def test_a_place_that_half_of_the_classes_share_is_found() -> None:
    """None of these classes stands out of the others there."""
    attacked = range(1, CLASSES // 2 + 1)
    samples = textures(dict.fromkeys(attacked, (4, 15)))
    level = image_levels(Population.of(samples), samples, CONFIG)[0]
    kin = [suspect(samples, level, label, MARK > 0, 4, 15) for label in attacked]
    found = search(samples, kin, CONFIG, 0, Silent())
    right = [one.label for one in found if one.planted.trigger.bbox[:2] == (4, 15)]
    assert len(right) >= 6
    assert set(right) <= set(attacked)


def test_a_place_that_cuts_off_a_part_of_the_trigger_teaches_nothing_and_stops_nobody(
    samples: Samples, level: Level, places: np.ndarray
) -> None:
    """All but the class at the right border show one column more than there is."""
    wide = np.pad(MARK > 0, [(0, 0), (0, 1)], constant_values=True)
    shown = [(label, *places[label]) for label in range(1, 11)]
    kin = [suspect(samples, level, label, wide, top, left) for label, top, left in shown]
    kin.append(suspect(samples, level, CLASSES - 2, wide[:, :3], *places[CLASSES - 2]))
    found = search(samples, kin, CONFIG, 0, Silent())
    assert len([one for one in found if one.planted.trigger.mask[tuple(places[one.label])]]) >= 10


def test_a_trigger_too_large_to_look_alike_everywhere_is_not_searched_for(samples: Samples, level: Level) -> None:
    large = np.ones((10, 10), dtype=np.bool_)
    kin = [suspect(samples, level, label, large, label, 14 - label) for label in range(1, 11)]
    listener = Counting()
    assert search(samples, kin, CONFIG, 0, listener) == []
    assert listener.steps == CLASSES
