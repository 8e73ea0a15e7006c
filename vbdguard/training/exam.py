"""How good a model is, and how far it obeys a trigger: clean accuracy and attack success rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vbdguard.attacks.poison import blend
from vbdguard.errors import ConfigError
from vbdguard.ingest.store import PixelStore
from vbdguard.method.device import large_buffers_reused
from vbdguard.training.attack import Attack
from vbdguard.training.course import Course
from vbdguard.training.pixels import Normalization
from vbdguard.training.result import AttackResult

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Grades:
    """What an exam says about a model."""

    accuracy: float
    """Share in [0, 1] of clean samples predicted right."""
    success_rates: tuple[float, ...]
    """Attack success rate in [0, 1] of each attack, in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """Test samples under the class indices of the training set, and the attacks to try on them."""

    store: PixelStore
    labels: NDArray[np.int64]
    """int64 (N,), the training set's class indices."""
    attacks: tuple[Attack, ...]
    """Each with at least one victim."""
    normalization: Normalization
    device: torch.device
    dtype: torch.dtype

    def grade(self, model: nn.Module) -> Grades:
        """Return accuracy and attack success rates of a model on the exam's device; it is left in evaluation mode."""
        with large_buffers_reused():
            return Grades(self.accuracy(model), tuple(self.success_rate(model, attack) for attack in self.attacks))

    def compare(self, train: PixelStore, before: Grades | None, after: Grades) -> tuple[AttackResult, ...]:
        """Return what each attack achieved before and after, under the training data's names of the classes."""
        return tuple(
            AttackResult(
                target_label=train.class_labels[attack.target],
                target_name=train.class_names[attack.target],
                trigger=attack.origin,
                samples=len(self.victims(attack)),
                before=before.success_rates[number] if before else None,
                after=after.success_rates[number],
            )
            for number, attack in enumerate(self.attacks)
        )

    def accuracy(self, model: nn.Module) -> float:
        """Return the share in [0, 1] of samples that the model predicts right."""
        everyone = np.arange(len(self.store))
        return float((self._predict(model, everyone, None) == self.labels).mean())

    def success_rate(self, model: nn.Module, attack: Attack) -> float:
        """Return the share in [0, 1] of the attack's victims that the trigger puts into its target class."""
        return float((self._predict(model, self.victims(attack), attack) == attack.target).mean())

    def victims(self, attack: Attack) -> NDArray[np.int64]:
        """Return which samples get the trigger, int64 (n,)."""
        is_victim = self.labels != attack.target
        return np.flatnonzero(is_victim if attack.victims is None else is_victim & (self.labels == attack.victims))

    @torch.inference_mode()
    def _predict(self, model: nn.Module, indices: NDArray[np.int64], attack: Attack | None) -> NDArray[np.int64]:
        model.eval()
        predicted = np.empty(len(indices), dtype=np.int64)
        for start in range(0, len(indices), _BATCH):
            images = self.store.gather(indices[start : start + _BATCH])
            if attack is not None:
                images = blend(images, attack.trigger, attack.blend_factor)
            x = self.normalization.apply(torch.from_numpy(images).to(self.device))
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                predicted[start : start + _BATCH] = model(x).argmax(1).cpu().numpy()
        return predicted


def prepare_exam(test: PixelStore, train: PixelStore, attacks: Iterable[Attack], course: Course) -> Exam:
    """Return an exam for models of a course; attacks that no test sample could suffer are left out.

    Raises:
        ConfigError: if the test set has a class that the training set lacks.
    """
    labels = _train_labels(test, train)
    exam = Exam(test, labels, tuple(attacks), course.normalization, course.device, course.dtype)
    return replace(exam, attacks=tuple(attack for attack in exam.attacks if len(exam.victims(attack))))


def _train_labels(test: PixelStore, train: PixelStore) -> NDArray[np.int64]:
    """Return the training set's class index of each test sample, by name where both have names, else by number.

    Raises:
        ConfigError: if the test set has a class that the training set lacks.
    """
    by_name = {name: index for index, name in enumerate(train.class_names)}
    by_number = {number: index for index, number in enumerate(train.class_labels)}
    if set(test.class_names) <= by_name.keys() and len(by_name) == len(train.class_names):
        table = [by_name[name] for name in test.class_names]
    elif set(test.class_labels) <= by_number.keys():
        table = [by_number[number] for number in test.class_labels]
    else:
        missing = [name for name in test.class_names if name not in by_name]
        raise ConfigError(
            f"the test set has classes that the training set lacks: {', '.join(missing[:5])}; "
            f"known are {', '.join(train.class_names[:10])}"
        )
    return np.array(table, dtype=np.int64)[test.labels]
