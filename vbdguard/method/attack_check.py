"""Stage 4: does a candidate trigger turn other classes' samples into its class? (paper, sections 3.3.4 and 3.3.8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.config import AttackCheckConfig
from vbdguard.method.ensemble import Ensemble, predict
from vbdguard.method.samples import Samples, stratified_split
from vbdguard.method.simple_model import SimpleModel
from vbdguard.method.suspects import ClassEvidence
from vbdguard.method.trigger import TriggerCandidate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trigger that one model of the ensemble points to."""

    model_index: int
    evidence: ClassEvidence
    trigger: TriggerCandidate


@dataclass(frozen=True, slots=True)
class CheckedCandidate:
    """A candidate with what it does to other classes' samples."""

    candidate: Candidate
    attack_success_rate: float
    """Share in [0, 1]."""
    is_harmful: bool
    score: float
    """How well model and trigger suit stage 5; high is good."""

    @property
    def label(self) -> int:
        """The class that the trigger aims at."""
        return self.candidate.evidence.label


def check_candidates(
    candidates: Iterable[Candidate],
    ensemble: Ensemble,
    detection: Samples,
    config: AttackCheckConfig,
    *,
    generator: torch.Generator,
) -> dict[int, CheckedCandidate]:
    """Return the best candidate of each class, harmful ones first; one model's word is enough.

    A candidate is left out where the detection split holds no other class to patch.

    Args:
        candidates: from stage 3.
        ensemble: the models that they came from.
        detection: the samples to patch.
        config: settings of stage 4.
        generator: CPU generator for the choice of patched samples.
    """
    chosen, _ = stratified_split(detection.labels, config.share, generator)
    best: dict[int, CheckedCandidate] = {}
    for candidate in candidates:
        others = _others(detection, chosen, candidate.evidence.label)
        if not len(others):
            continue
        checked = _check(candidate, ensemble, others, config)
        rival = best.get(checked.label)
        if rival is None or (checked.is_harmful, checked.score) > (rival.is_harmful, rival.score):
            best[checked.label] = checked
    return dict(sorted(best.items()))


def attack_success_rate(model: SimpleModel, trigger: TriggerCandidate, images: Tensor, label: int) -> float:
    """Return the share in [0, 1] of images that the pasted trigger (blend factor 1) turns into the class.

    Args:
        model: the simple poisoned model that the trigger came from.
        trigger: the candidate.
        images: uint8 (n, H, W, C), samples of other classes, n >= 1.
        label: the class that the trigger is thought to aim at.
    """
    predicted = predict(model, trigger.paste(images, 1.0)).argmax(1)
    return float((predicted == label).float().mean())


def _others(detection: Samples, chosen: Tensor, label: int) -> Tensor:
    """Return the chosen images of other classes; all of them where the share of small classes rounds to none."""
    others = chosen[detection.labels[chosen] != label]
    return detection.images[others] if len(others) else detection.images[detection.labels != label]


def _check(candidate: Candidate, ensemble: Ensemble, others: Tensor, config: AttackCheckConfig) -> CheckedCandidate:
    label = candidate.evidence.label
    fitted = ensemble.models[candidate.model_index]
    rate = attack_success_rate(fitted.model, candidate.trigger, others, label)
    # A simple model that is bad at the task and obeys the trigger separates best (section 3.3.8).
    score = config.accuracy_weight * (1 - fitted.train_accuracy) + (1 - config.accuracy_weight) * rate
    return CheckedCandidate(candidate, rate, rate >= config.min_success_rate, score)
