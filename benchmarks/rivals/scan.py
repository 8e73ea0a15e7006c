"""SCAn, Statistical Contamination Analyzer (Tang et al., USENIX Security 2021): is a class one group or two?

Sections 4.2 and 4.3: a representation is its class's mean plus a variation that all classes share. Clean samples give
both covariances by expectation maximisation ("global model"); with them each class is split in two ("local model"),
and a likelihood ratio says how much better two groups explain it than one. Classes whose ratio is an outlier among
all classes by more than e^2 median absolute deviations are poisoned; there the group with fewer clean samples is.

Settings: ten clean samples per class, the last block's output summed over height and width, at most 100 rounds until
no entry changes by more than 1e-5 of the largest. Departures: every clean sample is used once, in place of a draw with
replacement, and a pseudo-inverse drops eigenvalues below 1e-6 of the largest: a hundred clean samples do not span 512
dimensions. The median needs a majority of clean classes, so all-to-all attacks escape by construction.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.activations import summed_features
from benchmarks.rivals.outliers import deviations
from benchmarks.rivals.pixels import Pixels
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import clean_samples, members, verdict
from benchmarks.rivals.victims import Victims

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of SCAn."""

    tolerance: float = 1e-5
    rounds: int = 100
    least_eigenvalue: float = 1e-6
    """Share of the largest eigenvalue below which a direction counts as not observed."""
    threshold: float = math.e**2


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """The global model: representation = centre + mean of its class + variation."""

    centre: Array
    """float64 (D,)."""
    class_means: Array
    """float64 (K, D) around the centre; 0 for a class without samples."""
    between: Array
    """float64 (D, D), covariance of the class means, each counted once per sample."""
    within: Array
    """float64 (D, D), covariance of the variation."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The local model of one class."""

    ratio: float
    """Log-likelihood of two groups over that of one, doubled, per sample."""
    is_second: NDArray[np.bool_]
    """bool (n,), which of the two groups a sample belongs to."""


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the second groups of the classes that fall in two unlike any other. Needs clean samples."""
    settings = settings or Settings()
    clean_images, clean_labels = clean_samples(data)
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    with watch.stage("features"):
        features = summed_features(victim, victim.pixels).astype(np.float64)
        clean_pixels = Pixels.load(clean_images, victim.normalization, device)
        clean = summed_features(victim, clean_pixels).astype(np.float64)
    with watch.stage("global model"):
        model = decompose(clean, clean_labels, data.n_classes, settings)
    is_flagged = np.zeros(len(data.labels), dtype=np.bool_)
    with watch.stage("local models"):
        metric = whitening(model.within, settings.least_eigenvalue)
        groups = [
            np.concatenate([features[indices], clean[clean_labels == label]])
            for label, indices in enumerate(members(data))
        ]
        generator = np.random.default_rng(seed)
        splits = [
            untangle(group - model.centre, mean, metric, generator, rounds=settings.rounds)
            for group, mean in zip(groups, model.class_means, strict=True)
        ]
        accused = outlying_classes(np.array([split.ratio for split in splits]), settings.threshold)
        for label in accused:
            indices = np.flatnonzero(data.labels == label)
            is_flagged[indices] = _with_fewer_clean(splits[label].is_second, len(indices))
    return verdict(data, is_flagged, watch.seconds, asdict(settings), victim=victim, accused=accused)


def decompose(features: Array, labels: NDArray[np.int64], n_classes: int, settings: Settings) -> Decomposition:
    """Return the global model of clean samples by expectation maximisation (section 4.2).

    Args:
        features: float64 (M, D).
        labels: int64 (M,).
        n_classes: K.
        settings: when it stops, and what counts as observed.
    """
    centre = features.mean(0)
    x = features - centre
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.zeros((n_classes, x.shape[1]))
    np.add.at(sums, labels, x)
    means = sums / np.maximum(counts, 1)[:, None]
    between, within = _covariances(x, labels, means)
    for _ in range(settings.rounds):
        # The posterior mean of a class: S_mu (n S_mu + S_e)^-1 sum(x), which equals the paper's sum of -S_e G x.
        for count in np.unique(counts[counts > 0]):
            shrink = between @ _inverse(count * between + within, settings.least_eigenvalue)
            means[counts == count] = sums[counts == count] @ shrink.T
        before = between, within
        between, within = _covariances(x, labels, means)
        if _has_settled(before, (between, within), settings.tolerance):
            break
    return Decomposition(centre, means, between, within)


def whitening(covariance: Array, least_eigenvalue: float) -> Array:
    """Return W, float64 (D, r), with W W^T the pseudo-inverse of a covariance (D, D) of rank r."""
    values, vectors = np.linalg.eigh(covariance)
    is_observed = values > max(least_eigenvalue * values[-1], np.finfo(np.float64).tiny)
    whitened: Array = vectors[:, is_observed] / np.sqrt(values[is_observed])
    return whitened


def untangle(x: Array, mean: Array, metric: Array, generator: np.random.Generator, *, rounds: int) -> Split:
    """Return the best split of one class in two, from a random one, and its likelihood ratio (section 4.3).

    Args:
        x: float64 (n, D), around the centre of the global model.
        mean: float64 (D,), the class's mean there: where a single group would lie.
        metric: float64 (D, r), in which variation is a unit normal.
        generator: draws the first split.
        rounds: at most so many reassignments.
    """
    y, one = x @ metric, mean @ metric
    is_second = generator.random(len(y)) < 0.5
    for _ in range(rounds):
        if is_second.all() or not is_second.any():
            break
        first, second = y[~is_second].mean(0), y[is_second].mean(0)
        # |y - second|^2 < |y - first|^2, with |y|^2 taken off both sides.
        nearer = y @ (second - first) > (second @ second - first @ first) / 2
        if (nearer == is_second).all():
            break
        is_second = nearer
    spread = sum(float(np.square(group - group.mean(0)).sum()) for group in (y[is_second], y[~is_second]) if len(group))
    ratio = (float(np.square(y - one).sum()) - spread) / max(1, len(y))
    return Split(ratio, is_second)


def outlying_classes(ratios: Array, threshold: float) -> frozenset[int]:
    """Return the classes whose likelihood ratio (K,) is far from the median of all, in either direction."""
    largest = float(np.abs(ratios).max(initial=0.0))
    if largest == 0:
        return frozenset()
    return frozenset(np.flatnonzero(np.abs(deviations(ratios / largest)) > threshold).tolist())


def _with_fewer_clean(is_second: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Return bool (count,): the group of the training samples that holds fewer of the clean ones behind them.

    Where both hold as many, it is the smaller one.
    """
    second, clean = is_second[:count], is_second[count:]
    is_poison_second = (clean.sum(), second.sum()) < ((~clean).sum(), (~second).sum())
    return second if is_poison_second else ~second


def _covariances(x: Array, labels: NDArray[np.int64], means: Array) -> tuple[Array, Array]:
    expected = means[labels]
    variation = x - expected
    return expected.T @ expected / len(x), variation.T @ variation / len(x)


def _inverse(covariance: Array, least_eigenvalue: float) -> Array:
    whitened = whitening(covariance, least_eigenvalue)
    return whitened @ whitened.T


def _has_settled(before: tuple[Array, Array], after: tuple[Array, Array], tolerance: float) -> bool:
    return all(np.abs(new - old).max() <= tolerance * np.abs(new).max() for old, new in zip(before, after, strict=True))
