"""The images at the sizes at which preset `default` looks at them, and what is usual there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import ClassMeans, Place, UsualContrasts, find_places, natural_covariance
from vbdguard.method.mixture import View
from vbdguard.method.population import Population
from vbdguard.method.rare_detail import RareDetail
from vbdguard.method.samples import Samples, evenly, halved
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

_GAIN_PER_SAMPLE = 0.02
"""Log-likelihood (nats), per sample of the class, that a trigger must explain: large classes have peculiarities."""
_COARSE_GAIN, _LEAST_COARSE_GAIN = 1.0, 200.0
"""Log-likelihood (nats), per carrier and in all, that a trigger must explain in coarse images."""
_MOST_COMPARED = 100
"""Classes that say how natural differences vary, at most; more of them say the same."""


@dataclass(frozen=True, slots=True)
class Level:
    """The images at one size: as they are, where small patches stand out, or coarse, where whole pictures do."""

    samples: Samples
    """Those that the fit looks at."""
    image_size: tuple[int, int]
    """Height and width of the whole images."""
    means: ClassMeans
    """Of all samples."""
    usual: UsualContrasts
    places: Mapping[int, list[Place]]
    """Where each suspicious class looks unlike the others."""
    side: int
    """Of the windows of stage 3."""
    natural_share: float
    """Of windows of class differences."""
    rare: RareDetail | None = None
    """What few images show, in images as they are."""
    _natural: dict[int | None, Tensor] = field(default_factory=dict, init=False)
    """What `natural` has worked out so far."""

    @classmethod
    def whole(
        cls, samples: Samples, means: ClassMeans, rare: RareDetail, rare_means: ClassMeans, config: DirectMethodConfig
    ) -> Level:
        """Look for suspicious places in images as they are.

        Args:
            samples: those that the fit looks at.
            means: of all samples.
            rare: what few images show.
            rare_means: of it in all samples.
            config: all settings.
        """
        usual, scores = _scored(means.against_others(), config)
        places = find_places(scores, means.echo(), config.contrast)
        _, scores = _scored(rare_means.against_others(), config)
        for label, found in find_places(scores, rare_means.echo(), config.contrast, is_rare=True).items():
            places.setdefault(label, []).extend(found)
        size, share = samples.image_shape[:2], config.contrast.natural_share
        return cls(samples, size, means, usual, places, config.mixture.side, share, rare)

    @classmethod
    def coarse(
        cls, samples: Samples, means: ClassMeans, image_size: tuple[int, int], config: DirectMethodConfig
    ) -> Level:
        """Look for suspicious places in images that were larger; the means are those of all samples, at this size."""
        usual, scores = _scored(means.against_median(), config)
        places = find_places(scores, None, config.contrast)
        return cls(samples, image_size, means, usual, places, config.contrast.side, config.contrast.natural_share)

    @property
    def is_coarse(self) -> bool:
        """Whether the images are smaller than they were."""
        return self.samples.image_shape[:2] != self.image_size

    def seen(self, images: Tensor) -> Tensor:
        """Return uint8 (n, H, W, C) images of the original size at this one."""
        return halved(images, max(self.samples.image_shape[:2]))

    def least_gain(self, n: int, carriers: float, config: DirectMethodConfig) -> float:
        """Return the log-likelihood (nats) that a trigger must explain: in coarse images every class has its looks.

        Args:
            n: samples of the class.
            carriers: expected number of those that carry the trigger.
            config: all settings.
        """
        if not self.is_coarse:
            return max(config.mixture.min_gain, _GAIN_PER_SAMPLE * n)
        return max(_LEAST_COARSE_GAIN, _COARSE_GAIN * carriers)

    def enlarged(self, trigger: TriggerCandidate) -> TriggerCandidate:
        """Return a trigger of this size in the pixels of the whole images."""
        if tuple(trigger.mask.shape) == self.image_size:
            return trigger
        mask = self.at_full_size(trigger.mask)
        return TriggerCandidate(mask, self.at_full_size(trigger.pattern) * mask)

    @property
    def scale(self) -> int:
        """How many pixels of the whole images lie in one of this size, a side."""
        factor = 1
        while self.image_size[0] // factor > self.samples.image_shape[0]:
            factor *= 2
        return factor

    def at_full_size(self, values: Tensor) -> Tensor:
        """Return values of each pixel, (..., h, w), for the pixels of the whole images, (..., H, W).

        What halving drops of odd sides is like its neighbour.
        """
        rows, columns = (
            (torch.arange(whole, device=values.device) // self.scale).clamp_max(seen - 1)
            for whole, seen in zip(self.image_size, values.shape[-2:], strict=True)
        )
        return values[..., rows[:, None], columns]

    def view(self, own: Tensor, others: Tensor, label: int, window: Window) -> View:
        """Return what stage 3 sees of a class: its samples, int64 (n,), and some of other classes, int64 (m,)."""
        return View.of(self.samples.images, own, others, self.means.without(label), self.natural(label), window)

    def natural(self, label: int) -> Tensor:
        """Return how windows of the other classes' differences vary, float64 (D, D)."""
        compared = evenly((self.means.counts > 0).nonzero().squeeze(1), _MOST_COMPARED)
        left_out = label if label in compared else None
        if left_out not in self._natural:
            others = self.means if left_out is None else self.means.leaving_out(left_out)
            contrasts = others.against_others(compared[others.counts[compared] > 0])
            self._natural[left_out] = natural_covariance(contrasts, self.side, self.natural_share)
        return self._natural[left_out]


def image_levels(population: Population, samples: Samples, config: DirectMethodConfig) -> list[Level]:
    """Return the images as they are and, where that makes a difference, coarse ones.

    Args:
        population: what the class means are taken of.
        samples: those of it that the fit looks at.
        config: all settings.
    """
    size = samples.image_shape[:2]
    rare = RareDetail.among(samples.images, config.contrast.rare_share)
    views: list[Callable[[Tensor], Tensor]] = [lambda images: images, rare.of]
    if min(size) >= 2 * config.coarse_side:
        views.append(lambda images: halved(images, config.coarse_side))
    means, rare_means, *of_coarse = ClassMeans.of_views(population, views)
    levels = [Level.whole(samples, means, rare, rare_means, config)]
    return levels + [Level.coarse(samples.halved_to(config.coarse_side), coarse, size, config) for coarse in of_coarse]


def _scored(contrasts: Tensor, config: DirectMethodConfig) -> tuple[UsualContrasts, Tensor]:
    """Return what is usual in contrasts (K, H, W, C) of classes, and how unusual each place is, (K, H, W)."""
    usual = UsualContrasts.of(contrasts, config.contrast)
    return usual, torch.stack([usual.scores(contrast, label) for label, contrast in enumerate(contrasts)])
