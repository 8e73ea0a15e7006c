"""What a mixture of stage 3 says of samples that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.score_density import score_bins
from vbdguard.method.window import Window


@dataclass(frozen=True, slots=True)
class HalfTrace:
    """The filter that judges one half of the class, learned on the other half."""

    weights: NDArray[np.float64]
    """(D,)"""
    centre: float
    log_ratios: NDArray[np.float64]
    """(bins,): log-density of scores with the trigger less that without it."""


@dataclass(frozen=True, slots=True)
class MixtureTrace:
    """Tells the carriers of a mixture's trigger from others.

    Neither half of the class has seen a new sample, so both filters judge it, and the mean of their log-ratios counts.
    """

    window: Window
    mean: Tensor
    """float32 (D,), of other classes' windows."""
    halves: Sequence[HalfTrace]
    share: float
    """Of carriers in the class, in (0, 1)."""

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the posterior log-odds of some of uint8 (N, H, W, C) images of the class, float32 (n,)."""
        windows = self.window.cut(images, indices).flatten(1).float() - self.mean
        ratios = [half.log_ratios[score_bins(_scores(windows, half))] for half in self.halves]
        logits = np.mean(ratios, axis=0) + np.log(self.share / (1 - self.share))
        return torch.from_numpy(logits).float().to(images.device)


def _scores(windows: Tensor, half: HalfTrace) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = (windows @ torch.from_numpy(half.weights).to(windows)).double().cpu().numpy()
    return scores - half.centre
