"""Are the carriers of a trigger drawn from all classes, or from one?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_scans import SMALL_DEFAULT

from vbdguard.attacks.poison import blend
from vbdguard.attacks.triggers import frame_trigger
from vbdguard.cli.demo_data import DemoSet
from vbdguard.method.cross_section import CrossSection, contents, cross_section, natural_distances
from vbdguard.method.pipeline import detect
from vbdguard.method.samples import Samples

CLASSES, EACH, DIMENSIONS = 12, 80, 6
ALPHA = 1e-3


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.repeat(np.arange(CLASSES), EACH)


@pytest.fixture(scope="module")
def content(labels: np.ndarray) -> np.ndarray:
    """Classes whose means lie one standard deviation from the middle, on average, in each dimension."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(CLASSES, DIMENSIONS))[labels] + rng.normal(size=(len(labels), DIMENSIONS))


def judged(content: np.ndarray, labels: np.ndarray, carriers: np.ndarray) -> CrossSection | None:
    everyone = np.ones(len(labels), dtype=np.bool_)
    natural = natural_distances(content, labels, everyone, range(1, CLASSES))
    return cross_section(carriers, content[labels != 0], natural, significance=ALPHA)


def drawn(content: np.ndarray, chosen: np.ndarray, n: int, seed: int) -> np.ndarray:
    return content[np.random.default_rng(seed).choice(np.flatnonzero(chosen), n, replace=False)]


@pytest.mark.parametrize("seed", range(5))
def test_samples_of_all_classes_are_a_cross_section(content: np.ndarray, labels: np.ndarray, seed: int) -> None:
    section = judged(content, labels, drawn(content, labels != 0, 400, seed))
    assert section is not None
    assert section.is_drawn_from_all
    assert section.distance < 0.1 * section.usual
    assert section.p_value < ALPHA


@pytest.mark.parametrize("label", range(1, CLASSES))
def test_a_natural_class_is_none(content: np.ndarray, labels: np.ndarray, label: int) -> None:
    section = judged(content, labels, content[labels == label])
    assert section is not None
    assert not section.is_drawn_from_all
    assert section.p_value > 0.01


def test_a_class_mixed_with_as_many_samples_of_all_others_is_none(content: np.ndarray, labels: np.ndarray) -> None:
    half = np.concatenate([content[labels == 3], drawn(content, labels > 3, EACH, 0)])
    section = judged(content, labels, half)
    assert section is not None
    assert not section.is_drawn_from_all


def test_too_few_carriers_or_classes_to_tell_say_nothing(content: np.ndarray, labels: np.ndarray) -> None:
    everyone = np.ones(len(labels), dtype=np.bool_)
    carriers = drawn(content, labels != 0, 400, 0)
    few_classes = natural_distances(content, labels, everyone, range(1, 8))
    assert cross_section(carriers, content, few_classes, significance=ALPHA) is None
    assert judged(content, labels, carriers[:29]) is None
    assert cross_section(carriers[:, :0], content[:, :0], few_classes * 2, significance=ALPHA) is None


def test_where_one_class_is_a_cross_section_by_nature_nobody_is_accused_of_it(
    content: np.ndarray, labels: np.ndarray
) -> None:
    """A class "other", say, of images of all kinds."""
    miscellaneous = content.copy()
    miscellaneous[labels == 5] = drawn(content, labels != 5, EACH, 1)
    section = judged(miscellaneous, labels, drawn(miscellaneous, labels != 0, 400, 0))
    assert section is not None
    assert not section.is_drawn_from_all


def test_distances_are_unbiased() -> None:
    """Squares of two independent estimates of a mean's shift multiply to the true square, whatever their noise."""
    rng = np.random.default_rng(0)
    shift, n, tries = np.array([0.3, -0.2, 0.0, 0.1]), 40, 400
    labels = np.repeat([0, 1], [n, 4000])
    everyone = np.ones(len(labels), dtype=np.bool_)
    found = []
    for _ in range(tries):
        content = rng.normal(size=(len(labels), len(shift)))
        content[:n] += shift
        found += natural_distances(content, labels, everyone, [0])
    expected, noise = float(shift @ shift), np.std(found) / np.sqrt(tries)
    assert abs(np.mean(found) - expected) < 4 * noise + 0.005  # the 4,000 that it is measured from have a mean, too
    assert expected > 10 * noise


def test_classes_of_few_samples_do_not_say_what_is_natural(content: np.ndarray, labels: np.ndarray) -> None:
    kept = (labels != 2) | (np.arange(len(labels)) % 4 == 0)
    assert len(natural_distances(content, labels, kept, range(CLASSES))) == CLASSES - 1


def test_contents_have_no_scale_and_no_correlation() -> None:
    images = torch.randint(0, 256, (400, 16, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, :4] = 77  # what is painted over varies in no image
    found = contents(images)
    assert found.shape == (400, 60)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(60), atol=1e-6)
    assert contents(torch.full((40, 8, 8, 1), 9, dtype=torch.uint8)).shape == (40, 0)


@pytest.fixture(scope="module")
def crops() -> Samples:
    """Crops of ten photographs, 32 x 32 pixels, each photograph in two colourings: twenty classes."""
    drawn = list(DemoSet(120).samples())
    images = np.stack([np.asarray(sample.image) for sample in drawn])
    labels = np.array([int(sample.label) for sample in drawn])
    coloured = np.concatenate([np.roll(images, step, axis=3) for step in range(2)])
    return Samples(torch.from_numpy(coloured), torch.from_numpy(np.concatenate([labels, labels + 10])), 20)


@pytest.mark.parametrize("honest", [0, 30])
def test_a_class_that_poison_outnumbers_is_found(crops: Samples, honest: int) -> None:
    target, n_poisoned = 4, 900
    own = crops.members(target)[:honest]
    others = (crops.labels != target).nonzero().squeeze(1)
    images, labels = crops.images[others].clone(), crops.labels[others].clone()
    chosen = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:n_poisoned]
    framed = frame_trigger("white_square", (32, 32), position=(20, 7))
    images[chosen] = torch.from_numpy(blend(images[chosen].numpy(), framed, 0.5))
    labels[chosen] = target
    poisoned = Samples(torch.cat([images, crops.images[own]]), torch.cat([labels, crops.labels[own]]), 20)
    detection = detect(poisoned, SMALL_DEFAULT.method, seed=0)
    assert [finding.label for finding in detection.classes if finding.is_poisoned] == [target]
    assert int(detection.is_flagged[chosen].sum()) > 0.9 * n_poisoned
    assert int(detection.is_flagged.sum()) < 1.1 * n_poisoned


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_a_mark_on_most_images_of_a_class_is_no_poison(crops: Samples, share: float) -> None:
    images, own = crops.images.clone(), crops.members(7)
    marked = own[: round(share * len(own))]
    framed = frame_trigger("white_square", (32, 32), position=(3, 24))
    images[marked] = torch.from_numpy(blend(images[marked].numpy(), framed, 1.0))
    detection = detect(Samples(images, crops.labels, crops.n_classes), SMALL_DEFAULT.method, seed=0)
    assert not any(finding.is_poisoned for finding in detection.classes)
    assert not detection.is_flagged.any()
