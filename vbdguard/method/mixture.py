"""Stage 3 of preset `default`: which samples of a class carry something at a place, and what it is.

The class is taken as a mixture of samples like those of other classes and of samples with a pattern blended in
(Eq. 1). A matched filter, whitened by how windows vary from sample to sample and how class means vary naturally, turns
each window into one number; expectation maximisation alternates between the samples that carry the trigger and
the trigger that they share. Filters are learned on one half of the class and judge the other half, so that no sample
speaks for itself. The closed form of the blend: pixels keep (1 - a) of their spread and their mean moves by
a (pattern - mean).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import MixtureConfig
from vbdguard.method.evidence import SHARE_OF_CARRIERS
from vbdguard.method.mixture_trace import HalfTrace, MixtureTrace
from vbdguard.method.planted import PlantedTrigger, lowest_blend_factor
from vbdguard.method.rare_detail import RareDetail
from vbdguard.method.samples import PIXEL_NOISE
from vbdguard.method.score_density import score_bins, score_density, score_scale
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

Floats = NDArray[np.float64]

_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_SMALLEST_SHIFT = 0.7
_WIDEST_SHARE, _NARROWEST_SHARE = 0.97, 1e-4
_SHARE_STEPS = 30
_OPAQUE, _PARTLY = 0.3, 0.6
"""Remaining variance below which a pattern hides what lies beneath, or clearly thins it."""
_FEWEST_OUTSIDE = 0.25
"""Share of a window outside the trigger that tells how much its carriers vary there, at least."""
_SMOOTH_ROUNDS = 8
_FAINTEST = 0.02
_CLEARLY_WORSE = 0.7
_CLEAR_PART = 0.25
"""Part of the strongest pixel's shift from which on a pixel belongs to a trigger that is known."""
_FEWEST_FOR_FILTER, _FEWEST_FOR_REST = 10.0, 50.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the mixture says about one class at one place."""

    planted: PlantedTrigger
    posterior: Floats
    """(n,) in [0, 1]: does this sample of the class carry the trigger?"""
    share: float
    """Of the class's samples, in (0, 1)."""
    gain: float
    """Log-likelihood (nats) of the class under the mixture above that without a trigger."""
    window: Window
    trace: MixtureTrace
    """Judges samples of the class that are not among the n."""


def fit_mixture(
    view: View, config: MixtureConfig, expected: Floats | None = None, *, rare: RareDetail | None = None
) -> Mixture | None:
    """Return the likeliest mixture, if any.

    Args:
        view: what to explain.
        config: settings of stage 3.
        expected: (h, w, C), the shift of the mean to begin with; None begins with what the class itself shows, once
            with the whole contrast and once with its sharp part.
        rare: begins with the samples of the class that share rare details in place of either.
    """
    if rare is not None:
        starts = [_rare_starts(view, rare)]
    elif expected is None:
        starts = [_own_starts(view, is_sharp=is_sharp) for is_sharp in (False, True)]
    else:
        starts = [[_Start(expected.reshape(-1), _contrast(view, learned)) for learned in view.folds]]
    fits = [fit for start in starts if (fit := _fit(view, config, start)) is not None]
    return max(fits, key=lambda fit: fit.gain, default=None)


def known_mixture(view: View, shift: Floats) -> Mixture:
    """Return the likeliest share of a class that carries a known trigger, and which samples do.

    Args:
        view: what to explain.
        shift: (h, w, C), how far the trigger moves the mean of its carriers; 0 outside it.
    """
    # What is left of an average beside the trigger must not be stamped with it: detectors would learn to look for it.
    strength = np.linalg.norm(shift, axis=2)
    mask = strength > _CLEAR_PART * strength.max()
    shift = shift * mask[..., None]
    blend_factor = float(np.clip(lowest_blend_factor(shift[mask], view.background[mask]), _FAINTEST, 1))
    shape = _Shape(mask, shift, blend_factor, is_opaque=False)
    found = _filter(view, shift.reshape(-1), 1.0)
    halves = [_half(view, found, judged, _stamped(view, found, shape)) for judged in view.folds]
    fit = _Fit(shape, *_posterior(halves, SHARE_OF_CARRIERS, len(view.own)), halves)
    return Mixture(_in_image(shape, view), fit.posterior, fit.share, fit.gain, view.window, _trace(fit, view))


