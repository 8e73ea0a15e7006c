"""AGPD, Activation Gradient based Poisoned sample Detection (Yuan et al., ICLR 2025).

Of each sample the method looks at the gradient of its labelled class's logit with respect to the output of a
convolution. In a poisoned class these gradients point in two directions. Three stages: basis directions (the mean
of the class's clean samples, and the training sample least like it); the classes in which samples spread unusually
far between the two; and in those, a growing set of poison that takes in what is relatively close to it and far from
the clean basis, until the distribution of what is left no longer changes.

Settings: the 16 convolutions of the eight blocks, ten clean samples per class, tau 0.05, outliers beyond e^2, else a
gap above 0.3 in one of three late layers, windows of ten rounds, 99 bins.
Departures, where the sources leave room: histograms are those of the normalised rates; fewer than 20 rounds have
windows of half their number; the clean basis is made of all clean samples of a class if none is predicted correctly.
In all-to-all attacks each class is an outlier, so the median moves with them and the fixed gap decides.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.activations import logit_gradients, logits
from benchmarks.rivals.growth import cosines, grow_poison, stable_round
from benchmarks.rivals.outliers import deviations
from benchmarks.rivals.pixels import Pixels
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import clean_samples, members, verdict
from benchmarks.rivals.victim import Victim
from benchmarks.rivals.victims import Victims

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of AGPD."""

    tau: float = 0.05
    """Normalised rate up to which a sample joins the poison."""
    threshold: float = math.e**2
    least_gap: float = 0.3
    late_layers: tuple[int, ...] = (-4, -3, -2)
    """Where the fixed gap is asked for if no class is an outlier."""
    mad_floor: float = 1e-6
    window: int = 10
    spread_weight: float = 5.0
    """How much the standard deviation of a window counts beside its mean."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The classes called poisoned and the layer that shows it."""

    layer: int
    labels: frozenset[int]


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return what the poison has grown to in the classes of outlying gaps. Needs clean samples."""
    settings = settings or Settings()
    clean_images, clean_labels = clean_samples(data)
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    with watch.stage("clean basis"):
        references = clean_references(victim, clean_images, clean_labels, data.n_classes)
    classes = members(data)
    with watch.stage("gaps"):
        # A class at a time: the gradients of all samples at once would be 16 kB of each.
        gaps = np.stack(
            [
                class_gaps(_gradients(victim, indices, label), [reference[label] for reference in references])
                for label, indices in enumerate(classes)
            ],
            axis=1,
        )
        targets = find_targets(gaps, settings)
    is_flagged = np.zeros(len(data.labels), dtype=np.bool_)
    with watch.stage("growth"):
        for label in sorted(targets.labels):
            gradients = _array(_gradients(victim, classes[label], label)[targets.layer])
            is_flagged[classes[label]] = poison_among(gradients, _array(references[targets.layer][label]), settings)
    used = {**asdict(settings), "late_layers": list(settings.late_layers)}
    return verdict(data, is_flagged, watch.seconds, used, victim=victim, accused=targets.labels)


def clean_references(
    victim: Victim, images: NDArray[np.uint8], labels: NDArray[np.int64], n_classes: int
) -> list[Tensor]:
    """Return the mean gradient of each class's correctly predicted clean samples, for each layer float32 (K, C).

    Raises:
        ValueError: if a class has no clean sample.
    """
    pixels = Pixels.load(images, victim.normalization, victim.device)
    is_right = (logits(victim, pixels).argmax(1).cpu().numpy() == labels).astype(np.bool_)
    rows: list[list[Tensor]] = []
    for label in range(n_classes):
        of_class = np.flatnonzero(labels == label)
        if not len(of_class):
            raise ValueError(f"expected clean samples of every class, got none of class {label}; add some")
        right = of_class[is_right[of_class]]
        chosen = right if len(right) else of_class
        gradients = logit_gradients(victim, pixels.subset(chosen), labels[chosen])
        rows.append([gradient.mean(0) for gradient in gradients])
    return [torch.stack(layer) for layer in zip(*rows, strict=True)]


def class_gaps(gradients: list[Tensor], references: list[Tensor]) -> Array:
    """Return for each layer how far a class's samples spread between its two basis directions, float64 (L,).

    Args:
        gradients: per layer (n, C), one class.
        references: per layer (C,), of clean samples.

    Returns:
        Root mean square over the samples of the difference of both cosines; 0 for a class of fewer than two.
    """
    gaps = np.zeros(len(gradients))
    for layer, (gradient, reference) in enumerate(zip(gradients, references, strict=True)):
        if len(gradient) < 2:
            continue
        rows = _array(gradient)
        to_clean = cosines(rows, _array(reference))
        difference = np.delete(to_clean - cosines(rows, rows[to_clean.argmin()]), to_clean.argmin())
        gaps[layer] = np.linalg.norm(difference) / math.sqrt(len(rows))
    return gaps


def find_targets(gaps: Array, settings: Settings) -> Targets:
    """Return the classes called poisoned, and the layer to look at them in.

    Args:
        gaps: float64 (L, K).
        settings: thresholds.
    """
    outlyingness = np.maximum(deviations(gaps, floor=settings.mad_floor), 0)
    layer = int(outlyingness.max(1).argmax())
    if outlyingness[layer].max() >= settings.threshold:
        return Targets(layer, _labels(outlyingness[layer] >= settings.threshold))
    late = [layer % len(gaps) for layer in settings.late_layers]
    best = max(late, key=lambda index: int((gaps[index] > settings.least_gap).sum()))
    return Targets(best, _labels(gaps[best] > settings.least_gap))


def poison_among(gradients: Array, reference: Array, settings: Settings) -> NDArray[np.bool_]:
    """Return bool (n,): what is poison among the samples of a class called poisoned.

    Args:
        gradients: float64 (n, C), in the layer that shows it.
        reference: float64 (C,), of clean samples.
        settings: of growth and stop.
    """
    growth = grow_poison(gradients, reference, tau=settings.tau)
    last = stable_round(growth.distances, window=settings.window, spread_weight=settings.spread_weight)
    return growth.joined < last


def _gradients(victim: Victim, indices: NDArray[np.int64], label: int) -> list[Tensor]:
    return logit_gradients(victim, victim.pixels.subset(indices), np.full(len(indices), label))


def _array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy()


def _labels(is_target: NDArray[np.bool_]) -> frozenset[int]:
    return frozenset(np.flatnonzero(is_target).tolist())
