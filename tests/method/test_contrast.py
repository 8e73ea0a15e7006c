"""Stage 2 of preset `default` against plain loops, and on smooth classes with a planted detail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vbdguard.config import ContrastConfig
from vbdguard.method.contrast import ClassMeans, Place, UsualContrasts, find_places, natural_covariance
from vbdguard.method.samples import Samples

CONFIG = ContrastConfig()
CLASSES, SIDE = 8, 20


def drawn(seed: int, n: int = 3000, n_classes: int = 5) -> Samples:
    """Noise of more images than a chunk holds; the last class has no sample."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 6, 5, 3), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.randint(0, n_classes - 1, (n,), generator=generator), n_classes)


def contrast_scores(contrasts: Tensor, config: ContrastConfig) -> Tensor:
    """Return the scores of all classes, (K, H, W)."""
    usual = UsualContrasts.of(contrasts, config)
    return torch.stack([usual.scores(contrast, label) for label, contrast in enumerate(contrasts)])


def smooth_contrasts(seed: int, side: int = SIDE) -> Tensor:
    """Return differences between classes that have no details, float64 (K, H, W, 3)."""
    noise = np.random.default_rng(seed).normal(size=(CLASSES, side, side, 3))
    return torch.from_numpy(100 * gaussian_filter(noise, (0, 3, 3, 0)))


def with_detail(contrasts: Tensor, label: int, row: int, column: int, height: float = 12.0) -> Tensor:
    """Return the contrasts with a 3 x 3 checkerboard around a pixel of a class, no higher than the contrasts are."""
    board = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]], dtype=torch.float64)
    planted = contrasts.clone()
    planted[label, row - 1 : row + 2, column - 1 : column + 2] += height * board[..., None]
    return planted


@pytest.mark.parametrize("n_classes", [2, 4, 5])
def test_contrasts_are_class_means_minus_the_mean_of_all_other_samples(n_classes: int) -> None:
    samples = drawn(0, n_classes=n_classes + 1)
    images, labels = samples.images.numpy().astype(np.float64), samples.labels.numpy()
    expected = np.stack([images[labels == k].mean(0) - images[labels != k].mean(0) for k in range(n_classes)])
    found = ClassMeans.of(samples).against_others()
    assert found.shape == (n_classes + 1, 6, 5, 3)
    np.testing.assert_allclose(found[:-1].numpy(), expected, atol=1e-9)
    assert not found[-1].any()


@pytest.mark.parametrize("n_classes", [2, 4, 5])
def test_the_median_of_the_class_means_is_the_other_reference(n_classes: int) -> None:
    samples = drawn(0, n_classes=n_classes + 1)
    means = ClassMeans.of(samples)
    found = means.against_median().numpy()
    np.testing.assert_allclose(
        found[:-1], means.means[:-1].numpy() - np.median(means.means[:-1].numpy(), axis=0), atol=1e-9
    )
    assert not found[-1].any()


def test_contrasts_do_not_depend_on_the_order_of_the_samples() -> None:
    samples = drawn(1)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ClassMeans.of(samples).against_others(), ClassMeans.of(samples.subset(order)).against_others())


def test_the_echo_is_what_a_change_of_one_class_does_to_the_contrasts_of_the_others() -> None:
    samples = drawn(2)
    means = ClassMeans.of(samples)
    changed = replace(means, means=means.means.clone())
    changed.means[1] += 1.0
    moved = (changed.against_others() - means.against_others())[:-1].flatten(1).mean(1)
    torch.testing.assert_close(moved[[0, 2, 3]], -means.echo()[[0, 2, 3], 1])
    assert float(moved[1]) == pytest.approx(1.0)
    assert not means.echo().diagonal().any()


@pytest.mark.parametrize("place", [(10, 10), (1, 1), (18, 6)])
def test_a_detail_that_no_other_class_has_ranks_first_however_low_it_is(place: tuple[int, int]) -> None:
    contrasts = with_detail(smooth_contrasts(0), 3, *place)
    assert float(smooth_contrasts(0).abs().max()) > 12
    scores = contrast_scores(contrasts, CONFIG)
    best = find_places(scores, None, CONFIG)[3][0]
    assert max(abs(best.row - place[0]), abs(best.column - place[1])) <= 2
    assert best.score == float(scores.max())
    assert best.score > 3 * float(scores[[label for label in range(CLASSES) if label != 3]].max())


