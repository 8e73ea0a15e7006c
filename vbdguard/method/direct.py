"""Stages 1 to 6 of preset `default`: it looks at the samples before it trains anything.

    suspects      classes whose mean differs from all others' as no natural class does, and where    contrast
    trigger       which samples carry something there, and what                                      mixture
    ensemble      models that cannot see the triggers: do their carriers belong where they are?      label_check
    detector      a classifier of stamped and clean windows for each trigger                         window_detector
    flagging      trigger and content together judge each sample

The published method (`published`) trains models first and asks their gradients for suspects; it misses classes of which
few samples are poisoned, blends that are faint, and accuses clean classes. `docs/method.md` compares them stage by
stage, and `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import NaturalVariation, Place, UsualContrasts, class_contrasts, find_places
from vbdguard.method.detection import ClassFinding, Detection, StageClock
from vbdguard.method.label_check import Membership, blind_fits, membership
from vbdguard.method.mixture import Mixture, PlantedTrigger, View, fit_mixture, planted_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.trigger import ENOUGH_TO_SHARPEN, SharpTrigger, TriggerCandidate, sharpen_trigger
from vbdguard.method.window import Window, window_at
from vbdguard.method.window_detector import fit_window_detector
from vbdguard.progress import Progress, Silent

log = logging.getLogger(__name__)

_SAME_PLACE = 3
"""Pixels by which two windows may differ and still show the same thing."""
_NEWS = 0.5
"""Share of a further trigger's carriers that no earlier trigger of the class explains, at least."""
_COARSE_GAIN, _LEAST_COARSE_GAIN = 1.0, 200.0
"""Log-likelihood (nats), per carrier and in all, that a trigger must explain in coarse images."""
_WIDE_GAIN = 1000.0
"""The same in all where a trigger is too wide to be painted over. Its carriers are kept from the models then, and
natural samples of a kind that a model never saw look like strangers to it; natural looks gained up to 560."""
_HARDLY = 0.1
"""Posterior above which a sample is kept from models that must not learn a trigger."""
_SURELY_ODD, _ODD_SHARE = 10.0, 0.01
"""Contrast scores, absolute and as a share of the highest, from which on a pixel belongs to a trigger."""
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class _Level:
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
    def of(cls, samples: Samples, image_size: tuple[int, int], config: DirectMethodConfig, side: int) -> _Level:
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
class _Suspect:
    """A trigger of a class, and how sure each sample of the class is to carry it."""

    label: int
    members: Tensor
    """int64 (n,)."""
    level: _Level
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

    def flagged_among(self, n: int) -> NDArray[np.bool_]:
        """Return bool (n,): which of n samples carry the trigger more likely than not."""
        is_flagged = np.zeros(n, dtype=np.bool_)
        is_flagged[self.members[self.logits > 0].cpu().numpy()] = True
        return is_flagged


@dataclass(frozen=True, slots=True)
class _Blind:
    """What models that see no trigger say of every sample."""

    fits: NDArray[np.float64]
    """(N, L): log-probability of the labels that are suspect."""
    column: Mapping[int, int]
    likeliest: Tensor
    """int64 (N, 2): the two likeliest labels."""


def detect_direct(samples: Samples, config: DirectMethodConfig, *, seed: int, clock: StageClock) -> Detection:
    """Return which classes and samples are poisoned; see `vbdguard.method.pipeline.detect`."""
    with clock("suspects"):
        levels = _levels(samples, config)
    with clock("trigger", samples.n_classes) as listener:
        suspects = _suspects(samples, levels, config, seed, listener)
    strangers, blind = _strangers(samples, suspects, config, seed, clock)
    with clock("detector", len(strangers)) as listener:
        sharper = _train_detectors(samples, strangers, config, seed, listener)
    with clock("attack_check"):
        judged = _memberships(samples, sharper, blind, config, chances=len(sharper))
        accused = [(suspect, fit) for suspect, fit in judged if fit.is_stranger]
    with clock("flagging"):
        is_flagged, posterior = _flags(samples, accused, config)
        sharp = _sharp_triggers(is_flagged, samples, [suspect for suspect, _ in accused])
        p_values = {suspect.label: fit.p_value for suspect, fit in accused}
        findings = tuple(_finding(label, sharp.get(label), p_values) for label in range(samples.n_classes))
        suggested = _suggest(samples, is_flagged, blind)
    return Detection(findings, is_flagged, posterior, suggested, clock.seconds)


def _levels(samples: Samples, config: DirectMethodConfig) -> list[_Level]:
    """Return the images as they are and, where that makes a difference, coarse ones."""
    size = samples.image_shape[:2]
    levels = [_Level.of(samples, size, config, config.mixture.side)]
    if min(size) >= 2 * config.coarse_side:
        levels.append(_Level.of(samples.halved_to(config.coarse_side), size, config, config.contrast.side))
    return levels


