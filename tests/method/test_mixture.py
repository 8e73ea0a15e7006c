"""Stage 3 of preset `default` on Gaussian textures with triggers of known share, place, pattern and opacity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from textures import as_pixels, smooth_noise
from torch import Tensor

from vbdguard.config import MixtureConfig
from vbdguard.method.contrast import ClassMeans, natural_covariance
from vbdguard.method.mixture import Mixture, View, fit_mixture, known_mixture, planted_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.window import window_at

CONFIG = MixtureConfig()
SIDE, CLASSES, TARGET = 14, 5, 0
ROW, COLUMN = 5, 8
"""The middle of the 3 x 3 trigger."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """Textures of which some of class 0 carry a trigger."""

    samples: Samples
    carries: NDArray[np.bool_]
    """(n,), of the target's members."""
    pattern: NDArray[np.float64]
    """(3, 3, C), 0 to 255."""

    def view(self, row: int = ROW, column: int = COLUMN, side: int = CONFIG.side) -> View:
        means = ClassMeans.of(self.samples)
        natural = natural_covariance(means.leaving_out(TARGET).against_others()[1:], side, 0.9)
        is_own = self.samples.labels == TARGET
        own, others = is_own.nonzero().squeeze(1), (~is_own).nonzero().squeeze(1)
        window = window_at(row, column, side, (SIDE, SIDE))
        return View.of(self.samples.images, own, others, means.without(TARGET), natural, window)


def stamped(
    *, share: float, blend: float = 1.0, per_class: int = 400, channels: int = 3, seed: int = 0, spread: float = 35.0
) -> Stamped:
    """Return smooth Gaussian textures, `share` of the first class with a trigger blended in."""
    rng = np.random.default_rng(seed)
    n = CLASSES * per_class
    noise = smooth_noise(rng, (n, SIDE, SIDE, channels))
    looks = smooth_noise(rng, (CLASSES, SIDE, SIDE, channels), 4)
    labels = np.arange(n) % CLASSES
    images = 128 + spread * noise + 8 * looks[labels]
    pattern = rng.choice([20.0, 235.0], size=(3, 3, channels))
    members = np.flatnonzero(labels == TARGET)
    carries = rng.permutation(len(members)) < round(share * len(members))
    # A trigger is pasted on images of all classes, which then get the target's label.
    chosen = members[carries]
    images[chosen] += 8 * (looks[rng.integers(0, CLASSES, len(chosen))] - looks[TARGET])
    place = np.s_[chosen, ROW - 1 : ROW + 2, COLUMN - 1 : COLUMN + 2]
    images[place] = (1 - blend) * images[place] + blend * pattern
    pixels = as_pixels(images)
    return Stamped(Samples(pixels, torch.from_numpy(labels), CLASSES), carries, pattern)


def fitted(data: Stamped) -> Mixture:
    found = fit_mixture(data.view(), CONFIG)
    assert found is not None
    return found


def test_a_trigger_that_no_blend_factor_explains_counts_as_opaque() -> None:
    """Read over darker images than it is looked for in: their mean cannot move so far."""
    view = stamped(share=0.3).view()
    shift = np.zeros((*view.window.size, 3))
    shift[3:6, 3:6] = 160.0
    assert float(view.background[3:6, 3:6].min()) > 100
    assert known_mixture(view, shift).planted.blend_factor == 1.0


def true_mask() -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[ROW - 1 : ROW + 2, COLUMN - 1 : COLUMN + 2] = True
    return mask


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_an_opaque_trigger_gives_its_share_samples_place_and_pattern(share: float) -> None:
    data = stamped(share=share)
    found = fitted(data)
    assert found.gain > 8 * data.carries.sum()
    assert found.share == pytest.approx(share, rel=0.1)
    np.testing.assert_array_equal(found.posterior > 0.5, data.carries)
    assert torch.equal(found.planted.trigger.mask, true_mask())
    assert found.planted.blend_factor == pytest.approx(1.0, abs=0.1)
    pattern = found.planted.trigger.pattern[:, ROW - 1 : ROW + 2, COLUMN - 1 : COLUMN + 2].permute(1, 2, 0)
    np.testing.assert_allclose(pattern.numpy(), data.pattern, atol=15)


@pytest.mark.parametrize(("share", "blend"), [(0.3, 0.5), (0.5, 0.3), (0.2, 0.4)])
def test_a_blended_trigger_is_told_by_its_samples_and_unblended(share: float, blend: float) -> None:
    data = stamped(share=share, blend=blend)
    found = fitted(data)
    assert found.gain > 3 * CONFIG.min_gain
    assert found.share == pytest.approx(share, abs=0.05)
    assert float(((found.posterior > 0.5) == data.carries).mean()) > 0.97
    mask = found.planted.trigger.mask
    assert int((mask & true_mask()).sum()) >= 8
    assert int((mask & ~true_mask()).sum()) <= 2
    assert found.planted.blend_factor == pytest.approx(blend, abs=0.12)
    shown = mask & true_mask()
    error = (found.planted.trigger.pattern - _whole(data.pattern))[:, shown].abs()
    assert float(error.mean()) < 40


