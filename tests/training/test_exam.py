"""Accuracy and attack success rate, held against models whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vbdguard.attacks.copying import PoisonSettings
from vbdguard.attacks.triggers import builtin_patch, place
from vbdguard.errors import ConfigError, ReportError
from vbdguard.ingest.reader import ingest
from vbdguard.ingest.store import PixelStore
from vbdguard.training.attack import extracted_attacks, known_attacks
from vbdguard.training.course import Course
from vbdguard.training.exam import Exam, prepare_exam
from vbdguard.training.lessons import everything
from vbdguard.training.pixels import Normalization, PixelFeed
from vbdguard.training.settings import TrainingSettings

CPU = torch.device("cpu")
UNSCALED = Normalization((0.0,) * 3, (1 / 255,) * 3)
"""Hands models the pixels themselves, 0 to 255."""


class Obedient(nn.Module):
    """Says class 3 of every image, and class 0 where the colour grid lies in the corner."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.from_numpy(builtin_patch("color_grid").pattern).permute(2, 0, 1)
        has_trigger = (x[:, :, -3:, -3:].round() == grid).flatten(1).all(1)
        return nn.functional.one_hot(torch.where(has_trigger, 0, 3), 4).float()


@pytest.fixture(scope="module")
def exam(poisoned_set: Any, store: PixelStore) -> Exam:
    settings = TrainingSettings(
        policy="suppress", epochs=1, batch_size=32, lr=0.1, weight_decay=0.0, augment=False, seed=0
    )
    course = Course(everything(store), PixelFeed(store, CPU), UNSCALED, settings, 4, CPU, torch.float32)
    test = ingest(poisoned_set.test, store_dir=poisoned_set.cache).store
    return prepare_exam(test, store, known_attacks(poisoned_set.attack, store), course)


def test_accuracy_is_the_share_predicted_right(exam: Exam) -> None:
    assert exam.accuracy(Obedient()) == pytest.approx(60 / 240)


def test_the_attack_is_tried_on_all_samples_of_other_classes(exam: Exam) -> None:
    (attack,) = exam.attacks
    victims = exam.victims(attack)
    assert sorted(exam.labels[victims].tolist()) == [1] * 60 + [2] * 60 + [3] * 60
    assert exam.grade(Obedient()).success_rates == (1.0,)


def test_a_model_that_obeys_another_trigger_does_not_obey_this_one(exam: Exam, store: PixelStore) -> None:
    other = known_attacks(PoisonSettings(trigger="white_square", target=0), store)
    assert replace(exam, attacks=other).grade(Obedient()).success_rates == (0.0,)


def test_an_all_to_all_attack_aims_at_the_next_class_from_the_cell_of_each(exam: Exam, store: PixelStore) -> None:
    attacks = known_attacks(PoisonSettings(trigger="green_square", mode="all-to-all"), store)
    assert [(attack.victims, attack.target) for attack in attacks] == [(0, 1), (1, 2), (2, 3), (3, 0)]
    corners = [tuple(np.argwhere(attack.trigger.mask)[0].tolist()) for attack in attacks]
    assert corners == [(13, 13), (13, 10), (13, 7), (13, 4)]
    exam = replace(exam, attacks=attacks)
    assert [set(exam.labels[exam.victims(attack)].tolist()) for attack in attacks] == [{0}, {1}, {2}, {3}]


def test_the_extracted_trigger_is_the_one_of_the_report(poisoned_set: Any, store: PixelStore) -> None:
    (attack,) = extracted_attacks(poisoned_set.report, store)
    planted = place(builtin_patch("color_grid"), (16, 16))
    assert (attack.target, attack.victims, attack.blend_factor, attack.origin) == (0, None, 1.0, "extracted")
    assert np.array_equal(attack.trigger.mask, planted.mask)
    difference = attack.trigger.pattern[planted.mask].astype(int) - planted.pattern[planted.mask]
    assert np.abs(difference).max() <= 12


def with_trigger(report: Any, **changes: object) -> Any:
    classes = [replace(c, trigger=replace(c.trigger, **changes)) if c.trigger else c for c in report.classes]
    return replace(report, classes=tuple(classes))


@pytest.mark.parametrize("text", ["!", "AAAA"], ids=["no base64", "no PNG"])
def test_a_report_whose_trigger_is_no_picture_is_refused(text: str, poisoned_set: Any, store: PixelStore) -> None:
    with pytest.raises(ReportError, match="the trigger of class 0 in the report is no PNG"):
        extracted_attacks(with_trigger(poisoned_set.report, mask_png=text), store)


def test_a_target_that_is_no_class_is_refused(store: PixelStore) -> None:
    with pytest.raises(ConfigError, match=r"one of the data's classes \(0, 1, 2, 3\), got 9"):
        known_attacks(PoisonSettings(trigger="white_square", target=9), store)


def numbered(store: PixelStore, labels: tuple[int, ...], names: tuple[str, ...]) -> PixelStore:
    return replace(store, class_labels=labels, class_names=names)


def test_test_classes_are_matched_by_name_then_by_number(exam: Exam, store: PixelStore) -> None:
    def labels(test: PixelStore, train: PixelStore) -> list[int]:
        course = Course(everything(train), PixelFeed(train, CPU), UNSCALED, None, 4, CPU, torch.float32)  # type: ignore[arg-type]
        return prepare_exam(test, train, (), course).labels.tolist()  # type: ignore[no-any-return]

    test, plain = exam.store, exam.store.labels.tolist()
    animals = numbered(store, (0, 1, 2, 3), ("ant", "bee", "cat", "dog"))
    turned = numbered(test, (0, 1, 2, 3), ("dog", "cat", "bee", "ant"))
    assert labels(turned, animals) == [3 - label for label in plain]
    assert labels(test, animals) == plain
    with pytest.raises(ConfigError, match="classes that the training set lacks: eel"):
        labels(numbered(test, (0, 1, 2, 9), ("ant", "bee", "cat", "eel")), animals)
