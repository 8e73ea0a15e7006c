"""Stages 2 and 3 of preset `default` over all classes: every trigger that some class may carry.

The images are looked at as they are, where small patches stand out, and coarse, where whole pictures do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import NaturalVariation, Place, UsualContrasts, class_contrasts, find_places
from vbdguard.method.mixture import Mixture, PlantedTrigger, View, fit_mixture
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window, window_at
from vbdguard.progress import Progress

_SAME_PLACE = 3
"""Pixels by which two windows may differ and still show the same thing."""
_NEWS = 0.5
"""Share of a further trigger's carriers that no earlier trigger of the class explains, at least."""
_COARSE_GAIN, _LEAST_COARSE_GAIN = 1.0, 200.0
"""Log-likelihood (nats), per carrier and in all, that a trigger must explain in coarse images."""
_WIDE_GAIN = 1000.0
"""The same in all where a trigger is too wide to be painted over. Its carriers are kept from the models then, and
natural samples of a kind that a model never saw look like strangers to it; natural looks gained up to 560."""
_SURELY_ODD, _ODD_SHARE = 10.0, 0.01
"""Contrast scores, absolute and as a share of the highest, from which on a pixel belongs to a trigger."""
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Level:
    """The images at one size: as they are, where small patches stand out, or coarse, where whole pictures do."""

    samples: Samples
    image_size: tuple[int, int]
    """Height and width of the whole images."""
    usual: UsualContrasts
    natural: NaturalVariation
    places: Mapping[int, list[Place]]
    """Where each suspicious class looks unlike the others."""
    side: int
    """Of the windows of stage 3."""

    @classmethod
    def of(cls, samples: Samples, image_size: tuple[int, int], config: DirectMethodConfig, side: int) -> Level:
        """Look for suspicious places."""
        contrasts = class_contrasts(samples)
        usual = UsualContrasts.of(contrasts, config.contrast)
        scores = (usual.scores(contrast, label) for label, contrast in enumerate(contrasts))
        places = {i: found for i, of_class in enumerate(scores) if (found := find_places(of_class, config.contrast))}
        natural = NaturalVariation.of(contrasts, side, config.contrast.natural_share)
        return cls(samples, image_size, usual, natural, places, side)

    @property
    def is_coarse(self) -> bool:
        """Whether the images are smaller than they were."""
        return self.samples.image_shape[:2] != self.image_size

    def least_gain(self, mixture: Mixture, config: DirectMethodConfig) -> float:
        """Return the log-likelihood (nats) that a mixture must explain: in coarse images every class has its looks."""
        carriers = float(mixture.posterior.sum())
        if not self.is_coarse:
            return config.mixture.min_gain
        return max(_LEAST_COARSE_GAIN, _COARSE_GAIN * carriers)

    def enlarged(self, trigger: TriggerCandidate) -> TriggerCandidate:
        """Return a trigger of this size in the pixels of the whole images."""
        if tuple(trigger.mask.shape) == self.image_size:
            return trigger
        mask = F.interpolate(trigger.mask[None, None].float(), self.image_size)[0, 0] > 0
        return TriggerCandidate(mask, F.interpolate(trigger.pattern[None], self.image_size)[0] * mask)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A trigger of a class, and how sure each sample of the class is to carry it."""

    label: int
    members: Tensor
    """int64 (n,)."""
    level: Level
    """At which size it is seen."""
    planted: PlantedTrigger
    """In the pixels of that size."""
    window: Window
    """Where stage 3 looked."""
    logits: Tensor
    """float32 (n,): posterior log-odds of the members."""
    gain: float
    """Log-likelihood (nats) that the trigger explains."""
    extent: Tensor
    """bool (H, W): what must be painted over so that nobody sees the trigger."""
    is_wide: bool
    """Whether that is too much to be painted over."""

    @property
    def trigger(self) -> TriggerCandidate:
        """The trigger in the pixels of the whole images."""
        return self.level.enlarged(self.planted.trigger)

    def is_sharp(self, gain: float) -> bool:
        """Return whether the trigger explains at least so many nats for each sample that carries it."""
        return self.gain >= gain * float(self.logits.sigmoid().sum())

    def flagged_among(self, n: int) -> NDArray[np.bool_]:
        """Return bool (n,): which of n samples carry the trigger more likely than not."""
        is_flagged = np.zeros(n, dtype=np.bool_)
        is_flagged[self.members[self.logits > 0].cpu().numpy()] = True
        return is_flagged


def image_levels(samples: Samples, config: DirectMethodConfig) -> list[Level]:
    """Return the images as they are and, where that makes a difference, coarse ones."""
    size = samples.image_shape[:2]
    levels = [Level.of(samples, size, config, config.mixture.side)]
    if min(size) >= 2 * config.coarse_side:
        levels.append(Level.of(samples.halved_to(config.coarse_side), size, config, config.contrast.side))
    return levels


def find_suspect_triggers(
    samples: Samples, levels: list[Level], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return what each class seems to carry."""

    def of_class(label: int) -> list[Suspect]:
        own, others = samples.members(label), other_samples(samples, label, config, seed)
        found: list[Suspect] = []
        for level in levels:
            seen: list[Window] = []
            for place in level.places.get(label, ()):
                window = window_at(place.row, place.column, level.side, level.samples.image_shape[:2])
                if not level.is_coarse and any(window.overlaps(earlier, _SAME_PLACE) for earlier in seen):
                    continue
                view = View.of(level.samples.images, own, others, level.natural.without(label), window)
                mixture = fit_mixture(view, config.mixture)
                if mixture is not None and mixture.gain >= level.least_gain(mixture, config):
                    seen.append(window)
                    found.append(_suspect(label, own, level, mixture))
        whole = (_with_extent(suspect, config) for suspect in _distinct(found))
        return [suspect for suspect in whole if not suspect.is_wide or suspect.gain >= _WIDE_GAIN]

    found = side_by_side(of_class, range(samples.n_classes), device=samples.device, progress=progress)
    return [suspect for of_one in found for suspect in of_one]


