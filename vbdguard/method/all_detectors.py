"""Stage 5 of preset `default` over all suspects: each seen by a detector of its trigger, read anew as it gets clearer.

What several classes share is read from the carriers of all of them (`kin_reading`). Where two triggers lie at one
place, stage 3 takes their carriers for those of one, and the detector that learns from it recognises the clearer of the
two. Samples that stage 3 is sure of and the detector is sure to deny show the other, which then gets a detector too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.device import give_back_freed
from vbdguard.method.kin_reading import FEWEST_KIN, common_reading
from vbdguard.method.mixture import View, planted_trigger
from vbdguard.method.moves import Reading, read_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect_triggers import Suspect, other_samples
from vbdguard.method.window_detector import fit_window_detector
from vbdguard.progress import Progress

_SURE = 4.6
"""Log-odds from which on somebody is sure: 99 %."""
_PURE = 0.95
"""Share of the flagged that carry the trigger for sure, from which on they are asked where their copies lie: samples
that only seem to carry one fit best wherever chance has it."""
_MANY_DENIED = 0.1
"""Share of a trigger's carriers that its detector may deny."""


def train_detectors(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return the suspects as their detectors see them, and what hid behind them."""
    shared = _shared_readings(samples, suspects, config, seed)

    def judge(i: int) -> list[Suspect]:
        give_back_freed()  # each window has its own size: what the last one's networks left would pile up
        suspect, others = suspects[i], other_samples(samples, suspects[i].label, config, seed)
        # A detector that learned from few samples, or looks at a whole coarse image, may know less than the mixture.
        worth = suspect.gain if suspect.level.is_coarse else suspect.gain / 2
        if i in shared:
            seen = _seen_by_detector(suspect, shared[i], others, config, seed)
            return [seen if seen.gain >= worth else suspect]
        view = _view(samples, suspect, config, seed)
        best = _best_detector(suspect, Reading(suspect.planted), view, others, config, seed)
        if best.gain < worth:
            return [suspect]
        denied = _denied(suspect, best, config)
        if denied is None:
            return [best]
        reading = _read(suspect, view, denied.float())
        return [best, _best_detector(replace(suspect, kin=None, gain=0.0), reading, view, others, config, seed)]

    found = side_by_side(judge, range(len(suspects)), device=samples.device, progress=progress)
    return [suspect for of_one in found for suspect in of_one if suspect.gain >= config.mixture.min_gain]


def _shared_readings(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int
) -> dict[int, Reading]:
    """Return the trigger of each suspect whose kin show it together; not of those whose copies move."""
    shared: dict[int, Reading] = {}
    for kin in _kin(suspects):
        clearest = max((suspects[i] for i in kin), key=lambda suspect: suspect.gain)
        alone = _read(clearest, _view(samples, clearest, config, seed), clearest.logits.sigmoid())
        if not alone.is_moving:
            readings = zip(kin, common_reading([suspects[i] for i in kin]), strict=True)
            shared |= {i: Reading(planted) for i, planted in readings if planted is not None}
    return shared


def _kin(suspects: list[Suspect]) -> list[list[int]]:
    """Return which suspects share a trigger, where they are enough to be looked at together; one of each class."""
    by_trigger: dict[int, dict[int, int]] = {}
    for i, suspect in sorted(enumerate(suspects), key=lambda entry: -entry[1].gain):
        if suspect.kin is not None:
            by_trigger.setdefault(suspect.kin, {}).setdefault(suspect.label, i)
    return [sorted(by_label.values()) for by_label in by_trigger.values() if len(by_label) >= FEWEST_KIN]


def _denied(suspect: Suspect, seen: Suspect, config: DirectMethodConfig) -> Tensor | None:
    """Return the members that the mixture is sure of and the detector sure to deny, bool (n,); None if few are."""
    denied = (suspect.logits > _SURE) & (seen.logits < -_SURE)
    fewest = max(config.mixture.min_carriers, _MANY_DENIED * int((suspect.logits > 0).sum()))
    return denied if int(denied.sum()) >= fewest else None


def _view(samples: Samples, suspect: Suspect, config: DirectMethodConfig, seed: int) -> View:
    others = other_samples(samples, suspect.label, config, seed)
    return suspect.level.view(suspect.members, others, suspect.label, suspect.window)


def _best_detector(
    suspect: Suspect, reading: Reading, view: View, others: Tensor, config: DirectMethodConfig, seed: int
) -> Suspect:
    """Return a suspect as the best of a few detectors sees it, each trained on what the last one flagged."""
    found: list[Suspect] = []
    for _ in range(config.detector.rounds + 1):
        found.append(_seen_by_detector(suspect, reading, others, config, seed))
        posterior = found[-1].logits.sigmoid()
        if posterior.sum() < config.mixture.min_carriers:
            break
        anew = _read(suspect, view, posterior)
        if anew.shows_the_same_as(reading):
            break
        reading = anew
    return max(found, key=lambda one: one.gain)


def _seen_by_detector(
    suspect: Suspect, reading: Reading, others: Tensor, config: DirectMethodConfig, seed: int
) -> Suspect:
    """Return a suspect as a detector of its trigger sees it."""
    generator = torch.Generator().manual_seed(seed)
    samples, own = suspect.level.samples, suspect.members
    detector = fit_window_detector(samples, own, others, reading, config.detector, generator=generator)
    logits = detector.logits(samples.images, own)
    return replace(suspect, planted=reading.planted, logits=logits, gain=detector.gain, trace=detector)


def _read(suspect: Suspect, view: View, posterior: Tensor) -> Reading:
    level, weights = suspect.level, posterior.double().cpu().numpy()
    if suspect.purity < _PURE:
        return Reading(planted_trigger(view, weights))
    usual = level.means.without(suspect.label)
    return read_trigger(view, level.samples.images, suspect.members, usual, weights)