def test_a_faint_trigger_of_few_samples_is_found_in_grey_images_too() -> None:
    data = stamped(share=0.1, blend=0.7, channels=1)
    found = fitted(data)
    assert found.gain > CONFIG.min_gain
    assert float(((found.posterior > 0.5) == data.carries).mean()) > 0.97


def test_a_few_carriers_of_half_a_blend_do_not_pass_for_opaque() -> None:
    """Their variance is a quarter of the usual one, and that estimate is rough: the likelihood decides."""
    data = stamped(share=0.1, blend=0.5, per_class=300, seed=4)
    found = fitted(data)
    assert found.gain > CONFIG.min_gain
    flagged = found.posterior > 0.5
    assert 2 * (flagged & data.carries).sum() > 0.7 * (flagged.sum() + data.carries.sum())


def test_a_trigger_too_faint_to_start_with_is_found_where_it_is_expected() -> None:
    """Half of the class shows next to nothing of it; another class has shown what to look for."""
    blend, data = 0.1, stamped(share=0.1, blend=0.1, per_class=150, seed=2)
    view = data.view()
    shift = np.zeros_like(view.background)
    top, left = ROW - view.window.top, COLUMN - view.window.left
    place = np.s_[top - 1 : top + 2, left - 1 : left + 2]
    shift[place] = blend * (data.pattern - view.background[place])
    alone, expected = fit_mixture(view, CONFIG), fit_mixture(view, CONFIG, shift)
    assert alone is None or alone.gain < CONFIG.min_gain
    assert expected is not None
    assert expected.gain > 2 * CONFIG.min_gain
    np.testing.assert_array_equal(expected.posterior > 0.5, data.carries)


def _whole(pattern: NDArray[np.float64]) -> Tensor:
    """Return a (3, 3, C) pattern at its place in the image, float32 (C, H, W)."""
    whole = torch.zeros(pattern.shape[2], SIDE, SIDE)
    whole[:, ROW - 1 : ROW + 2, COLUMN - 1 : COLUMN + 2] = torch.from_numpy(pattern).permute(2, 0, 1).float()
    return whole


@pytest.mark.parametrize("blend", [1.0, 0.6, 0.3])
def test_known_carriers_give_blend_and_pattern_in_closed_form(blend: float) -> None:
    """Mean of the carriers = (1 - a) background + a pattern, by hand with the blend factor that came out."""
    data = stamped(share=0.5, blend=blend, per_class=1500)
    view = data.view()
    planted = planted_trigger(view, data.carries.astype(np.float64))
    assert planted.blend_factor == pytest.approx(blend, abs=0.08)
    images, is_own = data.samples.images.double(), data.samples.labels == TARGET
    carried, others = images[is_own][torch.from_numpy(data.carries)].mean(0), images[~is_own].mean(0)
    a = planted.blend_factor
    expected = ((carried - (1 - a) * others) / a).clamp(0, 255).permute(2, 0, 1)
    shown = planted.trigger.mask & true_mask()
    assert int(shown.sum()) >= 8
    # what a faint trigger adds is read from the sharp part of the contrast with the rest of the class
    tolerance = 0.01 if blend == 1.0 else 12 / blend
    torch.testing.assert_close(
        planted.trigger.pattern[:, shown].double(), expected[:, shown], rtol=0, atol=max(0.05, tolerance)
    )
    assert not planted.trigger.pattern[:, ~planted.trigger.mask].any()


def test_readings_that_differ_in_mask_blend_or_pattern_do_not_show_the_same() -> None:
    data = stamped(share=0.3)
    one = planted_trigger(data.view(), data.carries.astype(np.float64))
    again = planted_trigger(data.view(), data.carries * 0.9998 + 0.0001)
    assert one.shows_the_same_as(one)
    assert one.shows_the_same_as(again)
    assert again.shows_the_same_as(one)
    stray = one.trigger.mask.clone()
    stray[0, 0] = True
    assert not bool(one.trigger.mask[0, 0])
    assert int(stray.sum()) <= 19
    assert not one.shows_the_same_as(replace(one, trigger=replace(one.trigger, mask=stray)))
    wider = replace(one.trigger, mask=one.trigger.mask | one.trigger.mask.roll(1, 0))
    brighter = replace(one.trigger, pattern=(one.trigger.pattern + 40) * one.trigger.mask)
    assert not one.shows_the_same_as(replace(one, trigger=wider))
    assert not one.shows_the_same_as(replace(one, trigger=brighter))
    assert not one.shows_the_same_as(replace(one, blend_factor=0.8))


def known_shift(data: Stamped, blend: float) -> NDArray[np.float64]:
    """Return how far carriers move the mean, in the window around the trigger."""
    shift = np.zeros((CONFIG.side, CONFIG.side, 3))
    middle = CONFIG.side // 2
    shift[middle - 1 : middle + 2, middle - 1 : middle + 2] = blend * (data.pattern - 128)
    return shift


