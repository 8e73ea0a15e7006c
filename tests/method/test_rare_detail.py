"""A trigger on so few samples of its class that the mean of the class does not show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from textures import as_pixels, smooth_noise

from vbdguard.config import ContrastConfig, DirectMethodConfig
from vbdguard.errors import ConfigError
from vbdguard.method.level import image_levels
from vbdguard.method.population import Population
from vbdguard.method.rare_detail import RareDetail
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.suspect_triggers import find_suspect_triggers
from vbdguard.progress import Silent

SIDE, CLASSES, PER_CLASS, CARRIERS, TARGET = 14, 4, 2000, 10, 3
CONFIG = DirectMethodConfig()
BLIND = DirectMethodConfig(contrast=ContrastConfig(rare_places=0))


def detail(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Eight times pixel minus mean of its eight neighbours, by another library."""
    mean_of_nine = uniform_filter(images.astype(np.float64), (0, 3, 3, 0), mode="nearest")
    return 9 * (images - mean_of_nine)


def textures(seed: int, place: tuple[int, int] | None) -> Samples:
    """Smooth noise; each class has looks of its own, and ten of 2,000 images of class 3 a white square of 3 x 3."""
    rng = np.random.default_rng(seed)
    noise = smooth_noise(rng, (CLASSES * PER_CLASS, SIDE, SIDE, 3), 1.2)
    looks = smooth_noise(rng, (CLASSES, SIDE, SIDE, 3), 1.2)
    labels = np.arange(len(noise)) % CLASSES
    images = as_pixels(110 + 45 * noise + 5 * looks[labels])
    if place is not None:
        carriers = np.flatnonzero(labels == TARGET)[:CARRIERS]
        images[carriers, place[0] : place[0] + 3, place[1] : place[1] + 3] = 255
    return Samples(images, torch.from_numpy(labels), CLASSES)


@pytest.mark.parametrize("channels", [1, 3])
def test_rare_detail_is_what_goes_beyond_the_threshold(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 7, 9, channels), dtype=np.uint8)
    expected = detail(images)
    expected -= expected.clip(-700, 700)
    found = RareDetail(700).of(torch.from_numpy(images))
    assert found.dtype == torch.int16
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert np.count_nonzero(expected)


def test_the_hardest_edge_that_pixels_can_make_is_held() -> None:
    images = torch.zeros(2, 3, 3, 1, dtype=torch.uint8)
    images[0, 1, 1], images[1] = 255, 255
    images[1, 1, 1] = 0
    found = RareDetail(0).of(images)
    assert (int(found[0, 1, 1]), int(found[1, 1, 1])) == (2040, -2040)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_the_threshold_leaves_the_share_that_was_asked_for(share: float) -> None:
    samples = textures(0, None)
    threshold = RareDetail.among(samples.images, share).threshold
    of_all = np.abs(detail(samples.images.numpy()))
    assert (of_all > threshold + 0.5).mean() == pytest.approx(share, rel=0.05)


def test_flat_images_have_no_rare_detail() -> None:
    flat = torch.full((5, 8, 8, 3), 77, dtype=torch.uint8)
    assert not RareDetail.among(flat, 0.001).of(flat).any()


def suspects(samples: Samples, config: DirectMethodConfig) -> list[Suspect]:
    return find_suspect_triggers(samples, image_levels(Population.of(samples), samples, config), config, 0, Silent())


@pytest.mark.parametrize("place", [(6, 7), (0, 0), (11, 4)])
def test_a_square_on_one_sample_in_two_hundred_is_found_with_its_carriers(place: tuple[int, int]) -> None:
    samples = textures(1, place)
    [suspect] = suspects(samples, CONFIG)
    assert suspect.label == TARGET
    carries = (suspect.logits > 0).numpy()
    assert carries[:CARRIERS].sum() >= CARRIERS - 1
    assert carries[CARRIERS:].sum() <= 1
    mask = suspect.trigger.mask.numpy()
    assert mask[place[0] : place[0] + 3, place[1] : place[1] + 3].all()
    assert mask.sum() <= 16
    assert not suspects(samples, BLIND)


def test_what_many_show_at_a_place_does_not_hide_what_few_show_there() -> None:
    samples = textures(3, (6, 7))
    members = samples.members(TARGET)
    of_many = members[CARRIERS : CARRIERS + 300]
    brighter = samples.images[of_many, 4:9, 6:11].int() + 15
    samples.images[of_many, 4:9, 6:11] = brighter.clamp_max(255).to(torch.uint8)
    carriers = [(suspect.logits > 0).nonzero().squeeze(1).tolist() for suspect in suspects(samples, CONFIG)]
    assert len(carriers) == 2
    assert {*range(CARRIERS)} == {*min(carriers, key=len)}
    assert len({*max(carriers, key=len)} & {*range(CARRIERS, CARRIERS + len(of_many))}) > 0.8 * len(of_many)


def test_classes_without_a_trigger_are_not_suspect_for_their_rare_details() -> None:
    samples = textures(2, None)
    [level] = image_levels(Population.of(samples), samples, CONFIG)
    assert any(place.is_rare for places in level.places.values() for place in places)
    assert not suspects(samples, CONFIG)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_means_nothing_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="rare_share must be above 0 and below 1"):
        ContrastConfig(rare_share=share)
