"""Stage 5 of preset `default` over all suspects: each seen by a detector of its trigger, read anew as it gets clearer.

Where two triggers lie at one place, stage 3 takes their carriers for those of one, and the detector that learns from it
recognises the clearer of the two. Samples that stage 3 is sure of and the detector is sure to deny show the other,
which then gets a detector of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.device import give_back_freed
from vbdguard.method.mixture import View
from vbdguard.method.moves import Reading, read_trigger
from vbdguard.method.samples import Samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect_triggers import Suspect, other_samples
from vbdguard.method.window_detector import fit_window_detector
from vbdguard.progress import Progress

_SURE = 4.6
"""Log-odds from which on somebody is sure: 99 %."""
_MANY_DENIED = 0.1
"""Share of a trigger's carriers that its detector may deny."""


def train_detectors(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return the suspects as their detectors see them, and what hid behind them."""

    def judge(suspect: Suspect) -> list[Suspect]:
        give_back_freed()  # each window has its own size: what the last one's networks left would pile up
        others = other_samples(samples, suspect.label, config, seed)
        view = suspect.level.view(suspect.members, others, suspect.label, suspect.window)
        best = _best_detector(suspect, Reading(suspect.planted), view, others, config, seed)
        # A detector that learned from few samples, or looks at a whole coarse image, may know less than the mixture.
        worth = suspect.gain if suspect.level.is_coarse else suspect.gain / 2
        if best.gain < worth:
            return [suspect]
        denied = (suspect.logits > _SURE) & (best.logits < -_SURE)
        if int(denied.sum()) < max(config.mixture.min_carriers, _MANY_DENIED * int((suspect.logits > 0).sum())):
            return [best]
        reading = _read(suspect, view, denied.float())
        return [best, _best_detector(replace(suspect, kin=None, gain=0.0), reading, view, others, config, seed)]

    found = side_by_side(judge, suspects, device=samples.device, progress=progress)
    return [suspect for of_one in found for suspect in of_one if suspect.gain >= config.mixture.min_gain]


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
    level = suspect.level
    usual = level.means.without(suspect.label)
    weights = posterior.double().cpu().numpy()
    return read_trigger(view, level.samples.images, suspect.members, usual, weights)
