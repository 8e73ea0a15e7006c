from __future__ import annotations

import numpy as np
import pytest
import torch

from vbdguard.errors import ConfigError
from vbdguard.ingest.store import PixelStore
from vbdguard.training.pixels import Normalization, PixelFeed


def test_measured_statistics_are_those_of_the_pixels(store: PixelStore) -> None:
    indices = np.arange(0, 1000, 3)
    pixels = store.gather(indices).reshape(-1, 3) / 255
    found = Normalization.measure(store, indices)
    assert found.mean == pytest.approx(pixels.mean(0), abs=1e-5)
    assert found.std == pytest.approx(pixels.std(0), abs=1e-5)


def test_what_is_normalised_has_mean_0_and_deviation_1(store: PixelStore) -> None:
    everyone = np.arange(1000)
    images = PixelFeed(store, torch.device("cpu")).batch(everyone)
    x = Normalization.measure(store, everyone).apply(images)
    assert x.shape == (1000, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.mean((0, 2, 3)).numpy() == pytest.approx(np.zeros(3), abs=1e-4)
    assert x.std((0, 2, 3)).numpy() == pytest.approx(np.ones(3), abs=1e-3)


def test_images_of_one_colour_are_divided_by_something(store: PixelStore) -> None:
    flat = Normalization((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)).apply(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    assert bool((flat == 0.5).all())


def test_batches_come_in_the_order_asked_for(store: PixelStore) -> None:
    images = PixelFeed(store, torch.device("cpu")).batch([5, 2, 5])
    assert np.array_equal(images.numpy(), store.gather([5, 2, 5]))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.2,)), ((0.5,) * 3, (0.2, 0.0, 0.2))])
def test_statistics_that_cannot_be_right_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="three means and three deviations above 0"):
        Normalization(mean, std)
