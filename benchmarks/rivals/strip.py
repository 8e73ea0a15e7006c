"""STRIP (Gao et al., ACSAC 2019): a trigger decides the class even when other images are laid over the sample.

Section 4: each sample is added to N clean images; the mean entropy of the predictions is low for a sample whose
trigger survives that. The boundary is a quantile of the clean images' own entropies, so that a given share of clean
samples is flagged by construction.

Settings: 100 overlays drawn from the clean samples, added with saturation and not averaged, the lowest 10 % quantile.
Departure: the quantile is the empirical one, not that of a fitted normal distribution.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.pixels import BATCH, Pixels
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import clean_samples, verdict
from benchmarks.rivals.victim import Victim
from benchmarks.rivals.victims import Victims


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of STRIP."""

    overlays: int = 100
    false_rejection: float = 0.1
    """Share of the clean samples below the boundary, 0 to 1."""


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the samples whose predictions stay certain under overlays. Needs clean samples."""
    settings = settings or Settings()
    clean_images, _ = clean_samples(data)
    victim = victims.of(data, seed=seed, device=device)
    watch = Stopwatch()
    clean = Pixels.load(clean_images, victim.normalization, device)
    chosen = np.random.default_rng(seed).choice(len(clean), min(settings.overlays, len(clean)), replace=False)
    overlays = clean.subset(chosen).images
    with watch.stage("boundary"):
        boundary = float(np.quantile(mean_entropies(victim, clean, overlays), settings.false_rejection))
    with watch.stage("entropies"):
        entropies = mean_entropies(victim, victim.pixels, overlays)
    used = {**asdict(settings), "used_overlays": len(overlays)}
    return verdict(data, entropies < boundary, watch.seconds, used, victim=victim)


def mean_entropies(victim: Victim, pixels: Pixels, overlays: Tensor) -> NDArray[np.float64]:
    """Return the mean entropy of the predictions for each image under all overlays.

    Args:
        victim: the network.
        pixels: n images.
        overlays: uint8 (M, H, W, 3).

    Returns:
        float64 (n,), in nats, 0 to ln K.
    """
    parts = []
    with torch.no_grad():
        for images in pixels.images.split(BATCH):
            total = torch.zeros(len(images), device=images.device)
            for overlay in overlays:
                total += entropy(victim.network(pixels.normalization.apply(superimposed(images, overlay))))
            parts.append(total / len(overlays))
    return torch.cat(parts).double().cpu().numpy()


def superimposed(images: Tensor, overlay: Tensor) -> Tensor:
    """Return uint8 (n, H, W, 3): each image plus the overlay (H, W, 3), at most 255."""
    return (images.to(torch.int16) + overlay).clamp(max=255).to(torch.uint8)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax of logits (n, K), in nats (n,)."""
    log_shares = logits.log_softmax(1)
    return -(log_shares.exp() * log_shares).sum(1)
