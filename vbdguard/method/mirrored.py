"""Stages 2 and 3 of preset `default` for what all classes carry at the same place.

The all-to-all attack of BadNets (Gu, Dolan-Gavitt and Garg, 2017) pastes one patch at one place on images of all
classes. No class then looks unlike the others. But photographs are about as likely as their mirror images, left to
right if not upside down, and a patch is not: the mean of all samples is compared with its mirror image, and samples
with mirrored ones, as elsewhere a class is compared with the others. Where the mean is unlike its mirror image in
general (digits, say), nothing can be told. A patch that lies on the axis and is its own mirror image stays hidden, and
a faint one beside it may.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import Place, UsualContrasts, find_places, natural_covariance
from vbdguard.method.level import Level
from vbdguard.method.mixture import Mixture, View, fit_mixture, known_mixture
from vbdguard.method.planted import CLEAR_PARTS
from vbdguard.method.samples import evenly
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect, joint_gain
from vbdguard.method.window import Window, window_at
from vbdguard.method.window_detector import share_of_poison

_AXES = 1, 0
"""Of images (H, W, C): left to right, and upside down. Single photographs are more like the former mirror image."""
_SAME_PLACE = 1
"""Pixels by which two windows may differ and still show the same."""
_MOST_UNLIKE = 0.25
"""Root mean square of the mean image less its mirror image, in standard deviations of pixels, up to which photographs
count as symmetric: left to right they have 0.02, upside down 0.15 to 0.22, digits 0.3."""
_ASKED, _ASKED_BYTES = 5000, 64 << 20
"""Samples that the mixture is fitted on, at most, and as many mirrored ones; their size."""
_ENOUGH = 500
"""Samples that say how much pixels vary."""
_FEWEST_CLASSES = 3
"""Classes that must carry it: one or two alone are found by comparing classes."""
_LEAST_GAIN = 300.0
"""Log-likelihood (nats) that it must explain in all of them: natural looks at 600 crops of photographs gained up to 203
in three classes, and each keeps something from the models that judge an attack."""
_LEAST_EACH = 0.4
"""The same for each carrier: what lies elsewhere than usual by a little in many photographs gained up to 0.36, or was
shown by half of them; the faintest squares, rings and crosses that can be told at all (blend 0.08) gained 0.56."""
_MOST_CARRIERS = 1 / 3
"""Share of all samples up to which something is a trigger; what more have in common is how these images are."""


@dataclass(frozen=True, slots=True)
class _Mirror:
    """Some images beside their mirror images along one axis, and the means of all."""

    axis: int
    """Of images (H, W, C)."""
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
        return cls(axis, torch.cat([images, images.flip(axis + 1)]), usual, mean - usual, natural)

    def odd_places(self, config: DirectMethodConfig) -> list[Place]:
        """Return where the mean is unlike its mirror image as it is nowhere else."""
        twice = replace(config.contrast, places=2 * config.contrast.places)  # each is as odd as its mirror image
        usual = UsualContrasts.of(self.contrast[None], twice)
        return find_places(usual.scores(self.contrast, 0)[None], None, twice).get(0, [])

    def windows(self, places: Sequence[Place], side: int) -> list[Window]:
        """Return where to look for what makes the mean odd at places: there or at their mirror images.

        Across the axis a window shows the mirror image of what is looked for too, so that it is followed by the nearest
        one on the side of its middle.
        """
        height, width = self.usual.shape[:2]
        found: list[Window] = []
        for place in places:
            row, column = place.row, place.column
            other = (row, width - 1 - column) if self.axis == 1 else (height - 1 - row, column)
            for there in ((row, column), other):
                across = window_at(*there, side, (height, width))
                for window in (across, self._beside_axis(across)):
                    if not any(window.overlaps(earlier, _SAME_PLACE) for earlier in found):
                        found.append(window)
        return found

    def _beside_axis(self, window: Window) -> Window:
        low, high = (window.left, window.right) if self.axis == 1 else (window.top, window.bottom)
        length = self.usual.shape[self.axis]
        if low + high <= length:
            step = max(min(0, length // 2 - high), -low)
        else:
            step = min(max(0, -(-length // 2) - low), length - high)
        return window.moved(0, step) if self.axis == 1 else window.moved(step, 0)

    def mixtures_in(self, window: Window, level: Level, config: DirectMethodConfig) -> list[Mixture]:
        """Return what some of the images carry there, and their mirror images do not, if it explains enough.

        What these few images have in common beside the trigger looks like a part of it, and takes the whole for a
        stranger in most others: so the same follows with clearer pixels only.
        """
        n = len(self.both) // 2
        everyone = torch.arange(2 * n, device=self.both.device)
        view = View.of(self.both, everyone[:n], everyone[n:], self.usual, self.natural, window)
        mixture = fit_mixture(view, config.mixture)
        if mixture is None or mixture.gain < level.least_gain(n, mixture.share * n, config):
            return []
        background = self.usual.permute(2, 0, 1)
        if not mixture.planted.shift(background).any():  # nothing is darker than a black background
            return [mixture]
        clearer = [mixture.planted.clearer(background, part) for part in (0.0, *CLEAR_PARTS)]
        different = {int(planted.trigger.mask.sum()): planted for planted in clearer}  # each lies within the one before
        shifts = (window.of_image(planted.shift(background).permute(1, 2, 0)) for planted in different.values())
        return [mixture, *(known_mixture(view, shift.double().cpu().numpy()) for shift in shifts)]


def find_in_all_classes(level: Level, config: DirectMethodConfig) -> dict[int, list[Suspect]]:
    """Return what many classes carry at the same place, by class.

    Args:
        level: images as they are.
        config: all settings.
    """
    mirrors = _mirrors(level)
    # Natural borders may be odder left to right than any trigger, and upside down photographs are less alike.
    places = [place for mirror in mirrors for place in mirror.odd_places(config)]
    jobs = [(mirror, window) for mirror in mirrors for window in mirror.windows(places, level.side)]

    def at(job: tuple[_Mirror, Window]) -> list[Suspect]:
        mirror, window = job
        seen = (_in_classes(mixture, level, config) for mixture in mirror.mixtures_in(window, level, config))
        return max((found for found in seen if _may_be_trigger(found, len(level.samples))), key=joint_gain, default=[])

    by_class: dict[int, list[Suspect]] = {}
    for found in side_by_side(at, jobs, device=level.samples.device):
        for suspect in found:
            by_class.setdefault(suspect.label, []).append(suspect)
    return by_class


def _may_be_trigger(found: list[Suspect], n: int) -> bool:
    """Return whether what classes of n samples in all show at one place is more than how such images are."""
    carriers = sum(suspect.carriers for suspect in found)
    least_gain = max(_LEAST_GAIN, _LEAST_EACH * carriers)
    return len(found) >= _FEWEST_CLASSES and carriers <= _MOST_CARRIERS * n and joint_gain(found) >= least_gain


def _mirrors(level: Level) -> list[_Mirror]:
    """Return the axes along which these images are about as likely as their mirror images."""
    images, counts = level.samples.images, level.means.counts.double()
    mean = torch.tensordot(counts / counts.sum(), level.means.means, 1)
    some = evenly(images, min(_ASKED, max(1, _ASKED_BYTES // images[0].numel())))
    spread = float(evenly(images, _ENOUGH).float().std(0).mean())
    mirrors = (_Mirror.along(axis, some, mean, level) for axis in _AXES)
    return [one for one in mirrors if float(one.contrast.square().mean().sqrt()) <= _MOST_UNLIKE * spread]


def _in_classes(mixture: Mixture, level: Level, config: DirectMethodConfig) -> list[Suspect]:
    """Return which classes carry it."""
    found = (_in_class(label, mixture, level, config) for label in range(level.samples.n_classes))
    return [suspect for suspect in found if suspect is not None]


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
