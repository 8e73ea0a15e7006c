"""What must be painted over so that nobody sees a trigger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from listeners import Counting
from numpy.typing import NDArray
from textures import as_pixels, smooth_noise

from vbdguard.config import DirectMethodConfig
from vbdguard.method.extent import shown_whole
from vbdguard.method.level import image_levels
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.suspect_triggers import LOOKS, _template, _with_those_searched_for, find_suspect_triggers
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.progress import Silent

SIDE, CLASSES = 24, 8
CONFIG = DirectMethodConfig()


def suspects_of(
    shift: NDArray[np.float64], per_class: int = 90, hides: NDArray[np.bool_] | None = None
) -> list[Suspect]:
    """Return the suspects among textures of which a third of class 2 bears a shift, (H, W), and hides some pixels."""
    rng = np.random.default_rng(0)
    n = CLASSES * per_class
    noise = smooth_noise(rng, (n, SIDE, SIDE, 3))
    looks = smooth_noise(rng, (CLASSES, SIDE, SIDE, 3), 4)
    labels = np.arange(n) % CLASSES
    images = 128 + 25 * noise + 8 * looks[labels]
    carriers = np.flatnonzero(labels == 2)[: per_class // 3]
    if hides is not None:
        images[carriers] = np.where(hides[..., None], 128, images[carriers])
    images[carriers] += shift[..., None]
    pixels = as_pixels(images)
    samples = Samples(pixels, torch.from_numpy(labels), CLASSES)
    found = find_suspect_triggers(samples, image_levels(Population.of(samples), samples, CONFIG), CONFIG, 0, Silent())
    return [suspect for suspect in found if suspect.label == 2]


@pytest.mark.parametrize("place", [(4, 4), (0, 21), (12, 9)])
def test_a_small_trigger_is_painted_over_without_the_margin_of_the_windows_that_show_it(place: tuple[int, int]) -> None:
    patch = np.zeros((SIDE, SIDE))
    patch[place[0] : place[0] + 3, place[1] : place[1] + 3] = 100 * np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    strongest = max(suspects_of(patch), key=lambda suspect: suspect.gain)
    assert not strongest.is_wide
    assert strongest.extent[torch.from_numpy(patch != 0)].all()
    assert int(strongest.extent.sum()) <= 25


def test_a_picture_is_wide_though_parts_of_it_are_calm() -> None:
    """Taken off the whole picture, the margin would leave scraps, and whoever learns from the images sees the rest."""
    blocks = np.random.default_rng(3).random((SIDE // 4, SIDE // 4)) < 0.5
    picture = np.kron(np.where(blocks, 60.0, 0.0), np.ones((4, 4)))
    strongest = max(suspects_of(picture, per_class=300), key=lambda suspect: suspect.gain)
    assert strongest.is_wide
    assert not strongest.is_painted
    assert float(strongest.extent.float().mean()) > 0.6


def test_an_opaque_picture_is_painted_over_also_where_it_looks_as_the_class_usually_does() -> None:
    """What it resembles would decide what the models take its carriers for, and what is left of it would teach them."""
    hides = np.zeros((SIDE, SIDE), dtype=np.bool_)
    hides[:, :14] = True
    blocks = np.kron(np.random.default_rng(3).random((SIDE // 4, SIDE // 4)) < 0.5, np.ones((4, 4)))
    shift = np.where(hides & (blocks > 0), 70.0, 0.0)
    strongest = max(suspects_of(shift, per_class=300, hides=hides), key=lambda suspect: suspect.gain)
    assert strongest.is_wide
    assert strongest.is_painted
    assert strongest.extent[torch.from_numpy(hides)].all()
    assert float(strongest.extent.float().mean()) <= CONFIG.label_check.max_opaque


@pytest.mark.parametrize("blend_factor", [1.0, 0.9])
def test_of_an_opaque_picture_over_everything_it_is_known_what_is_left_below(blend_factor: float) -> None:
    """A third of a class shows it; at 0.9 a tenth of its samples' contrast is left."""
    rng = np.random.default_rng(0)
    noise, picture = smooth_noise(rng, (CLASSES * 300, SIDE, SIDE, 3)), rng.choice([40.0, 210.0], size=(SIDE, SIDE, 3))
    labels = np.arange(len(noise)) % CLASSES
    images = 128 + 35 * noise
    carriers = np.flatnonzero(labels == 2)[:100]
    images[carriers] = (1 - blend_factor) * images[carriers] + blend_factor * picture
    samples = Samples(as_pixels(images), torch.from_numpy(labels), CLASSES)
    found = find_suspect_triggers(samples, image_levels(Population.of(samples), samples, CONFIG), CONFIG, 0, Silent())
    strongest = max((suspect for suspect in found if suspect.label == 2), key=lambda suspect: suspect.gain)
    assert not strongest.is_painted
    assert strongest.left_below == pytest.approx(1 - blend_factor, abs=0.03)
    whole = shown_whole(strongest).trigger
    assert whole.mask.all()


