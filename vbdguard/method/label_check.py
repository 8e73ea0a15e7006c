"""The second proof of preset `default`: flagged samples must be strangers in their class.

Not in the paper. A trigger is pasted on other classes' images, so whoever cannot see the trigger takes most of them for
something else. A natural pattern that a class shares, such as a green background of frogs, or a date stamp, sits on
samples that belong there. The published stages 2 and 4 cannot tell the two apart: on unpoisoned CIFAR-10 they declare a
class poisoned.

How well a sample fits its class for models that cannot see the trigger (`blind_models`) says how likely it is a member:
the likelihood ratio between the class's kept samples and those of other classes. It serves twice: a class stays accused
only if most of its flagged samples are no members, and where a faint trigger leaves doubt about a sample, its content
decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

Floats = NDArray[np.float64]

_FEWEST_KEPT = 10
_BINS = 16
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
    content: ContentRatio
    """What a sample's fit says about it."""

    def is_clearly_of_members(self, boundary: float) -> bool:
        """Return whether the flagged samples lie on the members' side, beyond two standard errors.

        Args:
            boundary: how far that begins from strangers (0) to members (1).
        """
        begins = self.if_poisoned + boundary * (self.kept - self.if_poisoned)
        return self.flagged - 2 * self.standard_error > begins


@dataclass(frozen=True, slots=True, eq=False)
class ContentRatio:
    """The likelihood ratio of being like a class's kept samples over being like others, a step function of the fit."""

    edges: Floats
    """(B,), ascending."""
    log_ratios: Floats
    """(B + 1,), nats, between the edges."""

    def __call__(self, fit: Floats) -> Floats:
        """Return the log-ratio (nats) of each sample's fit as a member of the class over that as a stranger, (n,)."""
        ratios: Floats = self.log_ratios[self.edges.searchsorted(fit)]
        return ratios

    @classmethod
    def of(cls, kept: Floats, others: Floats) -> ContentRatio:
        """Learn it by histograms on quantiles."""
        # The quantiles of both kinds weigh the same, or the rarer kind would have no resolution.
        levels = np.linspace(0, 1, _BINS // 2 + 1)[1:-1]
        edges = np.unique(np.concatenate([np.quantile(kept, levels), np.quantile(others, levels)]))
        counts = [np.bincount(edges.searchsorted(part), minlength=len(edges) + 1) for part in (kept, others)]
        usual = sum(count / count.sum() for count in counts) / 2
        extra = _PRIOR_COUNT * len(usual)
        members, strangers = ((count + extra * usual) / (count.sum() + extra) for count in counts)
        return cls(edges, np.log(np.maximum(members, 1e-12) / np.maximum(strangers, 1e-12)))


NO_RATIO = ContentRatio(np.empty(0), np.zeros(1))
"""Where nothing could be learned: content speaks for nothing."""


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
        fit: (N,), log-probabilities of the class's label, of `BlindFits.fit`.
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
        return Membership(1.0, 1.0, int(is_flagged.sum()), 1.0, 0.0, 1.0, False, NO_RATIO)
    content = ContentRatio.of(kept, others)
    member = 1 / (1 + np.exp(-content(fit)))
    of_all_flagged, of_kept, of_others = (
        float(member[chosen].mean()) for chosen in (is_flagged, bears_label & is_kept, ~bears_label & is_kept)
    )
    if_poisoned = own_share * of_kept + (1 - own_share) * of_others
    of_flagged = of_kept + (of_all_flagged - of_kept) / purity
    n_flagged = int(is_flagged.sum())
    standard_error = float(member[is_flagged].std() / np.sqrt(n_flagged) / purity)
    p_value = float(mannwhitneyu(fit[is_flagged], kept, alternative="less").pvalue)
    is_stranger = of_flagged < if_poisoned + boundary * (of_kept - if_poisoned) and p_value < significance
    return Membership(of_flagged, standard_error, n_flagged, of_kept, if_poisoned, p_value, is_stranger, content)
