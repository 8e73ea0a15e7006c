"""Stages 2 and 3 of preset `default` for what all classes carry at the same place.

The all-to-all attack of BadNets (Gu, Dolan-Gavitt and Garg, 2017) pastes one patch at one place on images of all
classes. No class then looks unlike the others. But photographs are about as likely as their mirror images, left to
right if not upside down, and a patch is not: the mean of all samples is compared with its mirror image, and samples
with mirrored ones, as elsewhere a class is compared with the others. Where the mean is unlike its mirror image in
general (digits, say), nothing can be told. A patch that lies on the axis and is its own mirror image stays hidden.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import Place, UsualContrasts, find_places, natural_covariance
from vbdguard.method.level import Level
from vbdguard.method.mixture import Mixture, View, fit_mixture
from vbdguard.method.samples import evenly
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect
from vbdguard.method.window import window_at
from vbdguard.method.window_detector import share_of_poison

_AXES = 1, 0
"""Of images (H, W, C): left to right, and upside down."""
_MOST_UNLIKE = 0.25
"""Root mean square of the mean image less its mirror image, in standard deviations of pixels, up to which photographs
count as symmetric: left to right they have 0.02, upside down 0.15 to 0.22, digits 0.3."""
_ASKED = 5000
"""Samples that the mixture is fitted on, and as many mirrored ones."""
_FEWEST_CLASSES = 3
"""Classes that must carry it: one or two alone are found by comparing classes."""
_MOST_CARRIERS = 0.5
"""Share of all samples up to which something is a trigger; what more have in common is how these images are."""


def find_in_all_classes(level: Level, config: DirectMethodConfig) -> dict[int, list[Suspect]]:
    """Return what many classes carry at the same place, by class.

    Args:
        level: images as they are.
        config: all settings.
    """
    samples = level.samples
    counts = level.means.counts.double()
    mean = torch.tensordot(counts / counts.sum(), level.means.means, 1)
    some = samples.images[evenly(torch.arange(len(samples), device=samples.device), _ASKED)]
    spread = some.float().std(0).mean()
    places = [
        (axis, place.row, place.column)
        for axis in _AXES
        if float((mean - mean.flip(axis)).square().mean().sqrt()) <= _MOST_UNLIKE * float(spread)
        for place in _odd_places(mean - mean.flip(axis), config)
    ]

    def at(place: tuple[int, int, int]) -> list[Suspect]:
        mixture = _mixture_at(*place, some, mean, level, config)
        if mixture is None or mixture.gain < level.least_gain(len(some), 0.0, config) or mixture.share > _MOST_CARRIERS:
            return []
        of_classes = [_in_class(label, mixture, level, config) for label in range(samples.n_classes)]
        return [suspect for suspect in of_classes if suspect is not None]

    by_class: dict[int, list[Suspect]] = {}
    for found in side_by_side(at, places, device=samples.device):
        if len(found) >= _FEWEST_CLASSES:
            for suspect in found:
                by_class.setdefault(suspect.label, []).append(suspect)
    return by_class


def _odd_places(contrast: Tensor, config: DirectMethodConfig) -> list[Place]:
    """Return where (H, W, C), the mean less its mirror image, is odd."""
    usual = UsualContrasts.of(contrast[None], config.contrast)
    return find_places(usual.scores(contrast, 0)[None], None, config.contrast).get(0, [])


def _mixture_at(
    axis: int, row: int, column: int, images: Tensor, mean: Tensor, level: Level, config: DirectMethodConfig
) -> Mixture | None:
    """Return what some of uint8 (n, H, W, C) images carry at a place, and their mirror images do not."""
    n = len(images)
    both = torch.cat([images, images.flip(axis + 1)])
    mirrored = mean.flip(axis)
    natural = natural_covariance((mean - mirrored)[None], level.side, level.natural_share)
    window = window_at(row, column, level.side, level.image_size)
    everyone = torch.arange(2 * n, device=images.device)
    view = View.of(both, everyone[:n], everyone[n:], mirrored, natural, window)
    return fit_mixture(view, config.mixture)


def _in_class(label: int, mixture: Mixture, level: Level, config: DirectMethodConfig) -> Suspect | None:
    """Return the samples of a class that carry it, if they are worth a suspicion: each class has a share of its own."""
    members = level.samples.members(label)
    if len(members) < config.mixture.min_carriers:
        return None
    ratios = mixture.trace.logits(level.samples.images, members) - math.log(mixture.share / (1 - mixture.share))
    shift, gain = share_of_poison(ratios)
    posterior = (ratios + shift).sigmoid().double()
    if gain < level.least_gain(len(members), float(posterior.sum()), config):
        return None
    share = float(posterior.mean())
    of_class = replace(
        mixture, posterior=posterior.cpu().numpy(), share=share, gain=gain, trace=replace(mixture.trace, share=share)
    )
    return Suspect.of(label, members, level, of_class)
