"""Stage 2 of preset `default`: places where a class differs from all others as no natural class does.

A trigger lies at the same pixels of many samples of one class, so it shows in the difference between the mean image
of the class and that of all other samples. Natural differences between classes are smooth; the covariance of small
windows of all these differences knows how smooth, and what they do not explain stands out (a Hotelling statistic whose
null is the data set itself). Sums over classes are all it needs: one pass, no training, any order of samples.

The paper finds its suspects in the gradients of trained models (section 3.3.2), from 20 samples of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import ContrastConfig
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples

_CHUNK = 1000
_TRIMMING_ROUNDS = 5
_RIDGE = 1e-6
_MOST_WINDOWS, _MOST_COMPARED = 8_000, 500_000
_LEAST_INSIDE = 0.7
"""Share of all windows that must lie within the image for these alone to be looked at: from 25 pixels a side on. With
three classes of 20 pixels a side they say too little to tell an echo from a trigger (9 of 10 draws), with 28 enough."""
_PEAK = 5
_ECHO = 3.0
"""How much larger than expected an echo may be."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pixel around which a class looks unlike the others."""

    row: int
    column: int
    score: float
    """Squared Mahalanobis distance per dimension: about 1 where nothing is special."""
    is_rare: bool = False
    """Whether few samples of the class show it, by details that hardly any image has."""


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """What the mean images of the classes say. It follows from sums over classes, whatever the order of the samples."""

    counts: Tensor
    """int64 (K,): samples of each class."""
    means: Tensor
    """float64 (K, H, W, C): 0 where a class has no sample."""

    @classmethod
    def of(cls, samples: Samples) -> ClassMeans:
        """Return those of samples in memory, as they are."""
        return cls.of_views(Population.of(samples), [lambda images: images])[0]

    @classmethod
    def of_views(cls, population: Population, views: Sequence[Callable[[Tensor], Tensor]]) -> list[ClassMeans]:
        """Add up what each view makes of the images of each class, in one pass over all samples.

        Args:
            population: all samples.
            views: from uint8 (n, H, W, C) to whole numbers (n, h, w, C).
        """
        counts = population.labels.bincount(minlength=population.n_classes)
        sums: list[Tensor] = []
        for _, samples in population.chunks():
            seen = [view(samples.images) for view in views]
            if not sums:
                sums = [counts.new_zeros(len(counts), *images.shape[1:], dtype=torch.float64) for images in seen]
            for total, images in zip(sums, seen, strict=True):
                total.index_add_(0, samples.labels, images.double())  # whole numbers: exact in any order
        return [cls(counts, total / counts.clamp_min(1).view(-1, 1, 1, 1)) for total in sums]

    def without(self, label: int) -> Tensor:
        """Return the mean image of all samples of the other classes, float64 (H, W, C); its own where it is alone."""
        weights = self.counts.double()
        weights[label] = 0
        if not weights.any():
            return self.means[label]
        mean: Tensor = torch.tensordot(weights / weights.sum(), self.means, 1)
        return mean

    def leaving_out(self, label: int) -> ClassMeans:
        """Return what the other classes say, or all of them where fewer than two would be left."""
        counts = self.counts.clone()
        counts[label] = 0
        if int((counts > 0).sum()) < 2:
            return self
        return ClassMeans(counts, self.means)

    def against_others(self, labels: Tensor | slice = slice(None)) -> Tensor:
        """Return mean image of classes minus that of all samples of others, float64 (L, H, W, C).

        As smooth as the means are, so that faint details stand out. What one class bears echoes in the others, weaker
        and with the other sign (see `find_places`). Classes without samples get zeros.

        Args:
            labels: int64 (L,), or all of them.
        """
        counts = self.counts.double().view(-1, 1, 1, 1)
        sums = counts * self.means
        means, beside = self.means[labels], (counts.sum() - counts)[labels]
        others = torch.where(beside > 0, (sums.sum(0) - sums[labels]) / beside.clamp_min(1), means)
        return torch.where(counts[labels] > 0, means - others, 0.0)

    def against_median(self) -> Tensor:
        """Return mean image of each class minus the median over the classes' mean images, float64 (K, H, W, C).

        The median does not know of a picture that a few classes bear all over their images, whose echo would make it
        look usual; but it has a kink wherever two classes change places.
        """
        usual = self.means[self.counts > 0].quantile(0.5, dim=0)
        return torch.where((self.counts > 0).view(-1, 1, 1, 1), self.means - usual, 0.0)

    def echo(self) -> Tensor:
        """Return how much of what class j bears shows in the contrast of class k to all others, float64 (K, K)."""
        counts = self.counts.double()
        echo = counts[None, :] / (counts.sum() - counts)[:, None].clamp_min(1)
        return echo.fill_diagonal_(0)


