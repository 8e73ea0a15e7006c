"""Anti-Backdoor Learning (Li et al., NeurIPS 2021), its isolation stage: poison is what a network learns first.

Section 3.2: a fresh network trains for a few epochs while the loss of clean samples is kept from falling; then the
samples of the lowest loss are called poisoned. Unlearning, the paper's second stage, cleans a model and flags nothing.

Settings: PreAct-ResNet18, 20 epochs (40 on larger images), SGD with Nesterov momentum, no augmentation, flooding at
0.5 on the mean of a batch, the lowest share flagged. Departures from the paper: flooding |L - b| + b in place of
sign(L - b) L, and the true share of poison in place of 1 %, both as in the comparison that is to be met.
The method flags exactly the share that it is told: told more than 0 on clean data, it raises an alarm by construction,
and told 0 it cannot, so a clean row says something only of a share that a user without the truth would give.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.methods import Task, Verdict
from benchmarks.rivals.fitting import fit, new_network
from benchmarks.rivals.pixels import Pixels, measured_normalization
from benchmarks.rivals.stopwatch import Stopwatch
from benchmarks.rivals.verdicts import told_ratio, verdict
from benchmarks.rivals.victims import Victims


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The knobs of ABL."""

    flood_level: float = 0.5


def detect(
    data: Task, victims: Victims, *, seed: int, device: torch.device, settings: Settings | None = None
) -> Verdict:
    """Return the samples that a short, flooded training has learnt best. Needs the ratio, and no victim."""
    settings = settings or Settings()
    ratio = told_ratio(data)
    fitting = victims.settings.abl(data.images.shape[1])
    watch = Stopwatch()
    with watch.stage("training"):
        pixels = Pixels.load(data.images, measured_normalization(data.images), device)
        labels = torch.from_numpy(data.labels).to(device)
        network = new_network(data.n_classes, pixels.image_shape, width=victims.settings.width, seed=seed).to(device)
        fit(
            network,
            pixels,
            labels,
            fitting,
            seed=seed,
            loss=lambda logits, targets: flooded(F.cross_entropy(logits, targets), settings.flood_level),
        )
    with watch.stage("isolation"), torch.no_grad():
        logits = torch.cat([network(images) for images in pixels.batches()])
        losses = F.cross_entropy(logits, labels, reduction="none").cpu().numpy()
    used = {**asdict(settings), "ratio": ratio, "width": victims.settings.width, "training": asdict(fitting)}
    return verdict(data, lowest(losses, ratio), watch.seconds, used)


def flooded(loss: Tensor, level: float) -> Tensor:
    """Return |loss - level| + level: descended above the level, climbed below it."""
    return (loss - level).abs() + level


def lowest(losses: NDArray[np.floating], ratio: float) -> NDArray[np.bool_]:
    """Return bool (N,), true for the `ratio` of the samples with the lowest losses; ties go to the earlier one."""
    chosen = np.argsort(losses, kind="stable")[: round(ratio * len(losses))]
    is_flagged = np.zeros(len(losses), dtype=np.bool_)
    is_flagged[chosen] = True
    return is_flagged
