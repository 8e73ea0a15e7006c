"""Stage 2 of preset `default`: places where a class differs from all others as no natural class does.

A trigger lies at the same pixels of many samples of one class, so it shows in the difference between the mean image
of the class and that of all other samples. Natural differences between classes are smooth; the covariance of small
windows of all these differences knows how smooth, and what they do not explain stands out (a Hotelling statistic whose
null is the data set itself). Sums over classes are all it needs: one pass, no training, any order of samples.

The paper finds its suspects in the gradients of trained models (section 3.3.2), from 20 samples of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import ContrastConfig
from vbdguard.method.samples import Samples

_CHUNK = 1024
_TRIMMING_ROUNDS = 5
_RIDGE = 1e-6
_MOST_WINDOWS = 20_000
_PEAK = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A pixel around which a class looks unlike the others."""

    row: int
    column: int
    score: float
    """Squared Mahalanobis distance per dimension: about 1 where nothing is special."""


def class_contrasts(samples: Samples) -> Tensor:
    """Return mean image of each class minus the median over the classes' mean images, float64 (K, H, W, C).

    The median does not know of a trigger that a few classes bear. Classes without samples get zeros.
    """
    counts = samples.labels.bincount(minlength=samples.n_classes).double()
    sums = torch.zeros(samples.n_classes, samples.images[0].numel(), dtype=torch.float64, device=samples.device)
    for images, labels in zip(samples.images.split(_CHUNK), samples.labels.split(_CHUNK), strict=True):
        # Whole numbers below 2**24: exact in float32.
        chosen = F.one_hot(labels, samples.n_classes).float()
        sums += (chosen.T @ images.flatten(1).float()).double()
    means = sums / counts.clamp_min(1)[:, None]
    usual = means[counts > 0].quantile(0.5, dim=0)
    return torch.where((counts > 0)[:, None], means - usual, 0.0).view(-1, *samples.images.shape[1:])


@dataclass(frozen=True, slots=True)
class UsualContrasts:
    """How small windows of the classes' contrasts vary where nothing is wrong."""

    side: int
    counts: Tensor
    """int64 (K,): ordinary windows of each class."""
    products: Tensor
    """float64 (K, D, D): sum of their outer products, D = side^2 C."""

    @classmethod
    def of(cls, contrasts: Tensor, config: ContrastConfig) -> UsualContrasts:
        """Learn from all windows but the least ordinary.

        Args:
            contrasts: float64 (K, H, W, C), from `class_contrasts`.
            config: settings of stage 2.
        """
        by_class = torch.stack([_windows(contrast, config.side) for contrast in contrasts])
        x = by_class.flatten(0, 1)
        is_natural = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(_TRIMMING_ROUNDS):
            distances = _distances(x, x[is_natural].T @ x[is_natural] / is_natural.sum())
            is_natural = distances <= _quantile(distances, config.natural_share)
        kept = by_class * is_natural.view(*by_class.shape[:2], 1)
        return cls(config.side, is_natural.view(len(contrasts), -1).sum(1), kept.transpose(1, 2) @ kept)

    def scores(self, contrast: Tensor, label: int) -> Tensor:
        """Return how little the other classes' windows explain the one around each pixel, float64 (H, W).

        A class is measured by the others, or one whose image is all trigger would explain itself.

        Args:
            contrast: float64 (H, W, C), of the class or of some of its samples.
            label: the class.
        """
        count = int(self.counts.sum() - self.counts[label])
        products = self.products.sum(0) - self.products[label]
        if count <= products.shape[0]:  # two classes, say: the little that others show would fit anything badly
            count, products = int(self.counts.sum()), self.products.sum(0)
        return _distances(_windows(contrast, self.side), products / count).view(contrast.shape[:2])


def find_places(scores: Tensor, config: ContrastConfig) -> list[Place]:
    """Return the highest peaks of one class's scores (H, W), highest first."""
    highest = F.max_pool2d(scores[None, None], _PEAK, stride=1, padding=_PEAK // 2)[0, 0]
    peaks = ((scores == highest) & (scores > config.min_score)).nonzero()
    values = scores[peaks[:, 0], peaks[:, 1]]
    order = values.argsort(descending=True, stable=True)[: config.places]
    return [Place(int(row), int(column), float(scores[row, column])) for row, column in peaks[order].tolist()]


@dataclass(frozen=True, slots=True)
class NaturalVariation:
    """How windows of natural class differences vary."""

    windows: Tensor
    """float64 (K, P, D): windows of each class's contrast; those with the sharpest details, where a trigger would be,
    are 0."""
    counts: Tensor
    """int64 (K,): how many of each class are left."""
    products: Tensor
    """float64 (D, D): sum of their outer products over all classes."""

    @classmethod
    def of(cls, contrasts: Tensor, side: int, natural_share: float) -> NaturalVariation:
        """Gather the windows.

        Args:
            contrasts: float64 (K, H, W, C).
            side: side of the windows in pixels, cut to the image.
            natural_share: share of the windows, the smoothest, that is natural for sure.
        """
        height, width = (min(side, length) for length in contrasts.shape[1:3])
        windows = contrasts.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        step = max(1, windows.shape[0] * windows.shape[1] * windows.shape[2] // _MOST_WINDOWS)
        detail = windows.flatten(1, 2)[:, ::step]  # neighbours say nearly the same
        roughness = detail.diff(2, dim=2).abs().mean((2, 3, 4)) + detail.diff(2, dim=3).abs().mean((2, 3, 4))
        is_natural = roughness <= _quantile(roughness.flatten(), natural_share)
        kept = detail.flatten(2) * is_natural[..., None]
        flat = kept.flatten(0, 1)
        return cls(kept, is_natural.sum(1), flat.T @ flat)

    def without(self, label: int) -> Tensor:
        """Return the covariance over all classes but one, float64 (D, D)."""
        own = self.windows[label]
        count = int(self.counts.sum() - self.counts[label])
        return (self.products - own.T @ own) / max(1, count)


def _windows(contrast: Tensor, side: int) -> Tensor:
    """Return the window around each pixel of (H, W, C), borders reflected, (H W, D)."""
    pad = side // 2
    padded = F.pad(contrast.permute(2, 0, 1)[None], (pad, pad, pad, pad), mode="reflect")[0]
    return padded.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)


def _distances(x: Tensor, covariance: Tensor) -> Tensor:
    covariance = covariance.clone()
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    factor = torch.linalg.cholesky(covariance)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.T, upper=False)
    return whitened.square().sum(0) / x.shape[1]


def _quantile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(max(1, round(share * len(values)))).values
