"""Stage 6 of preset `default` for samples that nothing was fitted on: the rest of a large data set, a chunk at a time.

The same rule judges them as those of the fit: the log-odds of trigger and content add up. Of the two models, or
filters, that judge each other's half of the fit, neither has seen these samples, so both do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.method.label_check import Membership
from vbdguard.method.population import Population
from vbdguard.method.strangers import Blind
from vbdguard.method.suspect import Suspect


@dataclass(frozen=True, slots=True)
class Judgement:
    """What trigger and content say of each sample."""

    posterior: Tensor
    """float32 (N,) in [0, 1]: how sure it is that a sample is poisoned; 0 in classes that nobody accuses."""
    suggested: Tensor
    """int64 (N,): the likeliest other label; of no meaning in those classes."""


def judge_unseen(
    population: Population,
    fitted: Tensor,
    judgement: Judgement,
    accused: Sequence[tuple[Suspect, Membership]],
    blind: Blind,
) -> Judgement:
    """Return the judgement of all samples, given that of those that the fit has seen.

    Args:
        population: all N samples.
        fitted: int64 (n,), ascending, those of the fit.
        judgement: of these.
        accused: each trigger, and what the content says of its class.
        blind: the models that see no trigger.
    """
    if len(fitted) == len(population):
        return judgement
    posterior = judgement.posterior.new_zeros(len(population)).index_copy(0, fitted, judgement.posterior)
    suggested = population.labels.new_full((len(population),), -1).index_copy(0, fitted, judgement.suggested)
    is_unseen = torch.ones_like(population.labels, dtype=torch.bool)
    is_unseen[fitted] = False
    for label in sorted({suspect.label for suspect, _ in accused}):
        against = [(suspect, fit) for suspect, fit in accused if suspect.label == label]
        for chunk, samples in population.chunks((is_unseen & (population.labels == label)).nonzero().squeeze(1)):
            log_probability = blind.models[label].log_probability(samples.images)
            posterior[chunk] = _posterior(samples.images, against, log_probability[:, label])
            suggested[chunk] = _other_than(label, log_probability)
    return Judgement(posterior, suggested)


def _posterior(images: Tensor, against: Sequence[tuple[Suspect, Membership]], own_label: Tensor) -> Tensor:
    """Return how sure it is that images of one class carry one of its triggers, float32 (n,).

    Args:
        images: uint8 (n, H, W, C).
        against: the triggers.
        own_label: float32 (n,), log-probability of the class for models that see none.
    """
    every = torch.arange(len(images), device=images.device)
    fits = own_label.double().cpu().numpy()
    found = torch.zeros(len(images), device=images.device)
    for suspect, fit in against:
        content = torch.from_numpy(fit.content(fits)).float().to(images.device)
        logits = suspect.trace.logits(suspect.level.seen(images), every)
        found = torch.maximum(found, (logits - content).sigmoid())
    return found


def _other_than(label: int, log_probability: Tensor) -> Tensor:
    """Return the likeliest label but this one, int64 (n,), of (n, K) log-probabilities."""
    first, second = log_probability.topk(2, dim=1).indices.unbind(1)
    return torch.where(first == label, second, first)
