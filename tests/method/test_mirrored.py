"""What all classes carry at one place, on textures that are as likely as their mirror images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from textures import as_pixels, smooth_noise
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.level import Level, image_levels
from vbdguard.method.mirrored import find_in_all_classes
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples

HEIGHT, WIDTH, CLASSES, PER_CLASS, CARRIERS = 20, 24, 8, 150, 15
CONFIG = DirectMethodConfig()
ALL = tuple(range(CLASSES))


def textures(*, darker_left: float = 0.0) -> Tensor:
    """Return textures, the classes mixed, whose left half is darker by so many grey levels; uint8."""
    rng = np.random.default_rng(0)
    noise = smooth_noise(rng, (CLASSES * PER_CLASS, HEIGHT, WIDTH, 3))
    images = 128 + 25 * noise + rng.normal(0, 6, noise.shape)
    images[:, :, : WIDTH // 2] -= darker_left
    return as_pixels(images)


def level(images: Tensor) -> Level:
    samples = Samples(images, torch.arange(len(images)) % CLASSES, CLASSES)
    return image_levels(Population.of(samples), samples, CONFIG)[0]


def lighter(images: Tensor, row: int, column: int, side: int, amount: int, *, every: int = 1) -> Tensor:
    """Return the images with a lighter square on one in `every` of each class."""
    result = images.clone()
    for label in ALL:
        square = result[label :: CLASSES * every, row : row + side, column : column + side]
        square += amount  # a texture is nowhere near white
    return result


def stamped(images: Tensor, labels: tuple[int, ...], top: int, left: int, *, every: int = 10) -> Tensor:
    """Return the images with a light square on one in `every` of some classes."""
    result = images.clone()
    for label in labels:
        result[label :: CLASSES * every, top : top + 3, left : left + 3] = 235
    return result


@pytest.mark.parametrize("place", [(15, 19), (1, 1), (8, 4)])
def test_all_classes_show_what_all_carry_at_one_place(place: tuple[int, int]) -> None:
    found = find_in_all_classes(level(stamped(textures(), ALL, *place)), CONFIG)
    assert sorted(found) == list(ALL)
    for label, (suspect, *_) in found.items():
        assert suspect.label == label
        top, left, height, width = suspect.planted.trigger.bbox
        assert max(abs(top + height / 2 - place[0] - 1.5), abs(left + width / 2 - place[1] - 1.5)) <= 1
        is_flagged = suspect.logits > 0
        assert int(is_flagged[::10].sum()) >= 0.9 * CARRIERS
        assert int(is_flagged.sum()) <= 1.3 * CARRIERS


def test_each_class_has_a_share_of_its_own() -> None:
    images = stamped(stamped(textures(), ALL[:3], 15, 19), ALL[3:6], 15, 19, every=3)
    found = find_in_all_classes(level(images), CONFIG)
    assert sorted(found) == list(ALL[:6])
    carriers = [found[label][0].carriers for label in ALL[:6]]
    assert carriers == pytest.approx([15, 15, 15, 50, 50, 50], abs=4)


def test_clean_textures_show_nothing() -> None:
    assert find_in_all_classes(level(textures()), CONFIG) == {}


def test_what_one_or_two_classes_carry_is_left_to_the_comparison_of_classes() -> None:
    assert find_in_all_classes(level(stamped(textures(), ALL[:2], 15, 19, every=3)), CONFIG) == {}


@pytest.mark.parametrize("every", [1, 2])
def test_what_half_of_the_images_show_is_how_they_are(every: int) -> None:
    assert find_in_all_classes(level(stamped(textures(), ALL, 15, 19, every=every)), CONFIG) == {}


def test_what_explains_little_in_each_image_is_how_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    faint = level(lighter(textures(), 15, 19, 3, 90, every=4))
    assert sorted(find_in_all_classes(faint, CONFIG)) == list(ALL)
    each = sum(s.gain for (s, *_) in find_in_all_classes(faint, CONFIG).values()) / (CLASSES * PER_CLASS / 4)
    monkeypatch.setattr("vbdguard.method.mirrored._LEAST_EACH", 1.5 * each)
    assert find_in_all_classes(faint, CONFIG) == {}


@pytest.mark.parametrize(("dots", "amount"), [(2, 30), (3, 90)])
def test_a_trigger_is_found_beside_what_all_images_show_more_clearly(dots: int, amount: int) -> None:
    images = textures()
    for row, column in [(3, 3), (16, 4), (4, 8)][:dots]:
        images = lighter(images, row, column, 2, 20)
    images = lighter(images, 15, 15, 3, amount, every=10)
    found = find_in_all_classes(level(images), CONFIG)
    assert sorted(found) == list(ALL)
    for suspect, *_ in found.values():
        assert suspect.planted.trigger.bbox == (15, 15, 3, 3)


def test_images_unlike_their_mirror_images_left_to_right_are_compared_upside_down() -> None:
    images = stamped(textures(darker_left=60.0), ALL, 15, 4)
    assert sorted(find_in_all_classes(level(images), CONFIG)) == list(ALL)


def test_images_unlike_any_mirror_image_say_nothing() -> None:
    images = textures(darker_left=60.0)
    images[:, : HEIGHT // 2] //= 2
    assert find_in_all_classes(level(stamped(images, ALL, 15, 19)), CONFIG) == {}


def test_a_class_with_hardly_a_sample_is_no_obstacle() -> None:
    images = stamped(textures(), ALL, 15, 19)
    labels = torch.arange(len(images)) % CLASSES
    labels[labels == 0] = 1
    labels[:3] = 0
    samples = Samples(images, labels, CLASSES + 1)
    found = find_in_all_classes(image_levels(Population.of(samples), samples, CONFIG)[0], CONFIG)
    assert sorted(found) == list(ALL[1:])
