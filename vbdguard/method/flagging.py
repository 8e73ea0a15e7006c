"""Stage 6: which samples are poisoned (paper, section 3.3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.method.detector import GradientDetector
from vbdguard.method.ensemble import predict
from vbdguard.method.samples import Samples
from vbdguard.method.simple_model import SimpleModel


@dataclass(frozen=True, slots=True)
class Flags:
    """The detectors' word on every sample."""

    is_flagged: Tensor
    """bool (N,)."""
    scores: Tensor
    """float (N,) in [0, 1]; 0 where no detector judges the sample's class."""

    def members(self, samples: Samples, label: int) -> Tensor:
        """Return the indices of a class's flagged samples, int64 (n,), ascending."""
        members = samples.members(label)
        return members[self.is_flagged[members]]


def flag_samples(samples: Samples, detectors: Sequence[GradientDetector]) -> Flags:
    """Return the flags and scores of all samples; a detector judges only samples that bear its class's label."""
    scores = torch.zeros(len(samples), device=samples.device)
    is_flagged = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    for detector in detectors:
        members = samples.members(detector.label)
        scores[members] = detector.scores(samples.images[members])
        is_flagged[members] = scores[members] > detector.threshold
    return Flags(is_flagged, scores)


def suggested_labels(model: SimpleModel, images: Tensor, label: int) -> Tensor:
    """Return the class that the poisoned model finds likeliest beside the given one, int64 (n,) (section 3.3.7)."""
    logits = predict(model, images)
    logits[:, label] = -torch.inf
    return logits.argmax(1)
