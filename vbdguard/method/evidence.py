"""Stage 3 of preset `default`, where triggers that some classes show are looked for in all, sample by sample.

A trigger on a tenth of a few hundred samples hardly moves their mean, but moves some of them far: nearly all places of
photographs are calm, and one sample that is not says more than the mean of ten that are. A matched filter, whitened by
how windows vary from sample to sample, turns the surroundings of each pixel into one number; the log-likelihood of all
samples of a class, a share of which may carry the trigger there, is a map of where they do. Each class is compared with
the others at the same place, and with its own surroundings: textures differ from class to class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.samples import PIXEL_NOISE, Samples, at_once, evenly
from vbdguard.method.score_density import score_bins, score_density
from vbdguard.method.side_by_side import side_by_side
from vbdguard.progress import Progress

Floats = NDArray[np.float64]

_SIDE = 9
SHARE_OF_CARRIERS = 0.1
"""Of a class's samples that may carry the trigger. Three times more or fewer make little difference."""
_PER_CLASS = 1000
"""Samples of a class that are asked, at most; where there are more, class means tell enough."""
_WINDOWS, _IMAGES = 16, 1500
"""Windows from so many images each that say how windows vary."""
_CHUNK = 128
_TEXTURE, _NEIGHBOURHOOD = 7, 4
"""Pixels around a place in which a class's texture is the same, and in which the classes differ alike."""
_FEWEST_CLASSES = 3


@dataclass(frozen=True, slots=True)
class _Filter:
    weights: Tensor
    """float32 (C, side, side); scores of windows without the trigger have a robust standard deviation of 1."""
    centre: float
    log_ratios: Floats
    """(bins,): what a score says of its class (nats), if `SHARE_OF_CARRIERS` of its samples carry the trigger."""


def evidence_maps(samples: Samples, shifts: Sequence[Floats]) -> Tensor:
    """Return how clearly each class shows triggers around each pixel, float64 (T, K, H, W).

    Where nothing is wrong the values have a standard deviation of about 1. 0 where fewer than three classes have
    samples.

    Args:
        samples: what to look at; some of each class, if it has many.
        shifts: (h, w, C) each, how far the T triggers move the pixels of their carriers.
    """
    n_classes, (height, width, _) = samples.n_classes, samples.image_shape
    counts = samples.labels.bincount(minlength=n_classes)
    present = (counts > 0).nonzero().squeeze(1)
    maps = torch.zeros(len(shifts), n_classes, height, width, dtype=torch.float64, device=samples.device)
    if len(present) < _FEWEST_CLASSES or not shifts:
        return maps
    filters = _filters(samples, shifts)

    def log_ratios(images: Tensor) -> Tensor:
        scores = zip(_scores(images, filters), filters, strict=True)
        return torch.stack([_log_ratios(of_one, found) for of_one, found in scores], dim=1)

    means = mean_log_ratios(samples, present.tolist(), log_ratios, _PER_CLASS).transpose(0, 1)
    for found, mean in zip(maps, means, strict=True):
        found[present] = standing_out(mean, counts[present].clamp_max(_PER_CLASS))
    return maps


def mean_log_ratios(
    samples: Samples,
    labels: Sequence[int],
    log_ratios: Callable[[Tensor], Tensor],
    most: int,
    progress: Progress | None = None,
) -> Tensor:
    """Return what the samples of each class say of places on average, float64 (L, ...).

    Args:
        samples: what to look at.
        labels: L classes that have samples.
        log_ratios: returns (n, ...), nats, of uint8 (n, H, W, C) images, a few at a time.
        most: samples of a class that are asked.
        progress: gets one step for each class.
    """

    def of_class(label: int) -> Tensor:
        own = evenly(samples.members(label), most)
        chunks = (
            log_ratios(samples.images[chunk]).sum(0, dtype=torch.float64)
            for chunk in own.split(at_once(samples.image_shape[:2]))
        )
        return functools.reduce(torch.add, chunks) / len(own)

    return torch.stack(side_by_side(of_class, labels, device=samples.device, progress=progress))


def over_others(mean: Tensor) -> Tensor:
    """Return by how much each class's log-likelihood per sample exceeds that of the others, (K, H, W) of (K, H, W)."""
    return mean - (mean.sum(0) - mean) / (len(mean) - 1)


