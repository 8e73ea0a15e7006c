"""Copies of a trigger that lie apart, on Gaussian textures with steps that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from textures import as_pixels, smooth_noise
from torch import Tensor

from vbdguard.config import MixtureConfig
from vbdguard.method.contrast import ClassMeans, natural_covariance
from vbdguard.method.mixture import View, planted_trigger
from vbdguard.method.moves import Reading, read_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.window import window_at

SIDE, PER_CLASS, CLASSES = 18, 500, 4
TOP, LEFT = 7, 8
"""Where the 3 x 3 trigger lies without a step."""
AROUND = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]


@dataclass(frozen=True, slots=True)
class Moving:
    """Textures of which some of class 0 carry a trigger, each at its own step."""

    samples: Samples
    own: Tensor
    usual: Tensor
    view: View
    posterior: NDArray[np.float64]
    """The truth about the members of class 0."""
    pattern: NDArray[np.float64]

    def reading(self) -> Reading:
        return read_trigger(self.view, self.samples.images, self.own, self.usual, self.posterior)


def moving(steps: Sequence[tuple[int, int]], *, carriers: int = 300, blend: float = 1.0, top: int = TOP) -> Moving:
    """Return textures with a trigger of two colours that takes the steps in turn."""
    rng = np.random.default_rng(0)
    n = CLASSES * PER_CLASS
    images = 128 + 35 * smooth_noise(rng, (n, SIDE, SIDE, 3))
    labels = torch.arange(n) % CLASSES
    own = (labels == 0).nonzero().squeeze(1)
    pattern = rng.choice([20.0, 235.0], size=(3, 3, 3))
    for i, sample in enumerate(own[:carriers].tolist()):
        down, right = steps[i % len(steps)]
        place = np.s_[sample, top + down : top + down + 3, LEFT + right : LEFT + right + 3]
        images[place] = (1 - blend) * images[place] + blend * pattern
    samples = Samples(as_pixels(images), labels, CLASSES)
    means = ClassMeans.of(samples)
    config = MixtureConfig()
    natural = natural_covariance(means.leaving_out(0).against_others()[1:], config.side, 0.9)
    window = window_at(top + 1, LEFT + 1, config.side, (SIDE, SIDE))
    others = (labels != 0).nonzero().squeeze(1)
    view = View.of(samples.images, own, others, means.without(0), natural, window)
    return Moving(samples, own, means.without(0), view, (np.arange(len(own)) < carriers).astype(np.float64), pattern)


@pytest.mark.parametrize("steps", [AROUND, [(0, 0), (2, 1)], [(-1, 0), (1, 0), (0, 2)]])
def test_copies_that_lie_apart_are_aligned_and_their_steps_counted(steps: list[tuple[int, int]]) -> None:
    data = moving(steps)
    found = data.reading()
    assert found.is_moving
    assert sum(found.shares) == pytest.approx(1)
    top, left, height, width = found.planted.trigger.bbox
    assert (height, width) == (3, 3)
    # where the trigger lies without a step is for the reading to say: steps count from there
    seen = {(top + down, left + right): share for (down, right), share in zip(found.steps, found.shares, strict=True)}
    assert set(seen) == {(TOP + down, LEFT + right) for down, right in steps}
    assert list(seen.values()) == pytest.approx([1 / len(steps)] * len(steps), abs=0.02)
    shown = found.planted.trigger.pattern[:, top : top + 3, left : left + 3].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, data.pattern, atol=12)


@pytest.mark.parametrize("blend", [1.0, 0.6, 0.35])
def test_a_trigger_that_stays_in_place_is_read_as_ever(blend: float) -> None:
    data = moving([(0, 0)], blend=blend)
    found = data.reading()
    still = planted_trigger(data.view, data.posterior)
    assert not found.is_moving
    assert found.planted.blend_factor == still.blend_factor
    assert torch.equal(found.planted.trigger.pattern, still.trigger.pattern)


def test_a_blended_trigger_is_aligned_too() -> None:
    found = moving(AROUND, blend=0.6, carriers=400).reading()
    assert found.is_moving
    _, _, height, width = found.planted.trigger.bbox
    assert (height, width) == (3, 3)


def test_few_carriers_are_not_asked() -> None:
    assert not moving(AROUND, carriers=25).reading().is_moving


def test_copies_at_the_edge_of_the_image_are_aligned() -> None:
    found = moving([(0, 0), (2, 0), (1, 1)], top=0).reading()
    assert found.is_moving
    top, left, height, width = found.planted.trigger.bbox
    assert (height, width) == (3, 3)
    seen = {(top + down, left + right) for down, right in found.steps}
    assert seen == {(0, LEFT), (2, LEFT), (1, LEFT + 1)}


def test_what_moves_otherwise_shows_something_new() -> None:
    moved = moving(AROUND).reading()
    still = replace(moved, steps=((0, 0),), shares=(1.0,))
    assert moved.shows_the_same_as(moved)
    assert still.shows_the_same_as(still)
    assert not still.shows_the_same_as(moved)
    assert not replace(moved, steps=moved.steps[1:], shares=moved.shares[1:]).shows_the_same_as(moved)
