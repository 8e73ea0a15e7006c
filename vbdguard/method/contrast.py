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
    """Return mean image of each class minus that of all other samples, float64 (K, H, W, C).

    Classes without samples, and one that holds all of them, get zeros.
    """
    counts = samples.labels.bincount(minlength=samples.n_classes).double()
    sums = torch.zeros(samples.n_classes, samples.images[0].numel(), dtype=torch.float64, device=samples.device)
    for images, labels in zip(samples.images.split(_CHUNK), samples.labels.split(_CHUNK), strict=True):
        # Whole numbers below 2**24: exact in float32.
        chosen = F.one_hot(labels, samples.n_classes).float()
        sums += (chosen.T @ images.flatten(1).float()).double()
    others = counts.sum() - counts
    means, rest = sums / counts.clamp_min(1)[:, None], (sums.sum(0) - sums) / others.clamp_min(1)[:, None]
    is_comparable = (counts > 0) & (others > 0)
    return torch.where(is_comparable[:, None], means - rest, 0.0).view(-1, *samples.images.shape[1:])


def contrast_scores(contrasts: Tensor, config: ContrastConfig) -> Tensor:
    """Return how little natural differences explain the window around each pixel, float64 (K, H, W).

    Args:
        contrasts: float64 (K, H, W, C), from `class_contrasts`.
        config: settings of stage 2.
    """
    side, pad = config.side, config.side // 2
    padded = F.pad(contrasts.permute(0, 3, 1, 2), (pad, pad, pad, pad), mode="reflect")
    windows = padded.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
    x = windows.flatten(0, 2)
    is_natural = torch.ones(len(x), dtype=torch.bool, device=x.device)
    distances = x.new_zeros(len(x))
    for _ in range(_TRIMMING_ROUNDS):
        distances = _distances(x, x[is_natural])
        is_natural = distances <= _quantile(distances, config.natural_share)
    return distances.view(windows.shape[:3])


def find_places(scores: Tensor, config: ContrastConfig) -> list[Place]:
    """Return the highest peaks of one class's scores (H, W), highest first."""
    highest = F.max_pool2d(scores[None, None], _PEAK, stride=1, padding=_PEAK // 2)[0, 0]
    peaks = ((scores == highest) & (scores > config.min_score)).nonzero()
    values = scores[peaks[:, 0], peaks[:, 1]]
    order = values.argsort(descending=True, stable=True)[: config.places]
    return [Place(int(row), int(column), float(scores[row, column])) for row, column in peaks[order].tolist()]


def natural_covariance(contrasts: Tensor, size: tuple[int, int], natural_share: float) -> Tensor:
    """Return how windows of natural class differences vary, float64 (D, D) with D = height width C.

    The windows with the sharpest details are left out: a trigger would be among them.

    Args:
        contrasts: float64 (K, H, W, C).
        size: height and width of the windows.
        natural_share: share of the windows, the smoothest, that is natural for sure.
    """
    windows = contrasts.unfold(1, size[0], 1).unfold(2, size[1], 1).permute(0, 1, 2, 4, 5, 3)
    flat = windows.flatten(3).flatten(0, 2)
    step = max(1, len(flat) // (2 * _MOST_WINDOWS))  # neighbours say nearly the same
    flat = flat[::step]
    detail = flat.view(-1, *windows.shape[3:])
    roughness = detail.diff(2, dim=1).abs().mean((1, 2, 3)) + detail.diff(2, dim=2).abs().mean((1, 2, 3))
    natural = flat[roughness <= _quantile(roughness, natural_share)]
    return natural.T @ natural / len(natural)


def _distances(x: Tensor, natural: Tensor) -> Tensor:
    covariance = natural.T @ natural / len(natural)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    factor = torch.linalg.cholesky(covariance)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.T, upper=False)
    return whitened.square().sum(0) / x.shape[1]


def _quantile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(max(1, round(share * len(values)))).values
