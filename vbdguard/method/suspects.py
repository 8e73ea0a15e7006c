"""Stage 2: which classes look at one pixel more than a clean class would (paper, section 3.3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from vbdguard.config import SuspectsConfig
from vbdguard.method.gradients import margin_gradients
from vbdguard.method.samples import Samples
from vbdguard.method.simple_model import SimpleModel


@dataclass(frozen=True, slots=True)
class ClassEvidence:
    """What the gradient test says about one class under one model."""

    label: int
    p_value: float
    """Two-sided Kolmogorov-Smirnov p-value, 0 to 1; small means suspect."""
    is_suspect: bool
    likely_poisoned: Tensor
    """int64 indices of the samples that the model is surest of, into the detection split's samples."""
    mean_gradient: Tensor
    """float (C, H, W), mean margin gradient over them (Eq. 5)."""


def find_suspects(
    model: SimpleModel, detection: Samples, logits: Tensor, config: SuspectsConfig
) -> tuple[ClassEvidence, ...]:
    """Return the evidence on each class that has enough samples to test.

    The surest correctly predicted samples of a class stand for its poisoned ones, the least sure of
    the rest for its clean ones; the test compares how much each cares for the one pixel that matters
    most to the former (Eq. 7 and 8).

    Args:
        model: a simple poisoned model.
        detection: the samples to look at.
        logits: float (n, K), the model's logits for them.
        config: settings of stage 2.
    """
    found = (_class_evidence(model, detection, logits, label, config) for label in range(detection.n_classes))
    return tuple(evidence for evidence in found if evidence is not None)


def _class_evidence(
    model: SimpleModel, detection: Samples, logits: Tensor, label: int, config: SuspectsConfig
) -> ClassEvidence | None:
    members = detection.members(label)
    sureness = logits[members].log_softmax(1)[:, label]
    surest_first = members[sureness.argsort(descending=True, stable=True)]
    is_correct = logits[surest_first].argmax(1) == label
    top = surest_first[is_correct][: config.top]
    if len(top) < config.min_top:
        return None
    rest = surest_first[~torch.isin(surest_first, top)]
    bottom = rest[-config.top :]
    if len(bottom) < config.min_top:
        return None
    poisoned_gradients = margin_gradients(model, detection.pixels(top), label)
    clean_gradients = margin_gradients(model, detection.pixels(bottom), label)
    mean_gradient = poisoned_gradients.mean(0)
    place = int(mean_gradient.mean(0).abs().argmax())
    p_value = float(ks_2samp(_importance(poisoned_gradients, place), _importance(clean_gradients, place)).pvalue)
    return ClassEvidence(label, p_value, p_value < config.significance, top, mean_gradient)


def _importance(gradients: Tensor, place: int) -> list[float]:
    """Return max over channels of |gradient| at a flat pixel index, per sample (Eq. 8)."""
    importance: list[float] = gradients.flatten(2)[:, :, place].abs().amax(1).tolist()
    return importance
