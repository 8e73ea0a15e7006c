"""Stages 2 and 3 of preset `default` for what all classes carry at the same place.

The all-to-all attack of BadNets (Gu, Dolan-Gavitt and Garg, 2017) pastes one patch at one place on images of all
classes. No class then looks unlike the others. But photographs are about as likely as their mirror images, left to
right if not upside down, and a patch is not: the mean of all samples is compared with its mirror image, and samples
with mirrored ones, as elsewhere a class is compared with the others. Where the mean is unlike its mirror image in
general (digits, say), nothing can be told. A patch that lies on the axis and is its own mirror image stays hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
_ASKED, _ASKED_BYTES = 5000, 64 << 20
"""Samples that the mixture is fitted on, at most, and as many mirrored ones; their size."""
_ENOUGH = 500
"""Samples that say how much pixels vary."""
_FEWEST_CLASSES = 3
"""Classes that must carry it: one or two alone are found by comparing classes."""
_MOST_CARRIERS = 0.5
"""Share of all samples up to which something is a trigger; what more have in common is how these images are."""


@dataclass(frozen=True, slots=True)
class _Mirror:
    """Some images beside their mirror images along one axis, and the means of all."""

    both: Tensor
    """uint8 (2 n, H, W, C), mirrored ones last."""
    usual: Tensor
    """float64 (H, W, C): the mean's mirror image."""
    contrast: Tensor
    """float64 (H, W, C): by how much the mean exceeds it."""
    natural: Tensor
    """float64 (D, D): how windows of that vary, of the level's side."""

    @classmethod
    def along(cls, axis: int, images: Tensor, mean: Tensor, level: Level) -> _Mirror:
        """Mirror uint8 (n, H, W, C) images, and the mean of all, float64 (H, W, C), along an axis of the latter."""
        usual = mean.flip(axis)
        natural = natural_covariance((mean - usual)[None], level.side, level.natural_share)
        return cls(torch.cat([images, images.flip(axis + 1)]), usual, mean - usual, natural)

    def odd_places(self, config: DirectMethodConfig) -> list[Place]:
        """Return where the mean is unlike its mirror image as it is nowhere else."""
        usual = UsualContrasts.of(self.contrast[None], config.contrast)
        return find_places(usual.scores(self.contrast, 0)[None], None, config.contrast).get(0, [])

    def mixture_at(self, place: Place, level: Level, config: DirectMethodConfig) -> Mixture | None:
        """Return what some of the images carry there, and their mirror images do not, if it explains enough."""
        n = len(self.both) // 2
        everyone = torch.arange(2 * n, device=self.both.device)
        window = window_at(place.row, place.column, level.side, level.image_size)
        view = View.of(self.both, everyone[:n], everyone[n:], self.usual, self.natural, window)
        mixture = fit_mixture(view, config.mixture)
        if mixture is None or mixture.share > _MOST_CARRIERS:
            return None
        return mixture if mixture.gain >= level.least_gain(n, mixture.share * n, config) else None


def find_in_all_classes(level: Level, config: DirectMethodConfig) -> dict[int, list[Suspect]]:
    """Return what many classes carry at the same place, by class.

    Args:
        level: images as they are.
        config: all settings.
    """
    jobs = [(mirror, place) for mirror in _mirrors(level) for place in mirror.odd_places(config)]

    def at(job: tuple[_Mirror, Place]) -> list[Suspect]:
        mirror, place = job
        mixture = mirror.mixture_at(place, level, config)
        if mixture is None:
            return []
        of_classes = (_in_class(label, mixture, level, config) for label in range(level.samples.n_classes))
        return [suspect for suspect in of_classes if suspect is not None]

    by_class: dict[int, list[Suspect]] = {}
    for found in side_by_side(at, jobs, device=level.samples.device):
        for suspect in found if len(found) >= _FEWEST_CLASSES else ():
            by_class.setdefault(suspect.label, []).append(suspect)
    return by_class


def _mirrors(level: Level) -> list[_Mirror]:
    """Return the axes along which these images are about as likely as their mirror images."""
    images, counts = level.samples.images, level.means.counts.double()
    mean = torch.tensordot(counts / counts.sum(), level.means.means, 1)
    some = evenly(images, min(_ASKED, max(1, _ASKED_BYTES // images[0].numel())))
    spread = float(evenly(images, _ENOUGH).float().std(0).mean())
    mirrors = (_Mirror.along(axis, some, mean, level) for axis in _AXES)
    return [one for one in mirrors if float(one.contrast.square().mean().sqrt()) <= _MOST_UNLIKE * spread]


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
