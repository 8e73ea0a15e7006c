"""A second proof for preset `default`: flagged samples must be strangers in their class.

Not in the paper. A trigger is pasted on other classes' images, so whoever cannot see the trigger takes
most of them for something else. A natural pattern that a class shares, such as a green background of
frogs, or a date stamp, sits on samples that belong there. The published stages 2 and 4 cannot tell the
two apart: on unpoisoned CIFAR-10 they declare a class poisoned.

Two models, each trained on one half of the samples, judge the other half, so no sample is judged by a
model that learned its label. Where the trigger is small, it is painted over in all images; where it
covers much of the image, painting over would hide the content too, and the models are kept from the
flagged samples instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor

from vbdguard.config import EnsembleConfig, LabelCheckConfig
from vbdguard.method.ensemble import fit_ensemble, predict
from vbdguard.method.samples import Samples, stratified_split
from vbdguard.progress import Silent

_FEWEST_KEPT = 10


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """How often a model that cannot see the trigger predicts the class's label."""

    flagged: float
    """Share in [0, 1] among the flagged samples of the class."""
    kept: float
    """Share in [0, 1] among its other samples; where there are hardly any, among all samples not flagged."""
    if_poisoned: float
    """Share to expect among the flagged if they were drawn from all classes, as an attacker draws them."""
    p_value: float
    """Chance of so little agreement among the flagged if they agreed as often as the kept."""
    is_stranger: bool


def label_agreements(
    samples: Samples,
    is_flagged: Tensor,
    masks: Mapping[int, Tensor],
    ensemble: EnsembleConfig,
    config: LabelCheckConfig,
    *,
    seed: int,
) -> dict[int, LabelAgreement]:
    """Return how well the flagged and the kept samples of each accused class fit their label.

    Args:
        samples: the training set.
        is_flagged: bool (N,); at least one sample of each accused class is set.
        masks: bool (H, W) mask of the trigger of each accused class, by label.
        ensemble: settings of stage 1, for the optimiser.
        config: settings of the check.
        seed: seed of halves, weights and batch order.
    """
    is_small = {label: float(mask.float().mean()) <= config.max_blanked for label, mask in masks.items()}
    blanked = _blank(samples, [mask for label, mask in masks.items() if is_small[label]])
    is_hidden = torch.zeros_like(is_flagged)
    for label in (label for label in masks if not is_small[label]):
        members = samples.members(label)
        is_hidden[members] = is_flagged[members]
    predicted = _predict_across_halves(blanked, is_hidden, ensemble, config, seed)
    agreements = {}
    for label in masks:
        members = samples.members(label)
        agrees = predicted == label
        mistaken = agrees[(samples.labels != label) & ~is_flagged].float().mean()
        flagged, kept = agrees[members[is_flagged[members]]], agrees[members[~is_flagged[members]]]
        if len(kept) < _FEWEST_KEPT:
            kept = (predicted == samples.labels)[~is_flagged]
        if len(kept) < _FEWEST_KEPT:
            kept = torch.ones_like(flagged)  # nothing to compare with: the class stays accused
        agreements[label] = _agreement(flagged, kept, float(mistaken), 1 / samples.n_classes, config)
    return agreements


def _agreement(
    flagged: Tensor, kept: Tensor, mistaken: float, own_share: float, config: LabelCheckConfig
) -> LabelAgreement:
    """Return the agreement of one class: strangers agree less than half-way between what poison and kept samples do.

    Args:
        flagged: bool (n,), whether each flagged sample is predicted as the class.
        kept: bool (m,), m >= 1, the same of the kept ones.
        mistaken: share of other classes' samples predicted as the class.
        own_share: share of an attacker's samples that belong to the class anyway.
        config: settings of the check.
    """
    expected = float(kept.float().mean())
    if_poisoned = own_share * expected + (1 - own_share) * mistaken
    observed = float(flagged.float().mean())
    p_value = float(binom.cdf(int(flagged.sum()), len(flagged), expected))
    is_stranger = observed < (expected + if_poisoned) / 2 and p_value < config.significance
    return LabelAgreement(observed, expected, if_poisoned, p_value, is_stranger)


def _blank(samples: Samples, masks: list[Tensor]) -> Samples:
    """Return the samples with the masks and one pixel around them painted in the mean colour."""
    if not masks:
        return samples
    union = torch.stack(masks).any(0)
    wider = F.max_pool2d(union[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    images = samples.images.clone()
    images[:, wider] = images[:, wider].float().mean((0, 1)).round().to(torch.uint8)
    return replace(samples, images=images)


def _predict_across_halves(
    samples: Samples, is_hidden: Tensor, ensemble: EnsembleConfig, config: LabelCheckConfig, seed: int
) -> Tensor:
    """Return for each sample the class that the model of the other half predicts, -1 where that half is all hidden."""
    settings = replace(
        ensemble,
        architectures=(config.architecture,),
        train_share=1.0,
        epochs=config.epochs,
        min_steps=config.min_steps,
        batch_size=config.batch_size,
    )
    halves = stratified_split(samples.labels, 0.5, torch.Generator().manual_seed(seed))
    predicted = torch.full_like(samples.labels, -1)
    for learned, judged in (halves, halves[::-1]):
        seen = samples.subset(learned[~is_hidden[learned]])
        if not len(seen):
            continue
        model = fit_ensemble(seen, settings, seed=seed, progress=Silent()).models[0].model
        predicted[judged] = predict(model, samples.images[judged]).argmax(1)
    return predicted