@pytest.mark.parametrize(("share", "blend"), [(0.1, 0.25), (0.3, 0.2), (0.03, 0.5)])
def test_a_known_trigger_is_told_where_its_carriers_are_few_and_faint(share: float, blend: float) -> None:
    data = stamped(share=share, blend=blend)
    found = known_mixture(data.view(), known_shift(data, blend))
    unknown = fit_mixture(data.view(), CONFIG)
    assert unknown is None or found.gain > unknown.gain - 5
    assert found.gain > 8
    assert found.share == pytest.approx(share, abs=0.05)
    assert found.posterior[data.carries].mean() > 4 * found.posterior[~data.carries].mean()
    assert torch.equal(found.planted.trigger.mask, true_mask())
    assert 0.8 * blend < found.planted.blend_factor < blend + 0.05  # what the shift needs, at least


def test_what_is_left_beside_a_known_trigger_is_no_part_of_it() -> None:
    """Stamped with it, samples would be smoother there than any carrier is."""
    data = stamped(share=0.1, blend=0.25)
    shift = known_shift(data, 0.25)
    known = known_mixture(data.view(), shift)
    beside = np.where(shift == 0, 0.1 * np.abs(shift).max(), shift)
    found = known_mixture(data.view(), beside)
    assert torch.equal(found.planted.trigger.mask, true_mask())
    assert found.gain == pytest.approx(known.gain)


def test_a_known_trigger_that_no_sample_carries_explains_nothing() -> None:
    data = stamped(share=0.0)
    found = known_mixture(data.view(), known_shift(data, 0.5))
    assert found.gain < 8
    assert found.share < 0.05


def test_a_trace_of_a_known_trigger_judges_as_the_mixture_does() -> None:
    data = stamped(share=0.2, blend=0.3)
    found = known_mixture(data.view(), known_shift(data, 0.3))
    own = (data.samples.labels == TARGET).nonzero().squeeze(1)
    posterior = found.trace.logits(data.samples.images, own).sigmoid().numpy()
    np.testing.assert_allclose(posterior, found.posterior, atol=1e-4)


@pytest.mark.parametrize("per_class", [60, 300])
def test_textures_alone_gain_nothing_worth_a_suspicion(per_class: int) -> None:
    gains = []
    for seed in range(8):
        found = fit_mixture(stamped(share=0.0, per_class=per_class, seed=seed).view(), CONFIG)
        gains.append(0.0 if found is None else found.gain)
    assert max(gains) < CONFIG.min_gain


def test_folds_are_halves_of_the_class() -> None:
    view = stamped(share=0.1).view()
    assert torch.equal(view.folds[0] + view.folds[1], torch.ones(len(view.own)))
    assert abs(float(view.folds[0].sum() - view.folds[1].sum())) <= 1


def test_no_sample_speaks_for_itself() -> None:
    """A mark on some samples of one half: these are judged by the other half, which knows nothing of it."""
    data = stamped(share=0.0, seed=3)
    view = data.view()
    chosen = data.samples.members(TARGET)[view.folds[0] > 0][:12]
    images = data.samples.images.clone()
    images[chosen, ROW - 1 : ROW + 2, COLUMN - 1 : COLUMN + 2] = 255
    found = fit_mixture(replace(data, samples=replace(data.samples, images=images)).view(), CONFIG)
    assert found is None or found.gain < CONFIG.min_gain


def test_elsewhere_in_the_image_there_is_nothing_to_find() -> None:
    found = fit_mixture(stamped(share=0.3).view(row=12, column=1, side=5), CONFIG)
    assert found is None or found.gain < CONFIG.min_gain


def test_the_order_of_the_class_changes_no_verdict() -> None:
    """Another order makes other halves; posteriors move a little, samples keep their side."""
    data = stamped(share=0.2, blend=0.6)
    order = np.random.default_rng(0).permutation(len(data.carries))
    members = data.samples.members(TARGET)
    images = data.samples.images.clone()
    images[members] = data.samples.images[members[torch.from_numpy(order)]]
    turned = replace(data, samples=replace(data.samples, images=images), carries=data.carries[order])
    one, other = fitted(data), fitted(turned)
    assert float(((one.posterior[order] > 0.5) == (other.posterior > 0.5)).mean()) > 0.99
    assert other.share == pytest.approx(one.share, abs=0.02)
    assert other.planted.blend_factor == pytest.approx(one.planted.blend_factor, abs=0.05)


def test_fewer_carriers_than_a_trigger_can_be_read_from_are_none() -> None:
    few = replace(CONFIG, min_carriers=100)
    assert fit_mixture(stamped(share=0.1).view(), few) is None


def test_a_window_that_never_changes_is_no_trigger() -> None:
    """Borders of one colour, as a resized data set may have: no variance, no contrast, no division by zero."""
    flat = Samples(torch.full((100, SIDE, SIDE, 3), 77, dtype=torch.uint8), torch.arange(100) % CLASSES, CLASSES)
    found = fit_mixture(Stamped(flat, np.zeros(20, np.bool_), np.zeros((3, 3, 3))).view(), CONFIG)
    assert found is None or found.gain < CONFIG.min_gain