def standing_out(mean: Tensor, counts: Tensor) -> Tensor:
    """Return how far each class stands out of the others and of its own surroundings, (K, H, W).

    Args:
        mean: (K, H, W), log-likelihood per sample.
        counts: (K,), samples.
    """
    contrast = _high_pass(over_others(mean)) * counts.double().sqrt().view(-1, 1, 1)
    square = contrast.square()
    # A class is measured by the others, or its own trigger would seem usual there.
    usual = _box((square.sum(0) - square) / (len(mean) - 1), _NEIGHBOURHOOD)
    return contrast / usual.clamp_min(1e-12).sqrt()


def _high_pass(x: Tensor) -> Tensor:
    return x - _box(x, _TEXTURE)


def _box(x: Tensor, reach: int) -> Tensor:
    """Return the mean of (K, H, W) over all pixels up to `reach` away, as far as the image goes."""
    return F.avg_pool2d(x[:, None], 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)[:, 0]


def _filters(samples: Samples, shifts: Sequence[Floats]) -> list[_Filter]:
    height, width, channels = samples.image_shape
    side = min(_SIDE, height, width)
    side -= 1 - side % 2
    images = evenly(samples.images, _IMAGES)
    covariance = _covariance(images, side)
    filters = []
    for shift in shifts:
        placed = _centred(shift, side)
        weights = torch.linalg.solve(covariance, torch.from_numpy(placed).flatten().to(covariance))
        kernel = weights.view(side, side, channels).permute(2, 0, 1).float()
        scores = (
            torch.cat([_correlated(chunk, kernel[None])[:, 0] for chunk in images.split(_CHUNK)]).cpu().double().numpy()
        )
        centre = float(np.median(scores))
        scale = 1.4826 * float(np.median(np.abs(scores - centre))) or float(scores.std()) or 1.0
        move = float(weights @ torch.from_numpy(placed).flatten().to(covariance)) / scale
        usual = (scores.ravel() - centre) / scale
        ratios = score_density(usual + move) / score_density(usual)
        filters.append(_Filter(kernel / scale, centre / scale, np.log1p(SHARE_OF_CARRIERS * (ratios - 1))))
    return filters


def _centred(shift: Floats, side: int) -> Floats:
    """Return (h, w, C) around the middle of a (side, side, C) window, row h // 2 in its middle; cut where larger."""
    placed = np.zeros((side, side, shift.shape[2]))
    inside = shift[: side - 1, : side - 1] if max(shift.shape[:2]) > side else shift
    top, left = (side // 2 - length // 2 for length in inside.shape[:2])
    placed[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return placed


def _covariance(images: Tensor, side: int) -> Tensor:
    """Return how windows of uint8 (n, H, W, C) images vary, wherever they lie, float64 (D, D)."""
    height, width = images.shape[1:3]
    generator = torch.Generator().manual_seed(0)
    windows = []
    for _ in range(_WINDOWS):
        top = int(torch.randint(height - side + 1, (1,), generator=generator))
        left = int(torch.randint(width - side + 1, (1,), generator=generator))
        windows.append(images[:, top : top + side, left : left + side].flatten(1).float())
    seen = torch.cat(windows)
    seen -= seen.mean(0)
    covariance = (seen.T @ seen / len(seen)).double()
    covariance.diagonal().add_(PIXEL_NOISE)
    return covariance


def _scores(images: Tensor, filters: Sequence[_Filter]) -> Tensor:
    """Return each filter's scores around each pixel of uint8 (n, H, W, C) images, float32 (T, n, H, W)."""
    found = _correlated(images, torch.stack([each.weights for each in filters]))
    return found.transpose(0, 1)


def _correlated(images: Tensor, kernels: Tensor) -> Tensor:
    """Return images correlated with kernels (T, C, side, side), borders reflected, float32 (n, T, H, W)."""
    pad = kernels.shape[2] // 2
    return F.conv2d(F.pad(images.permute(0, 3, 1, 2).float(), (pad,) * 4, mode="reflect"), kernels)


def _log_ratios(scores: Tensor, found: _Filter) -> Tensor:
    bins = score_bins(scores.cpu().numpy() - found.centre)
    return torch.from_numpy(found.log_ratios[bins]).to(scores.device)