def other_samples(samples: Samples, label: int, config: DirectMethodConfig, seed: int) -> Tensor:
    """Return samples of other classes, int64 (m,), ascending, the same for every stage."""
    generator = torch.Generator().manual_seed(seed)
    others = (samples.labels != label).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[: config.mixture.others].sort().values
    return others[drawn.to(others.device)]


def _suspect(label: int, members: Tensor, level: Level, mixture: Mixture) -> Suspect:
    logits = torch.from_numpy(mixture.posterior).to(members.device).logit(eps=1e-9).float()
    extent = level.enlarged(mixture.planted.trigger).mask
    return Suspect(
        label, members, level, mixture.planted, mixture.window, logits, mixture.gain, extent, level.is_coarse
    )


def _distinct(suspects: list[Suspect]) -> list[Suspect]:
    """Return the suspects of one class that each explain samples which those with more gain do not."""
    chosen: list[Suspect] = []
    for suspect in sorted(suspects, key=lambda found: -found.gain):
        if all(_explained(suspect, earlier) < 1 - _NEWS for earlier in chosen):
            chosen.append(suspect)
    return chosen


def _explained(suspect: Suspect, by: Suspect) -> float:
    """Return the share of a suspect's carriers, in [0, 1], that carry another trigger as well."""
    posterior = suspect.logits.sigmoid()
    return float((posterior * by.logits.sigmoid()).sum() / posterior.sum())


def _with_extent(suspect: Suspect, config: DirectMethodConfig) -> Suspect:
    """Return the suspect with all of the image that its carriers have in common, which may reach beyond the window."""
    level, extent = suspect.level, suspect.extent
    carries = suspect.logits > 0
    if 0 < int(carries.sum()) < len(carries):
        shown, usual = (_mean_image(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
        scores = level.usual.scores(shown - usual, suspect.label)
        # Few carriers have a noisier mean than the whole class, by whose contrasts the scores are scaled.
        noise = len(carries) / int(carries.sum())
        is_odd = scores > max(_SURELY_ODD * noise, _ODD_SHARE * float(scores.max()))
        extent = extent | (F.interpolate(is_odd[None, None].float(), level.image_size)[0, 0] > 0)
    return replace(suspect, extent=extent, is_wide=float(extent.float().mean()) > config.label_check.max_blanked)


def _mean_image(images: Tensor, indices: Tensor) -> Tensor:
    sums = torch.stack([images[chunk].sum(0, dtype=torch.int64) for chunk in indices.split(_CHUNK)]).sum(0)
    return sums.double() / len(indices)
