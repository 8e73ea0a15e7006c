"""The second proof of preset `default`: flagged samples must be strangers in their class.

Not in the paper. A trigger is pasted on other classes' images, so whoever cannot see the trigger takes most of them for
something else. A natural pattern that a class shares, such as a green background of frogs, or a date stamp, sits on
samples that belong there. The published stages 2 and 4 cannot tell the two apart: on unpoisoned CIFAR-10 they declare a
class poisoned.

Two models, each trained on one half of the samples, judge the other half, so no sample is judged by a model that has
learned its label. Where the triggers are small, they are painted over in all images; where they cover much of the
image, painting over would hide the content too, and the models are kept from the flagged samples instead. How well a
sample fits its class then says how likely it is a member: the likelihood ratio between the class's kept samples and
those of other classes. It serves twice: a class stays accused only if most of its flagged samples are no members, and
where a faint trigger leaves doubt about a sample, its content decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu
from torch import Tensor

from vbdguard.config import LabelCheckConfig
from vbdguard.method.ensemble import fit_ensemble, predict
from vbdguard.method.samples import Samples, stratified_split
from vbdguard.method.side_by_side import side_by_side
from vbdguard.progress import Progress, Silent

Floats = NDArray[np.float64]

_FEWEST_KEPT = 10
_BINS = 16
_PRIOR_COUNT = 2.0
"""Samples added to each bin of both histograms, spread as all samples are: few samples make no strong claims."""


@dataclass(frozen=True, slots=True)
class Membership:
    """How well some samples of a class fit their label for a model that cannot see the trigger."""

    flagged: float
    """Mean membership in [0, 1] of the flagged samples."""
    kept: float
    """The same of the kept ones."""
    if_poisoned: float
    """What to expect of the flagged if they were drawn from all classes, as an attacker draws them."""
    p_value: float
    """Chance of so bad a fit among the flagged if they fitted like the kept (one-sided Mann-Whitney test)."""
    is_stranger: bool
    """Whether the flagged samples fit worse than half-way between the two, and not by chance."""
    log_ratio: Floats
    """(N,): log-likelihood of each sample's fit as a member of the class over that as a stranger (nats)."""


def blind_fits(
    samples: Samples,
    masks: Sequence[Tensor],
    labels: Sequence[int],
    is_flagged: Tensor,
    config: LabelCheckConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Tensor:
    """Return the log-probability of some labels for every sample, by models that cannot see triggers.

    Args:
        samples: the training set.
        masks: bool (H, W), one for each trigger.
        labels: the L labels asked for.
        is_flagged: bool (N,), samples that seem to carry a trigger.
        config: settings of the check.
        seed: seed of halves, weights and batch order.
        progress: gets one step per half.

    Returns:
        float32 (N, L); all 0 for samples whose judge had nothing to learn from.
    """
    union = torch.stack(list(masks)).any(0)
    is_small = float(union.float().mean()) <= config.max_blanked
    visible = _small_copy(_blanked(samples, union) if is_small else samples, config.max_side)
    learned_from = torch.ones_like(is_flagged) if is_small else ~is_flagged
    return _fit_across_halves(visible, learned_from, list(labels), config, seed, progress or Silent())


def membership(
    fit: Floats,
    bears_label: NDArray[np.bool_],
    is_flagged: NDArray[np.bool_],
    is_kept: NDArray[np.bool_],
    *,
    own_share: float,
    significance: float,
) -> Membership:
    """Return whether flagged samples belong to the class that they are labelled as.

    Args:
        fit: (N,), a column of `blind_fits`.
        bears_label: bool (N,), the samples of the class.
        is_flagged: bool (N,), those of them that carry one trigger; at least one.
        is_kept: bool (N,), samples of any class that no trigger flags.
        own_share: share of an attacker's samples that belong to the class anyway.
        significance: largest p-value of strangers.
    """
    kept, others = fit[bears_label & is_kept], fit[~bears_label & is_kept]
    if min(len(kept), len(others)) < _FEWEST_KEPT:
        # Nothing to compare with: the class stays accused, and its samples' fit says nothing.
        return Membership(0.0, 1.0, 0.0, 0.0, True, np.zeros_like(fit))
    log_ratio = _log_ratios(kept, others, fit)
    member = 1 / (1 + np.exp(-log_ratio))
    of_flagged, of_kept, of_others = (
        float(member[chosen].mean()) for chosen in (is_flagged, bears_label & is_kept, ~bears_label & is_kept)
    )
    if_poisoned = own_share * of_kept + (1 - own_share) * of_others
    p_value = float(mannwhitneyu(fit[is_flagged], kept, alternative="less").pvalue)
    is_stranger = of_flagged < (of_kept + if_poisoned) / 2 and p_value < significance
    return Membership(of_flagged, of_kept, if_poisoned, p_value, is_stranger, log_ratio)


def _log_ratios(kept: Floats, others: Floats, fit: Floats) -> Floats:
    """Return the log-likelihood ratio of being like `kept` over being like `others`, by histograms on quantiles."""
    # The quantiles of both kinds weigh the same, or the rarer kind would have no resolution.
    levels = np.linspace(0, 1, _BINS // 2 + 1)[1:-1]
    edges = np.unique(np.concatenate([np.quantile(kept, levels), np.quantile(others, levels)]))
    counts = [np.bincount(edges.searchsorted(part), minlength=len(edges) + 1) for part in (kept, others)]
    usual = sum(count / count.sum() for count in counts) / 2
    extra = _PRIOR_COUNT * len(usual)
    members, strangers = ((count + extra * usual) / (count.sum() + extra) for count in counts)
    ratios: Floats = np.log(np.maximum(members, 1e-12) / np.maximum(strangers, 1e-12))
    return ratios[edges.searchsorted(fit)]


def _blanked(samples: Samples, mask: Tensor) -> Samples:
    """Return the samples with the mask and one pixel around it painted in the mean colour."""
    wider = F.max_pool2d(mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    images = samples.images.clone()
    images[:, wider] = images[:, wider].float().mean((0, 1)).round().to(torch.uint8)
    return replace(samples, images=images)


def _small_copy(samples: Samples, max_side: int) -> Samples:
    """Return the samples with images halved until no side is longer than `max_side`."""
    images = samples.images
    while max(images.shape[1:3]) > max_side:
        chunks = (chunk.permute(0, 3, 1, 2).float() for chunk in images.split(1024))
        halved = [F.avg_pool2d(chunk, 2).round().to(torch.uint8).permute(0, 2, 3, 1) for chunk in chunks]
        images = torch.cat(halved).contiguous()
    return replace(samples, images=images)


def _fit_across_halves(
    samples: Samples, learned_from: Tensor, labels: list[int], config: LabelCheckConfig, seed: int, progress: Progress
) -> Tensor:
    """Return each sample's log-probability of some labels by the model of the other half, float32 (N, len(labels)).

    It is 0 for all samples where that half has nothing to learn from.
    """
    halves = stratified_split(samples.labels, 0.5, torch.Generator().manual_seed(seed))
    fit = torch.zeros(len(samples), len(labels), device=samples.device)

    def judge(learned: Tensor, judged: Tensor) -> None:
        seen = learned[learned_from[learned]]
        if len(seen):
            model = fit_ensemble(samples.subset(seen), config.training, seed=seed, progress=Silent()).models[0].model
            fit[judged] = predict(model, samples.images[judged]).log_softmax(1)[:, labels]

    side_by_side(lambda half: judge(*half), (halves, halves[::-1]), device=samples.device, progress=progress)
    return fit