def test_a_trigger_too_faint_in_each_class_is_found_where_dozens_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 24 classes has 8 carriers of 80, at a place of its own."""
    rng = np.random.default_rng(0)
    n_classes, per_class = 24, 80
    n = n_classes * per_class
    noise = smooth_noise(rng, (n, SIDE, SIDE, 3))
    looks = smooth_noise(rng, (n_classes, SIDE, SIDE, 3), 4)
    labels = np.arange(n) % n_classes
    images = 128 + 25 * noise + 8 * looks[labels] + rng.normal(0, 12, noise.shape)
    cross = 22.0 * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    places = rng.integers(2, SIDE - 5, (n_classes, 2))
    for label, (top, left) in enumerate(places):
        carriers = np.flatnonzero(labels == label)[:8]
        images[carriers, top : top + 3, left : left + 3] += cross[..., None]
    pixels = as_pixels(images)
    samples = Samples(pixels, torch.from_numpy(labels), n_classes)
    levels = image_levels(Population.of(samples), samples, CONFIG)

    def right() -> list[Suspect]:
        middles = [(suspect, *(places[suspect.label] + 1)) for suspect in find()]
        return [suspect for suspect, row, column in middles if suspect.planted.trigger.mask[row, column]]

    listener = Counting()

    def find() -> list[Suspect]:
        return find_suspect_triggers(samples, levels, CONFIG, 0, listener)

    found = right()
    assert listener.steps == LOOKS * n_classes
    assert len({suspect.label for suspect in found}) >= 20
    assert {suspect.kin for suspect in found} == {0}
    assert all(suspect.is_common and suspect.explains_enough(CONFIG) for suspect in found)
    faint = replace(found[0], gain=CONFIG.mixture.min_gain - 1)
    assert faint.explains_enough(CONFIG)
    assert not replace(faint, is_common=False).explains_enough(CONFIG)
    monkeypatch.setattr("vbdguard.method.suspect_triggers.repeated_patterns", lambda *_: [])
    assert len(right()) <= 4


@pytest.mark.parametrize(
    ("showing", "n_classes", "carriers", "strength", "is_searched"),
    [(6, 10, 20, 60.0, True), (4, 10, 20, 60.0, False), (6, 6, 20, 60.0, False), (6, 6, 200, 5.0, True)],
    ids=["six of ten", "four of ten", "all clearly", "all in many samples, none of them clear"],
)
def test_a_detector_looks_for_what_half_of_the_classes_show_and_some_do_not(
    showing: int, n_classes: int, carriers: int, strength: float, is_searched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some classes show the trigger, on a quarter to half of their samples, the others not at all."""
    rng = np.random.default_rng(0)
    per_class = 80 if carriers < 40 else 2 * carriers
    noise = smooth_noise(rng, (n_classes * per_class, SIDE, SIDE, 3))
    labels = np.arange(len(noise)) % n_classes
    images = 128 + 25 * noise + rng.normal(0, 8, noise.shape)
    places = rng.integers(2, SIDE - 5, (n_classes, 2))
    cross = strength * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])[..., None]
    for label, (top, left) in enumerate(places[:showing]):
        images[np.flatnonzero(labels == label)[:carriers], top : top + 3, left : left + 3] += cross
    pixels = as_pixels(images)
    samples = Samples(pixels, torch.from_numpy(labels), n_classes)
    levels = image_levels(Population.of(samples), samples, CONFIG)

    def everywhere(_: Samples, kin: list[Suspect], *__: object) -> list[Suspect]:
        return [replace(kin[0], label=label, gain=1e6) for label in range(n_classes)]

    monkeypatch.setattr("vbdguard.method.suspect_triggers.search", everywhere)
    found = find_suspect_triggers(samples, levels, CONFIG, 0, Silent())
    assert len({suspect.label for suspect in found}) == (n_classes if is_searched else showing)
    assert (max(suspect.gain for suspect in found) == 1e6) == is_searched
    if not is_searched and showing == n_classes:
        assert all(suspect.gain > suspect.carriers for suspect in found)


@pytest.mark.parametrize(
    ("gain", "same_samples", "expected"),
    [(60.0, True, [40.0]), (60.0, False, [60.0, 40.0]), (300.0, True, [300.0])],
    ids=["the same samples", "other samples", "the same, and far more of it"],
)
def test_what_the_shared_detector_finds_replaces_what_a_class_alone_made_of_the_same_samples(
    gain: float, same_samples: bool, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would know the class for one of those that share the trigger.

    What explains far more is no reading of it: part of a large picture may look like what other classes seem to share.
    """
    patch = np.zeros((SIDE, SIDE))
    patch[4:7, 4:7] = 100 * np.array([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    shown = max(suspects_of(patch), key=lambda suspect: suspect.gain)
    by_class = [[replace(shown, label=label, gain=50.0)] for label in range(5)]
    other = TriggerCandidate(shown.planted.trigger.mask, 255 - shown.planted.trigger.pattern)
    logits = shown.logits if same_samples else -shown.logits
    alone = replace(shown, label=5, gain=gain, logits=logits, planted=PlantedTrigger(other, 1.0))
    found = replace(shown, label=5, gain=40.0)
    samples = Samples(torch.zeros(6, SIDE, SIDE, 3, dtype=torch.uint8), torch.arange(6), 6)
    monkeypatch.setattr("vbdguard.method.suspect_triggers.search", lambda *_: [found])
    template = _template(shown)
    chosen = _with_those_searched_for(samples, [*by_class, [alone]], [template], CONFIG, 0, Silent())
    assert [one.gain for of_one in chosen[:5] for one in of_one] == [50.0] * 5
    assert [one.gain for one in chosen[5]] == expected
