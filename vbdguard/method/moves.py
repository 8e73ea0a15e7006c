"""Triggers that do not stay in place: where each carrier's copy lies, and the trigger as they show it once aligned.

The mean of copies that lie a pixel or two apart is a blur, and a detector that learned the blur misses those that lie
farthest from its middle. So preset `default` asks each carrier where its copy fits best (a matched filter, whitened by
how windows vary, at every step), moves it back, reads the trigger from what is aligned, and asks again. The shares of
the steps follow from expectation maximisation. Not in the paper, whose triggers stay in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.mixture import View, planted_trigger
from vbdguard.method.planted import PlantedTrigger

Floats = NDArray[np.float64]

_REACH = 2
"""Pixels that a copy may lie off, up, down, left and right."""
_ALIGNMENTS = 5
_SEEDS, _FEWEST_ALIKE = 8, 20
"""Carriers that alignments begin with, and how many others like each, at least."""
_SHARE_STEPS = 30
_AT_REST = 0.8
"""Share of copies in one place from which on a trigger stays where it is."""
_LEAST_GAIN = 30.0
"""Log-likelihood (nats) that steps must explain for each carrier: a faint trigger seems to move as chance has it, and
images are not Gaussian (19 for such a one, hundreds for copies that do move)."""
_SELDOM = 0.01
"""Share of copies below which a step is left out."""
_FEWEST = 30
"""Carriers from which on their steps say something."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A trigger, and where its copies lie."""

    planted: PlantedTrigger
    """At step (0, 0)."""
    steps: tuple[tuple[int, int], ...] = ((0, 0),)
    """Pixels down and right."""
    shares: tuple[float, ...] = (1.0,)
    """Of the copies, for each step; their sum is 1."""

    @property
    def is_moving(self) -> bool:
        """Whether the copies lie in several places."""
        return len(self.steps) > 1

    def shows_the_same_as(self, other: Reading) -> bool:
        """Return whether a detector of the one would learn nothing new from the other."""
        return self.steps == other.steps and self.planted.shows_the_same_as(other.planted)


def read_trigger(view: View, images: Tensor, own: Tensor, usual: Tensor, posterior: Floats) -> Reading:
    """Return the trigger that weighted samples of a class show.

    Args:
        view: what stage 3 sees of the class.
        images: uint8 (N, H, W, C), the same that the view was cut from.
        own: int64 (n,), indices of the class's samples.
        usual: float (H, W, C), mean image of other classes.
        posterior: (n,) in [0, 1], not all 0: does the sample carry it?
    """
    still = planted_trigger(view, posterior)
    carriers = torch.from_numpy(np.flatnonzero(posterior > 0.5)).to(own.device)
    if len(carriers) < _FEWEST:
        return Reading(still)
    around = _surroundings(view, images[own[carriers]], usual, mode="constant")
    evidence = _evidence(view, around, _shift_of(still, view))
    shares = _shares(evidence)
    if shares.max() >= _AT_REST or _gain_of_moving(evidence, shares) < _LEAST_GAIN:
        return Reading(still)
    found = (_align(view, around, start) for start in _starts(view, view.own[carriers]))
    best, shares, _ = max(found, key=lambda one: one[2])
    # Beyond the edge nothing varies, as if a trigger hid it; a reflection does, but would show the trigger twice above.
    aligned = view.own.clone()
    aligned[carriers] = _cut(_surroundings(view, images[own[carriers]], usual, mode="reflect"), view, best)
    planted = planted_trigger(replace(view, own=aligned), posterior)
    kept = np.flatnonzero(shares >= _SELDOM)
    return Reading(planted, tuple(_STEPS[i] for i in kept), tuple(float(x) for x in shares[kept] / shares[kept].sum()))


