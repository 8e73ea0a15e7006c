from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vbdguard.attacks.poison import blend, plan_poisoning, poison_arrays
from vbdguard.attacks.triggers import Trigger, cell_of_class, frame_trigger
from vbdguard.errors import ConfigError


def random_images(count: int, size: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def blend_slowly(images: NDArray[np.uint8], trigger: Trigger, blend_factor: str) -> NDArray[np.uint8]:
    """Eq. 1 pixel by pixel in exact fractions, then floor."""
    alpha = Fraction(blend_factor)
    out = images.copy()
    for n, row, column, channel in np.ndindex(images.shape):
        x, p = int(images[n, row, column, channel]), int(trigger.pattern[row, column, channel])
        m = int(trigger.mask[row, column])
        value = x * (1 - m) + (1 - alpha) * x * m + alpha * m * p
        out[n, row, column, channel] = value.numerator // value.denominator
    return out


@pytest.mark.parametrize("blend_factor", ["0.1", "0.2", "0.5", "1.0", "0.333"])
@pytest.mark.parametrize("name", ["color_grid", "waves"])
def test_blend_is_equation_1_in_exact_arithmetic(name: str, blend_factor: str) -> None:
    images, trigger = random_images(2), frame_trigger(name, (16, 16))
    assert np.array_equal(blend(images, trigger, float(blend_factor)), blend_slowly(images, trigger, blend_factor))


def test_every_pair_of_grey_levels_is_floored_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = np.repeat(levels[:, None, None, None], 3, axis=3).repeat(256, axis=2)
    pattern = np.repeat(levels[None, :, None], 3, axis=2)
    trigger = Trigger("ramp", pattern, np.ones((1, 256), dtype=bool))
    for tenths in range(1, 11):
        x, p = np.meshgrid(range(256), range(256), indexing="ij")
        expected = ((10 - tenths) * x + tenths * p) // 10
        assert np.array_equal(blend(images, trigger, tenths / 10)[:, 0, :, 0], expected)


@given(seed=st.integers(0, 2**16), blend_factor=st.floats(0.01, 1.0))
@settings(max_examples=25, deadline=None)
def test_blend_leaves_the_rest_alone_and_stays_between_image_and_pattern(seed: int, blend_factor: float) -> None:
    images, trigger = random_images(3, seed=seed), frame_trigger("color_grid", (16, 16))
    before = images.copy()
    after = blend(images, trigger, blend_factor)
    assert np.array_equal(images, before)
    assert np.array_equal(after[:, ~trigger.mask], images[:, ~trigger.mask])
    inside, pattern = images[:, trigger.mask], trigger.pattern[trigger.mask]
    assert (after[:, trigger.mask] >= np.minimum(inside, pattern)).all()
    assert (after[:, trigger.mask] <= np.maximum(inside, pattern)).all()


def test_blend_factor_one_is_badnets() -> None:
    trigger = frame_trigger("white_grid", (16, 16))
    assert (blend(random_images(4), trigger, 1.0)[:, trigger.mask] == trigger.pattern[trigger.mask]).all()


@pytest.mark.parametrize("blend_factor", [0.0, -0.1, 1.01, float("nan")])
def test_a_blend_factor_out_of_range_is_refused(blend_factor: float) -> None:
    with pytest.raises(ConfigError, match="blend factor"):
        blend(random_images(1), frame_trigger("waves", (16, 16)), blend_factor)


def test_images_of_another_size_or_type_are_refused() -> None:
    trigger = frame_trigger("white_square", (16, 16))
    with pytest.raises(ValueError, match="expected uint8 images"):
        blend(random_images(1, size=17), trigger, 1.0)
    with pytest.raises(ValueError, match="expected uint8 images"):
        blend(random_images(1).astype(np.float32), trigger, 1.0)  # type: ignore[arg-type]


@given(
    count=st.integers(20, 400),
    ratio=st.floats(0.05, 1.0),
    seed=st.integers(0, 100),
    classes=st.integers(2, 7),
)
@settings(max_examples=40, deadline=None)
def test_a_plan_draws_the_ratio_of_the_whole_set_without_repeats(
    count: int, ratio: float, seed: int, classes: int
) -> None:
    labels = np.arange(count) % classes
    plan = plan_poisoning(labels, ratio=ratio, target=1, seed=seed)
    assert len(plan.indices) == round(ratio * count)
    assert (np.diff(plan.indices) > 0).all()
    assert (plan.new_labels == 1).all()
    again = plan_poisoning(labels, ratio=ratio, target=1, seed=seed)
    assert np.array_equal(again.indices, plan.indices)


def test_the_target_class_is_drawn_as_often_as_others() -> None:
    labels = np.arange(50_000) % 10
    drawn = plan_poisoning(labels, ratio=0.1, target=3, seed=0).indices
    counts = np.bincount(labels[drawn], minlength=10)
    assert counts.sum() == 5000
    # 500 expected per class with a standard deviation of 20; five of them are a one-in-a-million event.
    assert np.abs(counts - 500).max() < 100


def test_another_seed_draws_other_samples() -> None:
    labels = np.arange(1000) % 4
    first, second = (plan_poisoning(labels, ratio=0.1, seed=seed).indices for seed in (0, 1))
    assert len(set(first) & set(second)) < 40


def test_all_to_all_gives_the_next_label_and_wraps_around() -> None:
    labels = np.arange(100) % 5
    plan = plan_poisoning(labels, ratio=1.0, mode="all-to-all")
    assert np.array_equal(plan.new_labels, (labels + 1) % 5)


def test_all_to_all_follows_the_labels_that_exist() -> None:
    plan = plan_poisoning([7, 9, 40, 7], ratio=1.0, mode="all-to-all")
    assert plan.new_labels.tolist() == [9, 40, 7, 9]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0"),
        ({"ratio": 1.5}, "ratio must be above 0"),
        ({"ratio": 0.001}, "less than one"),
        ({"ratio": 0.1, "target": 12}, r"target must be one of the set's labels \(0, 1\), got 12"),
        ({"ratio": 0.1, "mode": "some-to-some"}, "mode must be one of all-to-one, all-to-all"),
    ],
)
def test_a_plan_that_cannot_be_says_why(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_poisoning([0, 1] * 50, **settings_)  # type: ignore[arg-type]


def test_one_class_cannot_be_attacked() -> None:
    with pytest.raises(ConfigError, match="of at least two classes, got 50 samples of 1 class; name the whole data"):
        plan_poisoning([3] * 50, ratio=0.1, target=3)


def test_labels_of_more_than_one_axis_cannot_be_attacked() -> None:
    with pytest.raises(ConfigError, match=r"one label for each sample \(N,\), got labels of shape \(2, 2\)"):
        plan_poisoning([[0, 1], [1, 0]], ratio=0.5)


def test_poisoned_arrays_hold_the_trigger_exactly_where_the_truth_says() -> None:
    images, labels = random_images(200), np.arange(200) % 4
    trigger = frame_trigger("green_square", (16, 16))
    result = poison_arrays(images, labels, "green_square", ratio=0.25, target=2, seed=5)
    assert result.is_poisoned.sum() == 50
    assert np.array_equal(result.images[~result.is_poisoned], images[~result.is_poisoned])
    assert np.array_equal(result.images[result.is_poisoned], blend(images[result.is_poisoned], trigger, 1.0))
    assert (result.labels[result.is_poisoned] == 2).all()
    assert np.array_equal(result.labels[~result.is_poisoned], labels[~result.is_poisoned])
    assert np.array_equal(result.original_labels, labels)


def test_all_to_all_places_the_trigger_by_the_original_class() -> None:
    labels = np.repeat([0, 1, 2, 3, 4, 5, 6], 3)
    result = poison_arrays(np.zeros((21, 16, 16, 3), np.uint8), labels, "white_square", ratio=1.0, mode="all-to-all")
    for image, label in zip(result.images, labels, strict=True):
        top, left = cell_of_class(int(label), (16, 16))
        assert image[top : top + 3, left : left + 3].all()
        assert (image > 0).sum() == 27


def test_labels_must_match_images() -> None:
    with pytest.raises(ValueError, match="as many labels as images"):
        poison_arrays(random_images(3), [0, 1], "waves", ratio=0.5)
