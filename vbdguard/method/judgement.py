"""Stage 6 of preset `default`: trigger and content together judge each sample.

They are seen by different models in different pixels, so their log-odds add up. Samples that nothing was fitted on, the
rest of a large data set, are judged a chunk at a time by the same rule. Of the two models, or filters, that judge each
other's half of the fit, neither has seen these samples, so both do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.method.kin_judgement import Judged
from vbdguard.method.label_check import ContentRatio
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples


@dataclass(frozen=True, slots=True)
class Judgement:
    """What trigger and content say of each sample."""

    posterior: Tensor
    """float32 (N,) in [0, 1]: how sure it is that a sample is poisoned; 0 in classes that nobody accuses."""
    suggested: Tensor
    """int64 (N,): the likeliest other label; -1 in those classes."""

    @classmethod
    def of_none(cls, labels: Tensor) -> Judgement:
        """Return that of samples with such labels, (N,), of which nobody has said anything."""
        return cls(torch.zeros(len(labels), device=labels.device), torch.full_like(labels, -1))

    def hear(self, indices: Tensor, logits: Tensor, content: Tensor, suggested: Tensor) -> None:
        """Take what one trigger says of some samples; where a class has several, the surest counts.

        Args:
            indices: int64 (n,).
            logits: float (n,), log-odds of the trigger.
            content: float (n,), log-odds of the content for a member of the class.
            suggested: int64 (n,), the likeliest other label.
        """
        found, earlier = (logits - content).sigmoid(), self.posterior[indices]
        self.suggested[indices] = torch.where(found >= earlier, suggested, self.suggested[indices])
        self.posterior[indices] = torch.maximum(found, earlier)


def judge_fitted(samples: Samples, accused: Judged) -> Judgement:
    """Return the judgement of the samples of the fit.

    Args:
        samples: those samples.
        accused: each trigger, and what the content says of its class.
    """
    judgement = Judgement.of_none(samples.labels)
    for suspect, fit in accused:
        own, fits = suspect.members, suspect.fits
        content = _content(fit.content, fits.fit(suspect.label)[own])
        judgement.hear(own, suspect.logits, content, _other_than(suspect.label, fits.likeliest[own]))
    return judgement


def judge_unseen(population: Population, fitted: Tensor, judgement: Judgement, accused: Judged) -> Judgement:
    """Return the judgement of all samples, given that of those that the fit has seen.

    Args:
        population: all N samples.
        fitted: int64 (n,), ascending, those of the fit.
        judgement: of these.
        accused: each trigger, and what the content says of its class.
    """
    if len(fitted) == len(population):
        return judgement
    whole = Judgement.of_none(population.labels)
    whole.posterior[fitted], whole.suggested[fitted] = judgement.posterior, judgement.suggested
    is_unseen = torch.ones_like(population.labels, dtype=torch.bool)
    is_unseen[fitted] = False
    for label in sorted({suspect.label for suspect, _ in accused}):
        against = [(suspect, fit) for suspect, fit in accused if suspect.label == label]
        for chunk, samples in population.chunks((is_unseen & (population.labels == label)).nonzero().squeeze(1)):
            every = torch.arange(len(chunk), device=chunk.device)
            blind = {id(suspect.fits): suspect.fits.models for suspect, _ in against}
            fits = {name: models.log_probability(samples.images) for name, models in blind.items()}
            for suspect, fit in against:
                log_probability = fits[id(suspect.fits)]
                logits = suspect.trace.logits(suspect.level.seen(samples.images), every)
                content = _content(fit.content, log_probability[:, label])
                whole.hear(chunk, logits, content, _other_than(label, log_probability.topk(2, dim=1).indices))
    return whole


def _content(ratio: ContentRatio, own_label: Tensor) -> Tensor:
    """Return what the content says, float32 (n,), of samples whose label has such log-probabilities, (n,)."""
    return torch.from_numpy(ratio(own_label.double().cpu().numpy())).float().to(own_label.device)


def _other_than(label: int, likeliest: Tensor) -> Tensor:
    """Return the likeliest label but this one, int64 (n,), of the two likeliest, (n, 2), likeliest first."""
    first, second = likeliest.unbind(1)
    return torch.where(first == label, second, first)
