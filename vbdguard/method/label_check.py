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
from vbdguard.method.samples import Samples, halved, stratified_split
from vbdguard.method.side_by_side import side_by_side
from vbdguard.progress import Progress, Silent

Floats = NDArray[np.float64]

_FEWEST_KEPT = 10
_BINS = 16
_CHUNK = 1024
_PRIOR_COUNT = 2.0
"""Samples added to each bin of both histograms, spread as all samples are: few samples make no strong claims."""


@dataclass(frozen=True, slots=True)
class Membership:
    """How well some samples of a class fit their label for a model that cannot see the trigger."""

    flagged: float
    """Mean membership of those flagged samples that do carry the trigger; about 0 to 1, an estimate may leave it."""
    standard_error: float
    """Of that mean."""
    n_flagged: int
    kept: float
    """The same of the kept ones."""
    if_poisoned: float
    """What to expect of the flagged if they were drawn from all classes, as an attacker draws them."""
    p_value: float
    """Chance of so bad a fit among the flagged if they fitted like the kept (one-sided Mann-Whitney test)."""
    is_stranger: bool
    """Whether the flagged samples fit worse than half-way (or another part of it) between the two, not by chance."""
    log_ratio: Floats
    """(N,): log-likelihood of each sample's fit as a member of the class over that as a stranger (nats)."""


@dataclass(frozen=True, slots=True)
class BlindFits:
    """What models that cannot see triggers make of every sample."""

    log_probability: Tensor
    """float32 (N, L), of the labels asked for."""
    likeliest: Tensor
    """int64 (N, 2): the two likeliest labels, likeliest first."""


def blind_fits(
    samples: Samples,
    masks: Sequence[Tensor],
    labels: Sequence[int],
    is_hidden: Tensor,
    config: LabelCheckConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> BlindFits:
    """Return what models that cannot see triggers make of every sample.

    Args:
        samples: the training set.
        masks: bool (H, W), what to paint over in all images.
        labels: the L labels asked for.
        is_hidden: bool (N,), samples that the models must not learn from, since their triggers cannot be painted over.
        config: settings of the check.
        seed: seed of halves, weights and batch order.
        progress: gets one step per half.

    Returns:
        The fits; all 0 for samples whose judge had nothing to learn from.
    """
    visible = _without(samples, masks, config.max_side)
    return _fit_across_halves(visible, ~is_hidden, list(labels), config, seed, progress or Silent())


def membership(
    fit: Floats,
    bears_label: NDArray[np.bool_],
    is_flagged: NDArray[np.bool_],
    is_kept: NDArray[np.bool_],
    *,
    own_share: float,
    significance: float,
    purity: float = 1.0,
    boundary: float = 0.5,
) -> Membership:
    """Return whether flagged samples belong to the class that they are labelled as.

    Args:
        fit: (N,), a column of `blind_fits`.
        bears_label: bool (N,), the samples of the class.
        is_flagged: bool (N,), those of them that carry one trigger; at least one.
        is_kept: bool (N,), samples of any class that no trigger flags.
        own_share: share of an attacker's samples that belong to the class anyway.
        significance: largest p-value of strangers.
        purity: share of the flagged, above 0, that carry the trigger; the rest is like the kept.
        boundary: how far from strangers to members, 0 to 1, the flagged may lie and still be strangers.
    """
    kept, others = fit[bears_label & is_kept], fit[~bears_label & is_kept]
    if min(len(kept), len(others)) < _FEWEST_KEPT:
        # What all samples of a class have in common is a mark of the class. Nobody can tell an attack from it.
        return Membership(1.0, 1.0, int(is_flagged.sum()), 1.0, 0.0, 1.0, False, np.zeros_like(fit))
    log_ratio = _log_ratios(kept, others, fit)
    member = 1 / (1 + np.exp(-log_ratio))
    of_all_flagged, of_kept, of_others = (
        float(member[chosen].mean()) for chosen in (is_flagged, bears_label & is_kept, ~bears_label & is_kept)
    )
    if_poisoned = own_share * of_kept + (1 - own_share) * of_others
    of_flagged = of_kept + (of_all_flagged - of_kept) / purity
    n_flagged = int(is_flagged.sum())
    standard_error = float(member[is_flagged].std() / np.sqrt(n_flagged) / purity)
    p_value = float(mannwhitneyu(fit[is_flagged], kept, alternative="less").pvalue)
    is_stranger = of_flagged < if_poisoned + boundary * (of_kept - if_poisoned) and p_value < significance
    return Membership(of_flagged, standard_error, n_flagged, of_kept, if_poisoned, p_value, is_stranger, log_ratio)


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


def _without(samples: Samples, masks: Sequence[Tensor], max_side: int) -> Samples:
    """Return the samples as the models see them, a chunk at a time: a whole copy would double the memory.

    What an image shows can be told from a small copy, in a fraction of the time.
    """
    longest = max(samples.image_shape[:2])
    side = min(max_side, longest - 1) if longest >= max_side else longest
    if not masks:
        return samples.halved_to(side)
    mask = torch.stack(list(masks)).any(0)
    wider = F.max_pool2d(mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    chunks = samples.images.split(_CHUNK)
    total = torch.stack([chunk[:, wider].sum((0, 1), dtype=torch.int64) for chunk in chunks]).sum(0)
    colour = (total.double() / (len(samples) * max(1, int(wider.sum())))).round().to(torch.uint8)
    seen = [halved(torch.where(wider[:, :, None], colour, chunk), side) for chunk in chunks]
    return replace(samples, images=torch.cat(seen))


def _fit_across_halves(
    samples: Samples, learned_from: Tensor, labels: list[int], config: LabelCheckConfig, seed: int, progress: Progress
) -> BlindFits:
    """Return what the model of one half of the samples makes of the other half, both ways."""
    halves = stratified_split(samples.labels, 0.5, torch.Generator().manual_seed(seed))
    log_probability = torch.zeros(len(samples), len(labels), device=samples.device)
    likeliest = torch.zeros(len(samples), 2, dtype=torch.int64, device=samples.device)

    def judge(half: tuple[Tensor, Tensor]) -> None:
        learned, judged = half
        seen = learned[learned_from[learned]]
        if len(seen):
            model = fit_ensemble(samples.subset(seen), config.training, seed=seed, progress=Silent()).models[0].model
            fit = predict(model, samples.images[judged]).log_softmax(1)
            log_probability[judged] = fit[:, labels]
            likeliest[judged] = fit.topk(2, dim=1).indices

    side_by_side(judge, (halves, halves[::-1]), device=samples.device, progress=progress)
    return BlindFits(log_probability, likeliest)