def planted_trigger(view: View, posterior: Floats) -> PlantedTrigger:
    """Return the trigger that weighted samples of the class show; weights (n,) in [0, 1], not all 0."""
    return _in_image(_maximised(view, posterior, float(posterior.mean())).shape, view)


@dataclass(frozen=True, slots=True)
class View:
    """What stage 3 sees: windows of a class and of other classes, centred on the mean of the latter; how they vary."""

    own: Tensor
    """float32 (n, D)."""
    others: Tensor
    """float32 (m, D)."""
    mean: Tensor
    """float32 (D,): what they are centred on, 0 to 255."""
    background: Floats
    """(h, w, C): the same."""
    covariance: Floats
    """(D, D), from sample to sample."""
    natural: Floats
    """(D, D), from class mean to class mean."""
    folds: tuple[Tensor, Tensor]
    """float32 (n,), 0 or 1: two halves of the class."""
    image_size: tuple[int, int]
    window: Window

    @classmethod
    def of(cls, images: Tensor, own: Tensor, others: Tensor, usual: Tensor, natural: Tensor, window: Window) -> View:
        """Cut windows out and centre them.

        Args:
            images: uint8 (N, H, W, C).
            own: int64 (n,), indices of the class's samples.
            others: int64 (m,), indices of samples of other classes.
            usual: float (H, W, C), mean image of all samples of other classes.
            natural: float64 (D, D), from `natural_covariance`, for the size of the window.
            window: where to look.
        """
        base = window.cut(images, others).flatten(1).float()
        mean = window.of_image(usual).flatten().float()
        base -= mean
        covariance = _numbers(base.T @ base / len(base))
        covariance[np.diag_indices_from(covariance)] += PIXEL_NOISE
        first = (torch.arange(len(own), device=own.device) % 2).float()
        return cls(
            own=window.cut(images, own).flatten(1).float() - mean,
            others=base,
            mean=mean,
            background=_numbers(mean).reshape(*window.size, images.shape[3]),
            covariance=covariance,
            natural=natural.cpu().numpy(),
            folds=(first, 1 - first),
            image_size=(images.shape[1], images.shape[2]),
            window=window,
        )

    def rare_detail(self, windows: Tensor, rare: RareDetail) -> Tensor:
        """Return the rare details of windows (n, D) that are centred as they are here, float32 (n, D)."""
        pixels = (windows + self.mean).round().to(torch.uint8).view(len(windows), *self.background.shape)
        return rare.of(pixels).float().flatten(1)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What weighted samples show in a window."""

    shown: Floats
    """(h, w, C): their mean minus that of other classes."""
    contrast: Floats
    """(h, w, C): their mean minus that of the rest of the class (or of other classes, where no rest is left)."""
    remaining: Floats
    """(h, w): their variance as a share of other classes' variance."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A trigger in a window: where, how much, how opaque."""

    mask: NDArray[np.bool_]
    """(h, w)."""
    shift: Floats
    """(h, w, C), 0 outside the mask: how far the mean moves."""
    blend_factor: float
    is_opaque: bool
    """Whether it hides what lies beneath."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """One step of expectation maximisation."""

    shape: _Shape
    posterior: Floats
    """(n,)."""
    share: float
    gain: float
    """Nats."""
    halves: list[_Half]


@dataclass(frozen=True, slots=True)
class _Filter:
    """A matched filter for a shift of the mean."""

    weights: Floats
    """(D,), scaled so that other classes' windows score with a robust standard deviation of 1."""
    centre: float
    """Their median."""
    usual: Floats
    """(m,): their scores."""


@dataclass(frozen=True, slots=True)
class _Start:
    """What one half of the class is first looked through for."""

    direction: Floats
    """(D,): shift of the mean, in any unit."""
    contrast: Floats
    """(D,): how far the mean of that half moved, grey levels."""


