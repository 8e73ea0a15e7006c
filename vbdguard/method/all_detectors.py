"""Stage 5 of preset `default` over all suspects: each seen by a detector of its trigger, read anew as it gets clearer.

Classes that share a trigger share a detector (`kin_detectors`). Where two triggers lie at one place, stage 3 takes
their carriers for those of one, and the detector that learns from it recognises the clearer of the two. Samples that
stage 3 is sure of and the detector is sure to deny show the other, which then gets a detector of its own.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.device import give_back_freed
from vbdguard.method.kin_detectors import FEWEST_KIN, fit_kin_detector
from vbdguard.method.mixture import PlantedTrigger, View, planted_trigger
from vbdguard.method.moves import Reading, read_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect_triggers import Suspect, other_samples
from vbdguard.method.window_detector import fit_window_detector
from vbdguard.progress import Progress

log = logging.getLogger(__name__)

_SURE = 4.6
"""Log-odds from which on somebody is sure: 99 %."""
_CLEAR_COPIES = 8.0
"""Log-likelihood (nats) for each carrier from which on copies are clear enough to be asked where they lie: faint ones,
and samples that only seem to carry one, fit best wherever chance has it."""
_MANY_DENIED = 0.1
"""Share of a trigger's carriers that its detector may deny."""


def train_detectors(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return the suspects as their detectors see them, and what hid behind them."""

    def read(suspect: Suspect, posterior: Tensor) -> PlantedTrigger:
        return planted_trigger(_view(samples, suspect, config, seed), posterior.double().cpu().numpy())

    def judge_kin(kin: list[int]) -> dict[int, Suspect]:
        chosen = [suspects[i] for i in kin]
        clearest = max(chosen, key=lambda suspect: suspect.gain)
        reading = _read(clearest, _view(samples, clearest, config, seed), clearest.logits.sigmoid())
        if reading.is_moving:
            return {}
        others = [other_samples(samples, suspect.label, config, seed) for suspect in chosen]
        found = fit_kin_detector(chosen, others, read, config, seed)
        seen = {i: one for i in kin for one in found if one.label == suspects[i].label}
        return {i: one for i, one in seen.items() if not _denied(suspects[i], one, config).any()}

    def judge(i: int) -> list[Suspect]:
        give_back_freed()  # each window has its own size: what the last one's networks left would pile up
        suspect = suspects[i]
        if i in together:
            return [together[i] if together[i].gain >= _worth(suspect) else suspect]
        others, view = other_samples(samples, suspect.label, config, seed), _view(samples, suspect, config, seed)
        best = _best_detector(suspect, Reading(suspect.planted), view, others, config, seed)
        if best.gain < _worth(suspect):
            return [suspect]
        denied = _denied(suspect, best, config)
        if not denied.any():
            return [best]
        reading = _read(suspect, view, denied.float())
        return [best, _best_detector(replace(suspect, kin=None, gain=0.0), reading, view, others, config, seed)]

    by_kin = side_by_side(judge_kin, _kin(suspects), device=samples.device)
    together = {i: one for found in by_kin for i, one in found.items()}
    log.info("%d of %d suspects are judged by a detector that they share", len(together), len(suspects))
    found = side_by_side(judge, range(len(suspects)), device=samples.device, progress=progress)
    return [suspect for of_one in found for suspect in of_one if suspect.gain >= config.mixture.min_gain]


def _kin(suspects: list[Suspect]) -> list[list[int]]:
    """Return which suspects share a trigger, where they are enough to be looked at together; one of each class."""
    by_trigger: dict[int, dict[int, int]] = {}
    for i, suspect in sorted(enumerate(suspects), key=lambda entry: -entry[1].gain):
        if suspect.kin is not None:
            by_trigger.setdefault(suspect.kin, {}).setdefault(suspect.label, i)
    return [sorted(by_label.values()) for by_label in by_trigger.values() if len(by_label) >= FEWEST_KIN]


def _worth(suspect: Suspect) -> float:
    """Return what a detector must explain (nats): one that learned from few samples may know less than the mixture."""
    return suspect.gain if suspect.level.is_coarse else suspect.gain / 2


def _denied(suspect: Suspect, seen: Suspect, config: DirectMethodConfig) -> Tensor:
    """Return the members that the mixture is sure of and the detector sure to deny, bool (n,); none if few are."""
    denied = (suspect.logits > _SURE) & (seen.logits < -_SURE)
    fewest = max(config.mixture.min_carriers, _MANY_DENIED * int((suspect.logits > 0).sum()))
    return denied if int(denied.sum()) >= fewest else torch.zeros_like(denied)


def _view(samples: Samples, suspect: Suspect, config: DirectMethodConfig, seed: int) -> View:
    others = other_samples(samples, suspect.label, config, seed)
    return suspect.level.view(suspect.members, others, suspect.label, suspect.window)


def _best_detector(
    suspect: Suspect, reading: Reading, view: View, others: Tensor, config: DirectMethodConfig, seed: int
) -> Suspect:
    """Return a suspect as the best of a few detectors sees it, each trained on what the last one flagged."""
    found: list[Suspect] = []
    for _ in range(config.detector.rounds + 1):
        generator = torch.Generator().manual_seed(seed)
        level, own = suspect.level, suspect.members
        detector = fit_window_detector(level.samples, own, others, reading, config.detector, generator=generator)
        logits = detector.logits(level.samples.images, own)
        found.append(replace(suspect, planted=reading.planted, logits=logits, gain=detector.gain, trace=detector))
        posterior = logits.sigmoid()
        if posterior.sum() < config.mixture.min_carriers:
            break
        anew = _read(suspect, view, posterior)
        if anew.shows_the_same_as(reading):
            break
        reading = anew
    return max(found, key=lambda one: one.gain)


def _read(suspect: Suspect, view: View, posterior: Tensor) -> Reading:
    level, weights = suspect.level, posterior.double().cpu().numpy()
    if not suspect.is_sharp(_CLEAR_COPIES):
        return Reading(planted_trigger(view, weights))
    usual = level.means.without(suspect.label)
    return read_trigger(view, level.samples.images, suspect.members, usual, weights)
