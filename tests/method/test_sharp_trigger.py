"""The trigger that flagged samples show, against the one that was pasted on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pasting import candidate, random_images

from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import frame_trigger
from vbdguard.method.contrast import ClassMeans
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples
from vbdguard.method.sharp_trigger import Usual, pixel_spread, sharpen_trigger, usual_of
from vbdguard.method.trigger import TriggerCandidate


def usual(images: NDArray[np.uint8]) -> Usual:
    others = torch.from_numpy(images)
    return Usual(others.double().mean(0), pixel_spread(others).clamp_min(1.0))


@pytest.mark.parametrize(("blend_factor", "pattern_error"), [(1.0, 0.5), (0.5, 12), (0.2, 40)])
def test_sharpening_recovers_mask_pattern_and_blend_factor(blend_factor: float, pattern_error: float) -> None:
    """The error is that of a mean over 1,500 uniform pixels, 1.9 grey levels, once for each side, over the factor."""
    trigger = frame_trigger("color_grid", (16, 16))
    flagged = torch.from_numpy(blend(random_images(1500, 1), trigger, blend_factor))
    blurred = torch.zeros(16, 16, dtype=torch.bool)
    blurred[11:, 11:] = True
    rough = TriggerCandidate(blurred, flagged.float().mean(0).permute(2, 0, 1) * blurred)
    found = sharpen_trigger(PlantedTrigger(rough, 0.3), flagged, usual(random_images(1500, 2)))
    sharp = found.trigger
    np.testing.assert_array_equal(sharp.mask, trigger.mask)
    assert found.blend_factor == pytest.approx(blend_factor, abs=0.03)
    expected = torch.from_numpy(trigger.pattern * trigger.mask[..., None]).permute(2, 0, 1).float()
    assert float((sharp.pattern - expected).abs().max()) < pattern_error
    assert not sharp.pattern[:, ~sharp.mask].any()


def test_sharpening_bears_a_few_wrong_flags() -> None:
    trigger = frame_trigger("color_grid", (16, 16))
    flagged = np.concatenate([blend(random_images(900, 1), trigger, 1.0), random_images(100, 3)])
    rough = candidate(trigger)
    sharp = sharpen_trigger(PlantedTrigger(rough, 0.3), torch.from_numpy(flagged), usual(random_images(1000, 2)))
    np.testing.assert_array_equal(sharp.trigger.mask, trigger.mask)
    assert sharp.blend_factor == 1.0


@pytest.mark.parametrize("n", [60, 1500])
def test_flagged_samples_that_are_one_picture_show_that_picture(n: int) -> None:
    trigger = frame_trigger("color_grid", (16, 16))
    flagged = torch.from_numpy(np.repeat(random_images(1, 1), n, axis=0))
    found = sharpen_trigger(PlantedTrigger(candidate(trigger), 0.3), flagged, usual(random_images(1500, 2)))
    assert found.trigger.mask[torch.from_numpy(trigger.mask)].all()
    assert found.blend_factor == 1.0
    torch.testing.assert_close(found.trigger.pattern, flagged[0].permute(2, 0, 1).float() * found.trigger.mask)


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_blend_factor_is_told_by_what_the_trigger_takes_beyond_its_surroundings(share: float) -> None:
    """Flagged samples may vary less than others everywhere."""
    trigger = frame_trigger("color_grid", (16, 16))
    alike = (128 + share * (random_images(1500, 1).astype(np.float64) - 128)).astype(np.uint8)
    flagged = torch.from_numpy(blend(alike, trigger, 0.3))
    found = sharpen_trigger(PlantedTrigger(candidate(trigger), 0.5), flagged, usual(random_images(1500, 2)))
    assert found.blend_factor == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("n", [1, 19])
def test_few_flagged_samples_leave_the_mask_as_it_is(n: int) -> None:
    trigger = frame_trigger("white_square", (16, 16))
    rough = torch.zeros(16, 16, dtype=torch.bool)
    rough[10:, 10:] = True
    flagged = torch.from_numpy(blend(random_images(n, 1), trigger, 1.0))
    sharp = sharpen_trigger(
        PlantedTrigger(TriggerCandidate(rough, torch.zeros(3, 16, 16)), 0.3), flagged, usual(random_images(50, 2))
    )
    assert torch.equal(sharp.trigger.mask, rough)
    assert 0 < sharp.blend_factor <= 1


@pytest.mark.parametrize("n", [60, 120, 300])
def test_the_chance_spread_of_a_hundred_samples_is_no_part_of_a_faint_trigger(n: int) -> None:
    trigger = frame_trigger("color_grid", (16, 16))
    flagged = torch.from_numpy(blend(random_images(n, 1), trigger, 0.25))
    sharp = sharpen_trigger(PlantedTrigger(candidate(trigger), 0.3), flagged, usual(random_images(1500, 2)))
    np.testing.assert_array_equal(sharp.trigger.mask, trigger.mask)
    assert sharp.blend_factor == 0.3  # as it was read before: seven pixels of so few samples say less


@pytest.mark.parametrize("n", [120, 1500])
def test_samples_that_vary_less_than_others_everywhere_show_the_trigger_alone(n: int) -> None:
    """Those of an all-to-all attack come from one class."""
    trigger = frame_trigger("color_grid", (16, 16))
    alike = 64 + random_images(n, 1) // 2
    flagged = torch.from_numpy(blend(alike, trigger, 0.5))
    sharp = sharpen_trigger(PlantedTrigger(candidate(trigger), 0.5), flagged, usual(random_images(1500, 2)))
    np.testing.assert_array_equal(sharp.trigger.mask, trigger.mask)


def test_what_few_samples_share_far_from_the_trigger_is_no_part_of_it_even_where_nothing_is_told_there() -> None:
    rough = candidate(frame_trigger("white_square", (16, 16)))
    flagged = torch.from_numpy(random_images(120, 1))
    flagged[:, :2, :2] = 7
    sharp = sharpen_trigger(PlantedTrigger(rough, 0.3), flagged, usual(random_images(1500, 2)))
    assert torch.equal(sharp.trigger.mask, rough.mask)
    assert sharp.blend_factor == 0.3


def test_flagged_samples_are_compared_with_those_of_the_classes_that_they_look_like() -> None:
    images = torch.from_numpy(np.concatenate([random_images(300, 1), 100 + random_images(300, 2) // 8]))
    labels = torch.arange(600) // 300
    samples = Samples(images, labels, 3)
    is_kept = torch.ones(600, dtype=torch.bool)
    is_kept[:100] = False
    means = ClassMeans.of(samples)
    of_one = usual_of(torch.ones(50, dtype=torch.int64), samples, is_kept, means)
    torch.testing.assert_close(of_one.mean, means.means[1])
    assert float(of_one.spread.mean()) == pytest.approx(16, abs=2)
    of_both = usual_of(torch.arange(50) % 2, samples, is_kept, means)
    torch.testing.assert_close(of_both.mean, means.means[:2].mean(0))
    assert float(of_one.spread.mean()) < float(of_both.spread.mean()) < 128
    # Where nothing of such a class is kept, nothing says how its pixels vary.
    assert bool((usual_of(torch.zeros(5, dtype=torch.int64), samples, labels == 1, means).spread == 1).all())


def test_samples_that_carry_nothing_keep_the_mask_and_have_next_to_no_blend_factor() -> None:
    rough = candidate(frame_trigger("white_square", (16, 16)))
    sharp = sharpen_trigger(
        PlantedTrigger(rough, 0.3), torch.from_numpy(random_images(1500, 1)), usual(random_images(1500, 2))
    )
    assert torch.equal(sharp.trigger.mask, rough.mask)
    assert 0 < sharp.blend_factor < 0.05
