"""What a mixture must explain at each size, and where classes are likeliest to carry a known trigger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from textures import as_pixels, smooth_noise

from vbdguard.config import DirectMethodConfig
from vbdguard.method.common_trigger import Expected, Template, expected_elsewhere
from vbdguard.method.level import Level, image_levels
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples

SIDE, CLASSES, PER_CLASS, CARRIERS = 20, 12, 60, 12
CONFIG = DirectMethodConfig()
MARK = np.array([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])[..., None] * np.full(3, 45.0)
PLACES = np.random.default_rng(2).integers(2, SIDE - 5, (CLASSES, 2))


@pytest.fixture(scope="module")
def levels() -> list[Level]:
    """Textures of twelve classes, a fifth of each with a mark at the place of the class."""
    rng = np.random.default_rng(0)
    noise = smooth_noise(rng, (CLASSES * PER_CLASS, SIDE, SIDE, 3))
    images = 128 + 25 * noise + rng.normal(0, 6, noise.shape)
    labels = np.arange(len(images)) % CLASSES
    for label, (top, left) in enumerate(PLACES):
        images[np.flatnonzero(labels == label)[:CARRIERS], top : top + 3, left : left + 3] += MARK
    pixels = as_pixels(images)
    samples = Samples(pixels, torch.from_numpy(labels), CLASSES)
    return image_levels(Population.of(samples), samples, CONFIG)


def template(n_classes: int) -> Template:
    return Template(MARK, 10.0, 300.0, frozenset(range(n_classes)))


def test_large_classes_and_coarse_images_ask_for_more(levels: list[Level]) -> None:
    whole, coarse = levels
    assert not whole.is_coarse
    assert coarse.is_coarse
    assert whole.least_gain(500, 20, CONFIG) == CONFIG.mixture.min_gain
    assert whole.least_gain(5000, 20, CONFIG) == pytest.approx(100.0)
    assert coarse.least_gain(500, 20, CONFIG) == 200.0
    assert coarse.least_gain(5000, 450, CONFIG) == pytest.approx(450.0)


def test_one_place_of_each_class_where_ten_show_a_template(levels: list[Level]) -> None:
    """It is where the mark lies."""
    expected = expected_elsewhere([template(10)], levels[0])
    middles = {
        label: (place.window.top + place.window.size[0] // 2, place.window.left + place.window.size[1] // 2)
        for label, (place,) in expected.items()
    }
    right = [label for label, (row, column) in middles.items() if max(abs(PLACES[label] + 1 - (row, column))) <= 3]
    assert len(right) >= CLASSES - 1


def test_where_ten_classes_show_a_template_one_place_of_each_is_asked(levels: list[Level]) -> None:
    many = expected_elsewhere([template(10)], levels[0])
    assert all(len(places) == 1 for places in many.values())
    assert all(place.is_common for places in many.values() for place in places)
    few = expected_elsewhere([template(3)], levels[0])
    assert not any(place.is_common for places in few.values() for place in places)


@pytest.mark.parametrize("place", [(8, 6), (0, 0), (SIDE - 3, SIDE - 3)])
def test_what_is_expected_lies_where_the_template_does(levels: list[Level], place: tuple[int, int]) -> None:
    expected = Expected.of(template(1), *place, levels[0])
    window = expected.window
    whole = np.zeros((SIDE, SIDE, 3))
    whole[window.top : window.bottom, window.left : window.right] = expected.shift
    np.testing.assert_array_equal(whole[place[0] : place[0] + 3, place[1] : place[1] + 3], MARK)
    assert np.count_nonzero(whole) == np.count_nonzero(MARK)


@pytest.mark.parametrize("size", [(16, 16), (31, 40), (63, 100), (250, 127)])
def test_what_coarse_images_show_is_laid_where_it_was(size: tuple[int, int]) -> None:
    """Halving drops the last row of an odd side, and what it keeps is a power of two pixels."""
    images = torch.zeros(2, *size, 1, dtype=torch.uint8)
    samples = Samples(images, torch.tensor([0, 1]), 2)
    level = image_levels(Population.of(samples), samples, CONFIG)[1]
    (height, width), small = size, level.samples.image_shape[:2]
    for row, column in ((0, 0), (small[0] // 2, small[1] - 1), (small[0] - 1, 1)):
        probe = torch.zeros(1, height, width, 1)
        top, left = row * level.scale, column * level.scale
        probe[:, top : top + level.scale, left : left + level.scale] = 255
        coarse = torch.zeros(small, dtype=torch.bool)
        coarse[row, column] = True
        assert torch.equal(level.seen(probe.to(torch.uint8))[0, ..., 0] > 0, coarse)
        laid = level.at_full_size(coarse)
        assert laid[probe[0, ..., 0] > 0].all()
        assert int(laid.sum()) >= level.scale**2
        assert not laid[: max(0, top)].any()
        assert not laid[:, : max(0, left)].any()


@pytest.mark.parametrize(("classes", "distinct"), [(7, 7), (130, 101)])
def test_no_class_says_what_is_natural_for_itself(classes: int, distinct: int) -> None:
    """Of many classes some speak for all, so that the work and the memory stay bounded."""
    rng = np.random.default_rng(3)
    images = 128 + 25 * smooth_noise(rng, (6 * classes, 12, 12, 3))
    labels = np.arange(len(images)) % classes
    loud = labels == 0
    images[loud] += 100 * rng.normal(size=(12, 12, 3))
    samples = Samples(as_pixels(images), torch.from_numpy(labels), classes)
    config = replace(CONFIG, contrast=replace(CONFIG.contrast, natural_share=1.0))
    level = image_levels(Population.of(samples), samples, config)[0]
    natural = [level.natural(label) for label in range(classes)]
    assert len({id(each) for each in natural}) == distinct
    assert all(natural[0].trace() < 0.8 * each.trace() for each in natural[1:])