def test_classes_without_samples_make_nothing_look_odder() -> None:
    contrasts = with_detail(smooth_contrasts(0), 3, 10, 10)
    among_absent = torch.cat([contrasts, torch.zeros_like(contrasts)])
    assert torch.equal(contrast_scores(among_absent, CONFIG)[:CLASSES], contrast_scores(contrasts, CONFIG))
    assert not contrast_scores(torch.zeros_like(contrasts), CONFIG).any()


def test_a_detail_in_every_class_is_found_in_every_class() -> None:
    """An all-to-all attack: no class is innocent, and each bears the trigger at a place of its own."""
    contrasts = smooth_contrasts(1)
    for label in range(CLASSES):
        contrasts = with_detail(contrasts, label, 10, 2 + 2 * label)
    places = find_places(contrast_scores(contrasts, CONFIG), None, CONFIG)
    for label in range(CLASSES):
        best = places[label][0]
        assert max(abs(best.row - 10), abs(best.column - 2 - 2 * label)) <= 2


def test_what_is_like_the_rest_scores_about_one() -> None:
    noise = torch.randn(6, 16, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = contrast_scores(noise, replace(CONFIG, natural_share=1.0))
    assert float(scores.mean()) == pytest.approx(1.0, abs=0.15)


def test_a_part_of_a_class_is_measured_by_what_other_classes_usually_show() -> None:
    """Scores grow with the square of the contrast: they are squared distances."""
    contrasts = with_detail(smooth_contrasts(0), 3, 10, 10)
    usual = UsualContrasts.of(contrasts, CONFIG)
    torch.testing.assert_close(usual.scores(3 * contrasts[3], 3), 9 * usual.scores(contrasts[3], 3))


def test_a_class_does_not_explain_itself() -> None:
    """Its own windows are not among the usual ones, or a class all of whose image is odd would look ordinary."""
    noise = torch.randn(SIDE, SIDE, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    contrasts = smooth_contrasts(0)
    contrasts[3] += 4 * noise
    scores = contrast_scores(contrasts, CONFIG)
    others = [label for label in range(CLASSES) if label != 3]
    assert float(scores[3].median()) > 10 * float(scores[others].median())


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-2, 1e3), st.integers(0, 5))
def test_scores_do_not_depend_on_the_scale_of_the_contrasts(scale: float, seed: int) -> None:
    contrasts = with_detail(smooth_contrasts(seed), 2, 8, 8)
    torch.testing.assert_close(
        contrast_scores(scale * contrasts, CONFIG), contrast_scores(contrasts, CONFIG), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("classes", "size"), [(1, (16, 16)), (2, (16, 16)), (3, (8, 12))])