@dataclass(frozen=True, slots=True)
class _Half:
    """One half of the class, judged by the filter of the other half."""

    found: _Filter
    members: NDArray[np.intp]
    """(n / 2,) indices into the class."""
    bins: NDArray[np.intp]
    """(n / 2,) bins that their scores fall into."""
    usual: Floats
    """(bins,): density of scores without the trigger."""
    stamped: Floats
    """(bins,): density of scores with it."""


def _fit(view: View, config: MixtureConfig, start: list[_Start]) -> Mixture | None:
    halves = _start(view, start)
    if halves is None:
        return None
    posterior, share, _ = _posterior(halves[0], halves[1], len(view.own))
    best: _Fit | None = None
    for round_number in range(config.rounds):
        if posterior.sum() < config.min_carriers:
            break
        fit = _maximised(view, posterior, share)
        posterior, share = fit.posterior, fit.share
        if best is None or fit.gain > best.gain:
            best = fit
        elif round_number >= 2 and fit.gain < _CLEARLY_WORSE * best.gain:
            break
    if best is None:
        return None
    planted = _in_image(best.shape, view)
    return Mixture(planted, best.posterior, best.share, best.gain, view.window, _trace(best, view))


def _trace(fit: _Fit, view: View) -> MixtureTrace:
    halves = [
        HalfTrace(half.found.weights, half.found.centre, np.log(half.stamped / half.usual)) for half in fit.halves
    ]
    return MixtureTrace(view.window, view.mean, halves, fit.share)


def _maximised(view: View, posterior: Floats, share: float) -> _Fit:
    """Return what carriers show.

    Whether the trigger hides what lies beneath is told by the variance that it leaves. A few carriers tell that
    roughly, so it is taken back where the samples are much likelier without.
    """
    weights = torch.from_numpy(posterior).to(view.own)
    seen = _look(view, weights)

    def fit(*, may_hide: bool) -> _Fit:
        shape = _shape_of(seen, view.background, may_hide=may_hide)
        halves = _stamped_halves(view, weights, shape)
        return _Fit(shape, *_posterior(halves, share, len(posterior)), halves)

    first = fit(may_hide=True)
    if not first.shape.is_opaque:
        return first
    other = fit(may_hide=False)
    return other if first.gain < _CLEARLY_WORSE * other.gain else first


def _start(view: View, starts: list[_Start]) -> tuple[list[_Half], float] | None:
    """Return the halves under the likeliest of a few shares; the class's contrast is then share times shift."""
    moves, usual, unstamped = [], [], []
    for start, learned, judged in zip(starts, view.folds, view.folds[::-1], strict=True):
        found = _filter(view, start.direction, float(learned.sum()))
        moves.append(float(found.weights @ start.contrast))
        usual.append(found.usual)
        unstamped.append(_half(view, found, judged, found.usual))
    best: tuple[float, float, list[_Half]] | None = None
    for share in _SHARES:
        if min(moves) / share < _SMALLEST_SHIFT:
            continue
        halves = [
            replace(half, stamped=score_density(scores + move / share))
            for half, scores, move in zip(unstamped, usual, moves, strict=True)
        ]
        likelihood = sum(float(_log_ratios(half, share).sum()) for half in halves)
        if best is None or likelihood > best[0]:
            best = (likelihood, share, halves)
    return None if best is None else (best[2], best[1])


def _stamped_halves(view: View, weights: Tensor, shape: _Shape) -> list[_Half]:
    """Return the halves, each judged by what the carriers of the other one show inside the trigger's mask."""
    halves = []
    for learned, judged in (view.folds, view.folds[::-1]):
        carriers = float((weights * learned).sum())
        shift = (
            shape.shift
            if carriers < 2
            else _shift(_look(view, weights, learned), shape.mask, is_opaque=shape.is_opaque)
        )
        found = _filter(view, shift.reshape(-1), max(carriers, _FEWEST_FOR_FILTER))
        halves.append(_half(view, found, judged, _stamped(view, found, replace(shape, shift=shift))))
    return halves


def _stamped(view: View, found: _Filter, shape: _Shape) -> Floats:
    """Return the scores of other classes' samples if they carried the trigger, (m,)."""
    is_inside = np.repeat(shape.mask.reshape(-1), view.background.shape[2])
    hidden = _numbers(view.others @ torch.from_numpy(np.where(is_inside, found.weights, 0)).to(view.others))
    stamped: Floats = found.usual + float(found.weights @ shape.shift.reshape(-1)) - shape.blend_factor * hidden
    return stamped