def _suspects(
    samples: Samples, levels: list[_Level], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[_Suspect]:
    """Return what each class seems to carry."""

    def of_class(label: int) -> list[_Suspect]:
        own, others = samples.members(label), _others(samples, label, config, seed)
        found: list[_Suspect] = []
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


def _suspect(label: int, members: Tensor, level: _Level, mixture: Mixture) -> _Suspect:
    logits = torch.from_numpy(mixture.posterior).to(members.device).logit(eps=1e-9).float()
    extent = level.enlarged(mixture.planted.trigger).mask
    return _Suspect(
        label, members, level, mixture.planted, mixture.window, logits, mixture.gain, extent, level.is_coarse
    )


def _distinct(suspects: list[_Suspect]) -> list[_Suspect]:
    """Return the suspects of one class that each explain samples which those with more gain do not."""
    chosen: list[_Suspect] = []
    for suspect in sorted(suspects, key=lambda found: -found.gain):
        if all(_explained(suspect, earlier) < 1 - _NEWS for earlier in chosen):
            chosen.append(suspect)
    return chosen


def _explained(suspect: _Suspect, by: _Suspect) -> float:
    """Return the share of a suspect's carriers, in [0, 1], that carry another trigger as well."""
    posterior = suspect.logits.sigmoid()
    return float((posterior * by.logits.sigmoid()).sum() / posterior.sum())


def _with_extent(suspect: _Suspect, config: DirectMethodConfig) -> _Suspect:
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


def _strangers(
    samples: Samples, suspects: list[_Suspect], config: DirectMethodConfig, seed: int, clock: StageClock
) -> tuple[list[_Suspect], _Blind]:
    """Return the suspects whose carriers do not belong to their class, and what models without triggers see.

    Only so much of an image can be painted over. The suspects with the most gain come first; where some found no room,
    another round follows for them, without those that turned out harmless: else a few loud marks would hide a trigger.
    """
    strangers: list[_Suspect] = []
    waiting = sorted(suspects, key=lambda found: -found.gain)
    blind = _look_without_triggers(samples, [], config, seed, Silent())
    with clock("ensemble") as listener:
        for _ in range(config.label_check.rounds):
            if not waiting:
                break
            shown, waiting = _with_room(strangers, waiting, config)
            blind = _look_without_triggers(samples, shown, config, seed, listener)
            judged = _memberships(samples, shown, blind, config, chances=len(suspects))
            strangers += [found for found, fit in judged if fit.is_stranger and all(found is not s for s in strangers)]
    for suspect in waiting:
        log.info("class %d: a pattern of %d pixels was not looked into", suspect.label, int(suspect.extent.sum()))
    return strangers, blind


def _with_room(
    painted: list[_Suspect], waiting: list[_Suspect], config: DirectMethodConfig
) -> tuple[list[_Suspect], list[_Suspect]]:
    """Return the suspects that can be painted over together (at least one of those that wait), and those that cannot.

    A trigger that covers too much is not painted over (see `label_check`), so it needs no room.
    """
    chosen, left = list(painted), []
    union = torch.zeros_like(waiting[0].extent)
    for suspect in painted:
        union = union if suspect.is_wide else union | suspect.extent
    for suspect in waiting:
        wider = union if suspect.is_wide else union | suspect.extent
        if len(chosen) > len(painted) and float(wider.float().mean()) > config.label_check.max_blanked:
            left.append(suspect)
        else:
            union = wider
            chosen.append(suspect)
    return chosen, left


def _look_without_triggers(
    samples: Samples, suspects: list[_Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> _Blind:
    labels = sorted({suspect.label for suspect in suspects})
    if not labels:
        return _Blind(np.zeros((len(samples), 0)), {}, samples.labels.new_zeros(len(samples), 2))
    small = [suspect.extent for suspect in suspects if not suspect.is_wide]
    is_hidden = torch.zeros_like(samples.labels, dtype=torch.bool)
    for suspect in suspects:
        if suspect.is_wide:
            is_hidden[suspect.members] |= suspect.logits.sigmoid() > _HARDLY
    fits = blind_fits(samples, small, labels, is_hidden, config.label_check, seed=seed, progress=progress)
    columns = {label: i for i, label in enumerate(labels)}
    return _Blind(fits.log_probability.double().cpu().numpy(), columns, fits.likeliest)


def _memberships(
    samples: Samples, suspects: list[_Suspect], blind: _Blind, config: DirectMethodConfig, *, chances: int
) -> list[tuple[_Suspect, Membership]]:
    """Return for each suspect whether the samples that carry its trigger belong to their class."""
    labels = samples.labels.cpu().numpy()
    flagged = [suspect.flagged_among(len(samples)) for suspect in suspects]
    is_kept = ~np.any(flagged, axis=0) if flagged else np.ones(len(samples), dtype=np.bool_)
    judged = []
    for suspect, is_flagged in zip(suspects, flagged, strict=True):
        if is_flagged.sum() < config.mixture.min_carriers:
            continue
        fit = membership(
            blind.fits[:, blind.column[suspect.label]],
            labels == suspect.label,
            is_flagged,
            is_kept,
            own_share=1 / samples.n_classes,
            # As many chances for an accident as there are suspects (Bonferroni).
            significance=config.label_check.significance / chances,
        )
        log.info("class %d: %s", suspect.label, _words(suspect, int(is_flagged.sum()), fit))
        judged.append((suspect, fit))
    return judged


def _train_detectors(
    samples: Samples, suspects: list[_Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[_Suspect]:
    """Return the suspects as their detectors see them."""

    def judge(suspect: _Suspect) -> _Suspect:
        own, others, level = suspect.members, _others(samples, suspect.label, config, seed), suspect.level
        view = View.of(level.samples.images, own, others, level.natural.without(suspect.label), suspect.window)
        # A window of a coarse image is most of it: there the mixture may know more than a detector learns.
        planted, best = suspect.planted, suspect if level.is_coarse else None
        for _ in range(config.detector.rounds + 1):
            generator = torch.Generator().manual_seed(seed)
            detector = fit_window_detector(level.samples, own, others, planted, config.detector, generator=generator)
            logits = detector.logits(level.samples.images, own)
            if best is None or detector.gain > best.gain:
                best = replace(suspect, planted=planted, logits=logits, gain=detector.gain)
            posterior = logits.sigmoid().double().cpu().numpy()
            if posterior.sum() < config.mixture.min_carriers:
                break
            planted = planted_trigger(view, posterior)
        return best or suspect

    found = side_by_side(judge, suspects, device=samples.device, progress=progress)
    return [suspect for suspect in found if suspect.gain >= config.mixture.min_gain]


def _others(samples: Samples, label: int, config: DirectMethodConfig, seed: int) -> Tensor:
    """Return samples of other classes, int64 (m,), ascending, the same for every stage."""
    generator = torch.Generator().manual_seed(seed)
    others = (samples.labels != label).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[: config.mixture.others].sort().values
    return others[drawn.to(others.device)]


def _flags(
    samples: Samples, accused: list[tuple[_Suspect, Membership]], config: DirectMethodConfig
) -> tuple[Tensor, Tensor]:
    """Return which samples are poisoned, bool (N,), and how sure that is, float32 (N,) in [0, 1].

    Trigger and content are seen by different models in different pixels, so their log-odds add up.
    """
    posterior = torch.zeros(len(samples), device=samples.device)
    for suspect, fit in accused:
        content = torch.from_numpy(fit.log_ratio).float().to(samples.device)[suspect.members]
        posterior[suspect.members] = torch.maximum(posterior[suspect.members], (suspect.logits - content).sigmoid())
    return posterior > config.detector.threshold, posterior


def _sharp_triggers(is_flagged: Tensor, samples: Samples, suspects: list[_Suspect]) -> dict[int, SharpTrigger]:
    """Return the trigger of each class with flagged samples, as those samples show it; the strongest where several."""
    sharp: dict[int, SharpTrigger] = {}
    for suspect in sorted(suspects, key=lambda found: found.gain):
        flagged = suspect.members[is_flagged[suspect.members] & (suspect.logits > 0)]
        if len(flagged):
            others = (samples.labels != suspect.label).nonzero().squeeze(1)[:ENOUGH_TO_SHARPEN]
            found = sharpen_trigger(suspect.trigger, samples.images[flagged], samples.images[others])
            sharp[suspect.label] = found
    return dict(sorted(sharp.items()))


def _finding(label: int, sharp: SharpTrigger | None, p_values: Mapping[int, float]) -> ClassFinding:
    return ClassFinding(
        label=label,
        is_poisoned=sharp is not None,
        p_value=p_values.get(label),
        attack_success_rate=None,
        trigger=sharp.trigger if sharp else None,
        blend_factor=sharp.blend_factor if sharp else None,
    )


def _suggest(samples: Samples, is_flagged: Tensor, blind: _Blind) -> Tensor:
    """Return the likeliest other label of each flagged sample, -1 for the rest, int64 (N,) (section 3.3.7)."""
    first, second = blind.likeliest.unbind(1)
    other = torch.where(first == samples.labels, second, first)
    return torch.where(is_flagged, other, -1)


def _words(suspect: _Suspect, flagged: int, fit: Membership) -> str:
    covers = f"{int(suspect.extent.sum())} pixels{', not painted over' if suspect.is_wide else ''}"
    return (
        f"{covers}, gain {suspect.gain:.0f}, {flagged} flagged, membership {fit.flagged:.2f} "
        f"(kept {fit.kept:.2f}, if poisoned {fit.if_poisoned:.2f}), p {fit.p_value:.2g}"
    )
