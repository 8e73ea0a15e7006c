"""Preset `default` on more samples than it learns from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, SampleConfig
from vbdguard.method.blind_models import blind_fits
from vbdguard.method.detection import Detection
from vbdguard.method.pipeline import detect
from vbdguard.method.population import HeldImages, Population
from vbdguard.method.samples import Samples

CAP = 150


@dataclass(frozen=True)
class WatchedImages(HeldImages):
    """Notes how many images were asked for at a time."""

    asked: list[int] = field(default_factory=list)

    def all(self) -> Tensor:
        raise AssertionError("all images were asked for at once")

    def at(self, indices: Tensor) -> Tensor:
        self.asked.append(len(indices))
        return super().at(indices)


@pytest.fixture(scope="module")
def bounded(method: DirectMethodConfig) -> DirectMethodConfig:
    return replace(method, sample=SampleConfig(per_class=CAP))


@pytest.fixture(scope="module")
def population(planted: Any) -> Population:
    whole = Population.of(planted.samples)
    return Population(WatchedImages(planted.samples.images), whole.labels, whole.n_classes)


@pytest.fixture(scope="module")
def found(population: Population, bounded: DirectMethodConfig) -> Detection:
    return detect(population, bounded, seed=0)


@pytest.fixture(scope="module")
def is_unseen(population: Population, bounded: DirectMethodConfig) -> Tensor:
    unseen = torch.ones(len(population), dtype=torch.bool)
    unseen[population.fit_sample(bounded.sample, 0)] = False
    return unseen


def test_poison_is_found_among_samples_that_nothing_was_fitted_on(
    found: Detection, planted: Any, is_unseen: Tensor
) -> None:
    assert [finding.label for finding in found.classes if finding.is_poisoned] == [planted.target]
    for part in (is_unseen, ~is_unseen):
        carriers = planted.is_poisoned & part
        assert int(carriers.sum()) > 30
        assert int((found.is_flagged & carriers).sum()) >= 0.9 * int(carriers.sum())
        assert int((found.is_flagged & part & ~planted.is_poisoned).sum()) <= 5


def test_the_unseen_get_scores_and_suggestions_like_the_others(
    found: Detection, planted: Any, is_unseen: Tensor
) -> None:
    assert found.scores.shape == found.is_flagged.shape == found.suggested.shape == (len(planted.samples),)
    assert torch.equal(found.scores > 0.5, found.is_flagged)
    flagged = found.is_flagged & is_unseen
    assert ((found.suggested[flagged] >= 0) & (found.suggested[flagged] != planted.target)).all()
    assert (found.suggested[~found.is_flagged] == -1).all()
    moved = flagged & (planted.original_labels != planted.target)
    assert float((found.suggested[moved] == planted.original_labels[moved]).float().mean()) > 0.4


def test_never_more_images_are_asked_for_than_the_fit_may_hold(found: Detection, population: Population) -> None:
    assert found.is_flagged.any()
    assert isinstance(population.images, WatchedImages)
    of_target = int((population.labels == 0).sum())
    sample, *chunks = population.images.asked
    assert sample == 4 * CAP
    # one pass for the class means, and one over the rest of the accused class
    assert sum(chunks) == len(population) + of_target - CAP


def test_bounded_fits_are_repeatable(found: Detection, planted: Any, bounded: DirectMethodConfig) -> None:
    again = detect(planted.samples, bounded, seed=0)
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(again.suggested, found.suggested)


def test_a_bound_that_nothing_exceeds_changes_nothing(planted: Any, method: DirectMethodConfig) -> None:
    largest = int(planted.samples.labels.bincount().max())
    free = detect(planted.samples, method, seed=0)
    just = detect(planted.samples, replace(method, sample=SampleConfig(per_class=largest)), seed=0)
    assert torch.equal(free.scores, just.scores)
    assert torch.equal(free.suggested, just.suggested)


def test_clean_data_raise_no_alarm_from_a_sample_either(natural: Samples, bounded: DirectMethodConfig) -> None:
    for seed in range(3):
        assert not detect(natural, bounded, seed=seed).is_flagged.any()


def test_blind_models_judge_images_of_neither_half(natural: Samples, method: DirectMethodConfig) -> None:
    """Half of the images are never shown; the models know their classes better than a guess would."""
    nowhere: list[Tensor] = []
    shown = torch.arange(0, len(natural), 2)
    nobody = torch.zeros(len(shown), dtype=torch.bool)
    models = blind_fits(natural.subset(shown), nowhere, [0], nobody, method.label_check, seed=0).models
    fits = models.log_probability(natural.images[1::2])
    assert fits.shape == (500, 4)
    assert float((fits.argmax(1) == natural.labels[1::2]).float().mean()) > 0.5


def test_blind_models_that_learned_nothing_say_nothing(natural: Samples, method: DirectMethodConfig) -> None:
    everybody = torch.ones(len(natural), dtype=torch.bool)
    nowhere: list[Tensor] = []
    models = blind_fits(natural, nowhere, [0], everybody, method.label_check, seed=0).models
    fits = models.log_probability(natural.images[:7])
    assert fits.shape == (7, 4)
    assert not fits.any()