def test_classes_that_do_not_differ_have_no_place(classes: int, size: tuple[int, int]) -> None:
    scores = contrast_scores(torch.zeros(classes, *size, 3, dtype=torch.float64), CONFIG)
    assert scores.shape == (classes, *size)
    assert find_places(scores, None, CONFIG) == {}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_places_are_the_highest_peaks_in_order(seed: int, at_most: int) -> None:
    scores = 4 * torch.rand(9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = find_places(scores[None], None, replace(CONFIG, places=at_most)).get(0, [])
    peaks = []
    for row in range(9):
        for column in range(11):
            around = scores[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            if scores[row, column] == around.max() and scores[row, column] > CONFIG.min_score:
                peaks.append(Place(row, column, float(scores[row, column])))
    assert found == sorted(peaks, key=lambda place: -place.score)[:at_most]


def test_edges_of_images_are_no_odder_than_their_middle() -> None:
    """A reflected slope is a kink, and objects that reach the edge of an image have slopes there."""
    side = 28
    contrasts = smooth_contrasts(2, side)
    contrasts[3] += torch.linspace(0, 200, side)[:, None]
    scores = contrast_scores(contrasts, CONFIG)
    assert float(scores[:, [0, -1]].mean()) < 1.5 * float(scores.mean())
    shown = find_places(contrast_scores(with_detail(contrasts, 3, side - 2, 1), CONFIG), None, CONFIG)[3][0]
    assert (shown.row, shown.column) == (side - 3, 2)


@pytest.mark.parametrize("size", [(8, 8), (6, 30), (5, 5)])
def test_in_small_images_each_pixel_may_be_a_place(size: tuple[int, int]) -> None:
    scores = torch.zeros(2, *size, dtype=torch.float64)
    scores[0, 0, 1] = 9.0
    assert find_places(scores, None, CONFIG) == {0: [Place(0, 1, 9.0)]}
    noise = torch.randn(9, *size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert contrast_scores(noise, CONFIG).shape == (9, *size)


@pytest.mark.parametrize(("classes", "side"), [(3, SIDE), (8, SIDE), (3, 28)])
def test_the_echo_of_another_class_is_no_place(classes: int, side: int) -> None:
    """The trigger of one class moves the mean of the others, and so shows in all contrasts."""
    counts = torch.full((classes,), 100)
    means = ClassMeans(counts, with_detail(smooth_contrasts(5, side)[:classes], 1, 10, 10, height=60.0))
    scores = contrast_scores(means.against_others(), CONFIG)
    assert all(float(of_class[8:13, 8:13].max()) > 2 * CONFIG.min_score for of_class in scores)
    places = find_places(scores, means.echo(), CONFIG)
    near = {k: [p for p in found if max(abs(p.row - 10), abs(p.column - 10)) <= 3] for k, found in places.items()}
    assert [label for label, found in near.items() if found] == [1]


def test_of_two_classes_each_is_the_others_echo_and_both_are_looked_at() -> None:
    means = ClassMeans(torch.tensor([100, 100]), with_detail(smooth_contrasts(6)[:2], 0, 10, 10, height=60.0))
    places = find_places(contrast_scores(means.against_others(), CONFIG), means.echo(), CONFIG)
    assert sorted(places) == [0, 1]


def test_many_windows_are_compared_by_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    contrasts = with_detail(smooth_contrasts(7), 3, 10, 10)
    every = contrast_scores(contrasts, CONFIG)
    monkeypatch.setattr("vbdguard.method.contrast._MOST_COMPARED", CLASSES * SIDE * SIDE // 2)
    some = contrast_scores(contrasts, CONFIG)
    assert not torch.equal(some, every)
    assert find_places(some, None, CONFIG)[3][0].row == find_places(every, None, CONFIG)[3][0].row


def test_natural_covariance_is_that_of_all_windows() -> None:
    contrasts = smooth_contrasts(2)[:2, :9, :8]
    found = natural_covariance(contrasts, 4, natural_share=1.0)
    windows = [
        contrasts[label, row : row + 4, column : column + 4].reshape(-1).numpy()
        for label in range(2)
        for row in range(6)
        for column in range(5)
    ]
    expected = np.mean([np.outer(window, window) for window in windows], axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_natural_covariance_leaves_the_sharpest_details_out() -> None:
    plain, planted = smooth_contrasts(3), with_detail(smooth_contrasts(3), 5, 9, 9, height=200.0)
    natural, seen = (natural_covariance(contrasts, 5, 0.9) for contrasts in (plain, planted))
    assert float(seen.trace()) < 1.2 * float(natural.trace())
    assert float(natural_covariance(planted, 5, 1.0).trace()) > 2 * float(natural.trace())


def test_a_window_larger_than_the_image_is_cut_to_it() -> None:
    assert natural_covariance(smooth_contrasts(4)[:, :6, :4], 9, 0.9).shape == (6 * 4 * 3, 6 * 4 * 3)


def test_classes_without_the_one_in_question_hear_no_echo_of_it() -> None:
    samples = drawn(3)
    means = ClassMeans.of(samples)
    changed = replace(means, means=means.means.clone())
    changed.means[1] += 50.0
    others = [label for label in range(len(means.counts)) if label != 1]
    plain, loud = (found.leaving_out(1).against_others()[others] for found in (means, changed))
    torch.testing.assert_close(plain, loud)


def test_of_two_classes_none_can_be_left_out() -> None:
    means = ClassMeans(torch.tensor([5, 5, 0]), smooth_contrasts(0)[:3])
    assert means.leaving_out(0) is means