def _filter(view: View, shift: Floats, carriers: float) -> _Filter:
    # torch's solver keeps to the threads that it is given; numpy's takes all cores, wherever it is called.
    variation = torch.from_numpy(view.covariance / carriers + view.natural)
    weights = _numbers(torch.linalg.solve(variation, torch.from_numpy(shift)))
    scores = _numbers(view.others @ torch.from_numpy(weights).to(view.others))
    centre = float(np.median(scores))
    scale = score_scale(scores, centre, float(np.linalg.norm(weights)))
    usual: Floats = (scores - centre) / scale
    return _Filter(weights / scale, centre / scale, usual)


def _half(view: View, found: _Filter, judged: Tensor, stamped: Floats) -> _Half:
    members = judged.nonzero().squeeze(1)
    scores = _numbers(view.own[members] @ torch.from_numpy(found.weights).to(view.own)) - found.centre
    return _Half(found, members.cpu().numpy(), score_bins(scores), score_density(found.usual), score_density(stamped))


def _posterior(halves: list[_Half], share: float, n: int) -> tuple[Floats, float, float]:
    """Return each sample's posterior, the share of carriers and the gain in log-likelihood (nats)."""
    ratios = np.empty(n)
    for half in halves:
        ratios[half.members] = half.stamped[half.bins] / half.usual[half.bins]
    for _ in range(_SHARE_STEPS):
        posterior = share * ratios / (share * ratios + 1 - share)
        share = float(np.clip(posterior.mean(), _NARROWEST_SHARE, _WIDEST_SHARE))
    return posterior, share, float(np.log1p(share * (ratios - 1)).sum())


def _log_ratios(half: _Half, share: float) -> Floats:
    ratios: Floats = np.log1p(share * (half.stamped[half.bins] / half.usual[half.bins] - 1))
    return ratios


def _own_starts(view: View, *, is_sharp: bool) -> list[_Start]:
    """Return what each half of the class shows; sharp: without smooth parts."""
    starts = []
    for learned in view.folds:
        contrast = _contrast(view, learned)
        if is_sharp:
            residual, mask = _sharp_part(contrast.reshape(view.background.shape))
            contrast = np.where(mask[..., None], residual, 0).reshape(-1)
        starts.append(_Start(contrast, contrast))
    return starts


def _rare_starts(view: View, rare: RareDetail) -> list[_Start]:
    """Return what those samples of each half of the class show whose rare details agree with the mean of them."""
    own, others = (view.rare_detail(windows, rare) for windows in (view.own, view.others))
    usual = others.mean(0)
    starts = []
    for learned in view.folds:
        agreement = (own @ (learned @ own / learned.sum() - usual)).clamp_min(0) * learned
        shown = _numbers(agreement @ view.own / agreement.sum().clamp_min(1e-9))
        starts.append(_Start(shown, _contrast(view, learned)))
    return starts


def _contrast(view: View, fold: Tensor) -> Floats:
    """Return how the mean of one half of the class differs from other classes', (D,)."""
    return _numbers(fold @ view.own / fold.sum())


def _look(view: View, weights: Tensor, among: Tensor | None = None) -> _Seen:
    """Return what weighted samples of the class, or of one half of it, show."""
    among = torch.ones_like(weights) if among is None else among
    carried, rest = weights * among, (1 - weights) * among
    shown = carried @ view.own / carried.sum()
    variance = view.covariance.diagonal()
    spread = _numbers(carried @ (view.own - shown).square() / carried.sum()) / variance
    spread = np.where(variance < 2 * PIXEL_NOISE, 1.0, spread)  # a constant background cannot vary less than it does
    shown_image = _numbers(shown).reshape(view.background.shape)
    contrast = shown_image
    if float(rest.sum()) > _FEWEST_FOR_REST:
        beside_rest = _numbers(shown - rest @ view.own / rest.sum()).reshape(shown_image.shape)
        contrast = min(shown_image, beside_rest, key=_unrest)
    return _Seen(
        shown=shown_image,
        contrast=contrast,
        remaining=spread.reshape(shown_image.shape).mean(2),
    )


