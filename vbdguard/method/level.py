"""The images at the sizes at which preset `default` looks at them, and what is usual there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import ClassMeans, Place, UsualContrasts, find_places, natural_covariance
from vbdguard.method.mixture import Mixture, View
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples, halved
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

_GAIN_PER_SAMPLE = 0.02
"""Log-likelihood (nats), per sample of the class, that a trigger must explain: large classes have peculiarities."""
_COARSE_GAIN, _LEAST_COARSE_GAIN = 1.0, 200.0
"""Log-likelihood (nats), per carrier and in all, that a trigger must explain in coarse images."""


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
    _natural: dict[int, Tensor] = field(default_factory=dict, init=False)
    """What `natural` has worked out so far."""

    @classmethod
    def of(
        cls, samples: Samples, means: ClassMeans, image_size: tuple[int, int], config: DirectMethodConfig, side: int
    ) -> Level:
        """Look for suspicious places in the class means, which may be those of more samples."""
        is_coarse = samples.image_shape[:2] != image_size
        contrasts = means.against_median() if is_coarse else means.against_others()
        usual = UsualContrasts.of(contrasts, config.contrast)
        scores = torch.stack([usual.scores(contrast, label) for label, contrast in enumerate(contrasts)])
        places = find_places(scores, None if is_coarse else means.echo(), config.contrast)
        return cls(samples, image_size, means, usual, places, side, config.contrast.natural_share)

    @property
    def is_coarse(self) -> bool:
        """Whether the images are smaller than they were."""
        return self.samples.image_shape[:2] != self.image_size

    def seen(self, images: Tensor) -> Tensor:
        """Return uint8 (n, H, W, C) images of the original size at this one."""
        return halved(images, max(self.samples.image_shape[:2]))

    def least_gain(self, mixture: Mixture, config: DirectMethodConfig) -> float:
        """Return the log-likelihood (nats) that a mixture must explain: in coarse images every class has its looks."""
        if not self.is_coarse:
            return max(config.mixture.min_gain, _GAIN_PER_SAMPLE * len(mixture.posterior))
        return max(_LEAST_COARSE_GAIN, _COARSE_GAIN * float(mixture.posterior.sum()))

    def enlarged(self, trigger: TriggerCandidate) -> TriggerCandidate:
        """Return a trigger of this size in the pixels of the whole images."""
        if tuple(trigger.mask.shape) == self.image_size:
            return trigger
        mask = F.interpolate(trigger.mask[None, None].float(), self.image_size)[0, 0] > 0
        return TriggerCandidate(mask, F.interpolate(trigger.pattern[None], self.image_size)[0] * mask)

    def view(self, own: Tensor, others: Tensor, label: int, window: Window) -> View:
        """Return what stage 3 sees of a class: its samples, int64 (n,), and some of other classes, int64 (m,)."""
        return View.of(self.samples.images, own, others, self.means.without(label), self.natural(label), window)

    def natural(self, label: int) -> Tensor:
        """Return how windows of the other classes' differences vary, float64 (D, D)."""
        if label not in self._natural:
            others = self.means.leaving_out(label)
            contrasts = others.against_others()[others.counts > 0]
            self._natural[label] = natural_covariance(contrasts, self.side, self.natural_share)
        return self._natural[label]


def image_levels(population: Population, samples: Samples, config: DirectMethodConfig) -> list[Level]:
    """Return the images as they are and, where that makes a difference, coarse ones.

    Args:
        population: what the class means are taken of.
        samples: those of it that the fit looks at.
        config: all settings.
    """
    size = samples.image_shape[:2]
    if min(size) < 2 * config.coarse_side:
        means = ClassMeans.at_sides(population, [max(size)])
        return [Level.of(samples, means[0], size, config, config.mixture.side)]
    fine, coarse = ClassMeans.at_sides(population, [max(size), config.coarse_side])
    return [
        Level.of(samples, fine, size, config, config.mixture.side),
        Level.of(samples.halved_to(config.coarse_side), coarse, size, config, config.contrast.side),
    ]