def _starts(view: View, own: Tensor) -> list[Tensor]:
    """Return what alignments begin with, float64 (D,) each: the blur, and a few carriers' likes.

    From a blur the way may lead to an alignment that mixes steps. Those who show the same as one carrier at the same
    pixels have their copy where it has its own.
    """
    factor = torch.linalg.cholesky(torch.from_numpy(view.covariance)).to(own)
    whitened = torch.linalg.solve_triangular(factor, own.T, upper=False)
    likes = [own.mean(0)]
    for seed in range(0, len(own), -(-len(own) // _SEEDS)):
        alike = (whitened[:, seed] @ whitened).topk(max(_FEWEST_ALIKE, len(own) // len(_STEPS))).indices
        likes.append(own[alike].mean(0))
    return [shown.double().cpu() for shown in likes]


def _align(view: View, around: Tensor, shift: Tensor) -> tuple[NDArray[np.intp], Floats, float]:
    """Return each carrier's step, (n,) indices of `_STEPS`, the share of each step, and the log-likelihood (nats).

    Args:
        view: what stage 3 sees of the class.
        around: the carriers' surroundings.
        shift: float64 (D,), how far the trigger moves the mean, to begin with.
    """
    for _ in range(_ALIGNMENTS):
        evidence = _evidence(view, around, shift)
        shares = _shares(evidence)
        weighted = evidence + np.log(shares)
        best = _centred(weighted.argmax(1))
        shift = _cut(around, view, best).mean(0).double().cpu()
    shares = np.bincount(best, minlength=len(_STEPS)) / len(best)
    return best, shares, float(np.logaddexp.reduce(weighted, axis=1).sum())


def _centred(best: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return steps around their own middle, so that the farthest are within reach, (n,) indices of `_STEPS`."""
    steps = np.array(_STEPS)[best]
    steps = (steps - np.round(steps.mean(0)).astype(np.int64)).clip(-_REACH, _REACH) + _REACH
    indices: NDArray[np.intp] = steps[:, 0] * (2 * _REACH + 1) + steps[:, 1]
    return indices


_STEPS = [(down, right) for down in range(-_REACH, _REACH + 1) for right in range(-_REACH, _REACH + 1)]


def _surroundings(view: View, images: Tensor, usual: Tensor, *, mode: str) -> Tensor:
    """Return how images differ from the usual one in the window and `_REACH` pixels around it; padded as told."""
    window, (height, width) = view.window, images.shape[1:3]
    top, left = max(0, window.top - _REACH), max(0, window.left - _REACH)
    bottom, right = min(height, window.bottom + _REACH), min(width, window.right + _REACH)
    near = images[:, top:bottom, left:right].float() - usual[top:bottom, left:right].float()
    above, below = top - window.top + _REACH, window.bottom + _REACH - bottom
    padding = (left - window.left + _REACH, window.right + _REACH - right, above, below)
    return F.pad(near.permute(0, 3, 1, 2), padding, mode=mode).permute(0, 2, 3, 1)


def _at(around: Tensor, view: View, step: tuple[int, int]) -> Tensor:
    (height, width), (down, right) = view.window.size, step
    return around[:, _REACH + down :, _REACH + right :][:, :height, :width].flatten(1)


def _cut(around: Tensor, view: View, best: NDArray[np.intp]) -> Tensor:
    """Return each carrier's window where its copy lies, (n, D)."""
    windows = torch.empty(len(around), view.own.shape[1], device=around.device)
    for i in np.unique(best):
        chosen = torch.from_numpy(np.flatnonzero(best == i)).to(around.device)
        windows[chosen] = _at(around[chosen], view, _STEPS[i])
    return windows


def _shift_of(planted: PlantedTrigger, view: View) -> Tensor:
    """Return how far a trigger moves the mean, float64 (D,)."""
    pattern = view.window.of_image(planted.trigger.pattern.permute(1, 2, 0)).double().cpu().numpy()
    mask = view.window.of_image(planted.trigger.mask).cpu().numpy()[..., None]
    return torch.from_numpy((planted.blend_factor * (pattern - view.background) * mask).reshape(-1))


def _evidence(view: View, around: Tensor, shift: Tensor) -> Floats:
    """Return the log-likelihood ratio (nats) of a shift (D,) at each step, (n, steps), if all is Gaussian."""
    weights = torch.linalg.solve(torch.from_numpy(view.covariance), shift)
    needed = 0.5 * float(weights @ shift)
    scores = [_at(around, view, step) @ weights.to(around) - needed for step in _STEPS]
    evidence: Floats = torch.stack(scores, dim=1).double().cpu().numpy()
    return evidence


def _gain_of_moving(evidence: Floats, shares: Floats) -> float:
    """Return what several steps explain beyond the commonest one, nats per carrier."""
    moving = np.logaddexp.reduce(evidence + np.log(shares), axis=1)
    return float((moving - evidence[:, shares.argmax()]).mean())


def _shares(evidence: Floats) -> Floats:
    """Return the likeliest share of each step, (steps,)."""
    likelihood = np.exp(evidence - evidence.max(1, keepdims=True))
    shares = np.full(evidence.shape[1], 1 / evidence.shape[1])
    for _ in range(_SHARE_STEPS):
        weighted = likelihood * shares
        shares = (weighted / weighted.sum(1, keepdims=True)).mean(0).clip(1e-6)
        shares /= shares.sum()
    return shares