def _unrest(contrast: Floats) -> float:
    """Return how much a contrast (h, w, C) varies where there is no trigger, grey levels."""
    return float(np.median(np.sqrt((_sharp_part(contrast)[0] ** 2).sum(2))))


def _shape_of(seen: _Seen, background: Floats, *, may_hide: bool) -> _Shape:
    """Return where the trigger lies, how far it moves the mean, and its blend factor in closed form."""
    _, mask = _sharp_part(seen.contrast)
    lowest = float(seen.remaining.min())
    is_opaque = may_hide and lowest < _OPAQUE
    if may_hide and lowest < _PARTLY:
        thinned = seen.remaining <= (lowest + float(np.median(seen.remaining))) / 2
        mask = thinned if is_opaque else mask | thinned
    shift = _shift(seen, mask, is_opaque=is_opaque)
    needed = lowest_blend_factor(shift[mask], background[mask])
    blend_factor = float(np.clip(max(needed, _thinning(seen.remaining, mask)), _FAINTEST, 1))
    return _Shape(mask, shift, blend_factor, is_opaque)


def _thinning(remaining: Floats, mask: NDArray[np.bool_]) -> float:
    """Return the part of their spread that carriers lose inside a mask (h, w), below 1.

    Those that are told most easily vary less everywhere, and so may images of the class that they come from; what the
    trigger takes from them is told from what they keep around it.
    """
    outside = remaining[~mask]
    kept = min(float(np.median(outside)), 1.0) if outside.size >= _FEWEST_OUTSIDE * mask.size else 1.0
    return 1 - float(np.sqrt(max(float(np.median(remaining[mask])), 0.0) / max(kept, 1e-9)))


def _shift(seen: _Seen, mask: NDArray[np.bool_], *, is_opaque: bool) -> Floats:
    """Return how far the trigger moves the mean of the images that it is pasted on, (h, w, C).

    Those come from all classes. An opaque pattern shows itself; what a faint one adds is told from the smooth
    differences between classes by its sharpness.
    """
    moved = seen.shown if is_opaque else _sharp_part(seen.contrast)[0]
    return np.where(mask[..., None], moved, 0)


def _sharp_part(contrast: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what a robust quadratic surface per channel leaves of (h, w, C), and where that is much, (h, w)."""
    height, width, channels = contrast.shape
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None] - 0.5
    basis = np.stack([np.ones_like(y), y, x, x * y, y * y, x * x], axis=-1).reshape(-1, 6)
    flat = contrast.reshape(-1, channels)
    weights = np.ones(len(flat))
    for _ in range(_SMOOTH_ROUNDS):
        weighted = basis * weights[:, None]
        surface = basis @ np.linalg.solve(weighted.T @ basis + 1e-6 * np.eye(6), weighted.T @ flat)
        strength = np.sqrt(((flat - surface) ** 2).sum(1))
        weights = (1 + (strength / (np.median(strength) + 1e-9)) ** 2) ** -2.0
    strength = strength.reshape(height, width)
    mask = strength > max(3 * float(np.median(strength)), 0.25 * float(strength.max()))
    if not mask.any():
        mask = strength >= 0.6 * strength.max()
    return (flat - surface).reshape(contrast.shape), mask


def _in_image(shape: _Shape, view: View) -> PlantedTrigger:
    """Return the trigger in full-image coordinates, un-blended."""
    window, background, device = view.window, view.background, view.own.device
    mask = torch.zeros(view.image_size, dtype=torch.bool)
    pattern = torch.zeros(background.shape[2], *view.image_size)
    place = np.s_[window.top : window.bottom, window.left : window.right]
    mask[place] = torch.from_numpy(shape.mask)
    unblended = (background + shape.shift / shape.blend_factor).clip(0, 255) * shape.mask[..., None]
    pattern[:, place[0], place[1]] = torch.from_numpy(unblended).permute(2, 0, 1).float()
    return PlantedTrigger(TriggerCandidate(mask.to(device), pattern.to(device)), shape.blend_factor)


def _numbers(x: Tensor) -> Floats:
    numbers: Floats = x.double().cpu().numpy()
    return numbers