@dataclass(frozen=True, slots=True)
class UsualContrasts:
    """How small windows of the classes' contrasts vary where nothing is wrong."""

    side: int
    counts: Tensor
    """int64 (K,): ordinary windows of each class."""
    products: Tensor
    """float64 (K, D, D): sum of their outer products, D = side^2 C."""
    all_products: Tensor
    """float64 (D, D): of all classes."""

    @classmethod
    def of(cls, contrasts: Tensor, config: ContrastConfig) -> UsualContrasts:
        """Learn from all windows but the least ordinary.

        Args:
            contrasts: float64 (K, H, W, C), from `ClassMeans`.
            config: settings of stage 2.
        """
        height, width = contrasts.shape[1:3]
        rim = rim_of(height, width, config.side)
        windows_of_each = (height - 2 * rim) * (width - 2 * rim)
        compared = _some(windows_of_each, _MOST_COMPARED // len(contrasts)).to(contrasts.device)
        # A class without samples has no contrast, and says nothing of what is usual.
        is_there = contrasts.flatten(1).any(1)
        chosen = [compared if there else compared[:0] for there in (is_there | ~is_there.any()).tolist()]
        usual = cls._among(contrasts, config.side, chosen)
        for _ in range(_TRIMMING_ROUNDS):
            covariance = usual.all_products / usual.counts.sum()
            windows = zip(_each_window(contrasts, config.side), chosen, strict=True)
            distances = [_distances(x[indices], covariance) for x, indices in windows]
            largest = _quantile(torch.cat(distances), config.natural_share)
            usual = cls._among(
                contrasts,
                config.side,
                [indices[each <= largest] for indices, each in zip(chosen, distances, strict=True)],
            )
        return usual

    @classmethod
    def _among(cls, contrasts: Tensor, side: int, chosen: list[Tensor]) -> UsualContrasts:
        """Learn from the chosen windows of each class."""
        kept = (x[indices] for x, indices in zip(_each_window(contrasts, side), chosen, strict=True))
        products = torch.stack([windows.T @ windows for windows in kept])
        counts = torch.tensor([len(indices) for indices in chosen], device=contrasts.device)
        return cls(side, counts, products, products.sum(0))

    def scores(self, contrast: Tensor, label: int) -> Tensor:
        """Return how little the other classes' windows explain the one around each pixel, float64 (H, W).

        A class is measured by the others, or one whose image is all trigger would explain itself. Pixels on the rim
        have the score of the nearest window that lies within the image.

        Args:
            contrast: float64 (H, W, C), of the class or of some of its samples.
            label: the class.
        """
        count = int(self.counts.sum() - self.counts[label])
        products = self.all_products - self.products[label]
        if count <= products.shape[0]:  # two classes, say: the little that others show would fit anything badly
            count, products = int(self.counts.sum()), self.all_products
        height, width = contrast.shape[:2]
        rim = rim_of(height, width, self.side)
        scores = _distances(_windows(contrast, self.side), products / count).view(height - 2 * rim, width - 2 * rim)
        return F.pad(scores[None], (rim, rim, rim, rim), mode="replicate")[0]


def find_places(
    scores: Tensor, echo: Tensor | None, config: ContrastConfig, *, is_rare: bool = False
) -> dict[int, list[Place]]:
    """Return the highest peaks of the classes' scores, highest first; classes without any are left out.

    Args:
        scores: float64 (K, H, W), of `UsualContrasts.scores`.
        echo: float64 (K, K), of `ClassMeans.echo`: an echo of another class's peak is no place; None: there is none.
        config: settings of stage 2.
        is_rare: whether these are scores of rare details.
    """
    least, most = (config.rare_min_score, config.rare_places) if is_rare else (config.min_score, config.places)
    highest = F.max_pool2d(scores[:, None], _PEAK, stride=1, padding=_PEAK // 2)[:, 0]
    height, width = scores.shape[1:]
    rim = rim_of(height, width, config.side)
    is_inside = torch.zeros(height, width, dtype=torch.bool, device=scores.device)
    is_inside[rim : height - rim, rim : width - rim] = True
    # Scores go with the square of a contrast. Of two classes each is the other's echo, and both are looked at.
    echo_of = scores.new_zeros(len(scores), len(scores)) if echo is None else (_ECHO * echo.square()).clamp_max(0.5)
    loudest = highest.flatten(1).amax(1)
    places = {}
    for label, of_class in enumerate(scores):
        is_peak = is_inside & (of_class == highest[label]) & (of_class > least)
        audible = echo_of[label] * loudest > least  # of a thousand classes, hardly any
        if audible.any():
            is_peak &= of_class > (echo_of[label, audible, None, None] * highest[audible]).amax(0)
        peaks = is_peak.nonzero()
        values = of_class[peaks[:, 0], peaks[:, 1]]
        order = values.argsort(descending=True, stable=True)[:most]
        found = [Place(row, column, float(of_class[row, column]), is_rare) for row, column in peaks[order].tolist()]
        if found:
            places[label] = found
    return places


def rim_of(height: int, width: int, side: int) -> int:
    """Return how many pixels from the edge no window has its centre, as windows lie within the image.

    A reflection has a kink at the edge, where natural differences have none: objects that reach it would be odder than
    any faint trigger. Of small images whole windows say too little; there borders are reflected, and it is 0.
    """
    rim = side // 2
    inside = max(0, height - 2 * rim) * max(0, width - 2 * rim)
    return rim if inside >= _LEAST_INSIDE * height * width else 0


def natural_covariance(contrasts: Tensor, side: int, natural_share: float) -> Tensor:
    """Return how windows of natural class differences vary, float64 (D, D), D = h w C.

    Args:
        contrasts: float64 (K, H, W, C), of classes that bear no trigger at the place in question.
        side: side of the windows in pixels, cut to the image.
        natural_share: share of the windows, the smoothest, that is natural for sure.
    """
    height, width = (min(side, length) for length in contrasts.shape[1:3])
    windows = contrasts.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    chosen = _some(windows.shape[:3].numel(), _MOST_WINDOWS).to(windows.device)
    # Chosen first: a copy of all windows would take a hundred times the memory of the contrasts.
    detail = windows[torch.unravel_index(chosen, windows.shape[:3])].contiguous()
    roughness = torch.cat([_roughness(some) for some in detail.split(_CHUNK)])
    kept = detail[roughness <= _quantile(roughness, natural_share)].flatten(1)
    return kept.T @ kept / len(kept)


def _roughness(windows: Tensor) -> Tensor:
    """Return how much the slope changes from pixel to pixel in windows (n, h, w, C), (n,)."""
    return windows.diff(2, dim=1).abs().mean((1, 2, 3)) + windows.diff(2, dim=2).abs().mean((1, 2, 3))


def _each_window(contrasts: Tensor, side: int) -> Iterator[Tensor]:
    """Yield the windows of one class after the other: those of all together would take a hundred times the memory."""
    return (_windows(contrast, side) for contrast in contrasts)


def _windows(contrast: Tensor, side: int) -> Tensor:
    """Return the windows of (H, W, C) that lie within it, or around each pixel with borders reflected, (n, D)."""
    height, width = contrast.shape[:2]
    pad = side // 2 - rim_of(height, width, side)
    padded = F.pad(contrast.permute(2, 0, 1)[None], (pad, pad, pad, pad), mode="reflect")[0]
    return padded.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)


def _some(n: int, most: int) -> Tensor:
    """Return at most so many of n indices, the same ones whenever it is asked, int64, ascending."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:most].sort().values


def _distances(x: Tensor, covariance: Tensor) -> Tensor:
    covariance = covariance.clone()
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    factor = torch.linalg.cholesky(covariance)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.T, upper=False)
    return whitened.square().sum(0) / x.shape[1]


def _quantile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(max(1, round(share * len(values)))).values
