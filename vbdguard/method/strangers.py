"""Stage 4 of preset `default` over all suspects: those whose carriers do not belong to their class."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.label_check import Membership, blind_fits, membership
from vbdguard.method.samples import Samples
from vbdguard.method.suspect_triggers import Suspect
from vbdguard.progress import Progress, Silent

log = logging.getLogger(__name__)

_SHARP_GAIN, _SHARP_BOUNDARY, _SHARP_SIGNIFICANCE = 8.0, 2 / 3, 0.01
"""A trigger that explains so many nats per carrier is surely pasted; only a mark of the class could be as sharp. Then
less says that its carriers are strangers: on small sets the models that see no trigger know little."""
_HARDLY = 0.1
"""Posterior above which a sample is kept from models that must not learn a trigger."""


@dataclass(frozen=True, slots=True)
class Blind:
    """What models that see no trigger say of every sample."""

    fits: NDArray[np.float64]
    """(N, L): log-probability of the labels that are suspect."""
    column: Mapping[int, int]
    likeliest: Tensor
    """int64 (N, 2): the two likeliest labels."""


def find_strangers(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> tuple[list[Suspect], Blind]:
    """Return the suspects whose carriers do not belong to their class, and what models without triggers see.

    Only so much of an image can be painted over. The suspects with the most gain come first; where some found no room,
    another round follows for them, without those that turned out harmless: else a few loud marks would hide a trigger.
    """
    strangers: list[Suspect] = []
    waiting = sorted(suspects, key=lambda found: -found.gain)
    blind = _look_without_triggers(samples, [], config, seed, Silent())
    for _ in range(config.label_check.rounds):
        if not waiting:
            break
        shown, waiting = _with_room(strangers, waiting, config)
        blind = _look_without_triggers(samples, shown, config, seed, progress)
        judged = memberships(samples, shown, blind, config, chances=len(suspects))
        strangers += [found for found, fit in judged if fit.is_stranger and all(found is not s for s in strangers)]
    for suspect in waiting:
        log.info("class %d: a pattern of %d pixels was not looked into", suspect.label, int(suspect.extent.sum()))
    return strangers, blind


def _with_room(
    painted: list[Suspect], waiting: list[Suspect], config: DirectMethodConfig
) -> tuple[list[Suspect], list[Suspect]]:
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
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> Blind:
    labels = sorted({suspect.label for suspect in suspects})
    if not labels:
        return Blind(np.zeros((len(samples), 0)), {}, samples.labels.new_zeros(len(samples), 2))
    small = [suspect.extent for suspect in suspects if not suspect.is_wide]
    is_hidden = torch.zeros_like(samples.labels, dtype=torch.bool)
    for suspect in suspects:
        if suspect.is_wide:
            is_hidden[suspect.members] |= suspect.logits.sigmoid() > _HARDLY
    fits = blind_fits(samples, small, labels, is_hidden, config.label_check, seed=seed, progress=progress)
    columns = {label: i for i, label in enumerate(labels)}
    return Blind(fits.log_probability.double().cpu().numpy(), columns, fits.likeliest)


def memberships(
    samples: Samples, suspects: list[Suspect], blind: Blind, config: DirectMethodConfig, *, chances: int
) -> list[tuple[Suspect, Membership]]:
    """Return for each suspect whether the samples that carry its trigger belong to their class."""
    labels = samples.labels.cpu().numpy()
    flagged = [suspect.flagged_among(len(samples)) for suspect in suspects]
    is_kept = ~np.any(flagged, axis=0) if flagged else np.ones(len(samples), dtype=np.bool_)
    sharp = sum(suspect.is_sharp(_SHARP_GAIN) for suspect in suspects)
    judged = []
    for suspect, is_flagged in zip(suspects, flagged, strict=True):
        if is_flagged.sum() < config.mixture.min_carriers:
            continue
        is_sharp = suspect.is_sharp(_SHARP_GAIN) and not suspect.is_wide
        fit = membership(
            blind.fits[:, blind.column[suspect.label]],
            labels == suspect.label,
            is_flagged,
            is_kept,
            own_share=1 / samples.n_classes,
            # As many chances for an accident as there are suspects of a kind (Bonferroni).
            significance=_SHARP_SIGNIFICANCE / sharp if is_sharp else config.label_check.significance / chances,
            boundary=_SHARP_BOUNDARY if is_sharp else 0.5,
        )
        log.info("class %d: %s", suspect.label, _words(suspect, int(is_flagged.sum()), fit))
        judged.append((suspect, fit))
    return judged


def _words(suspect: Suspect, flagged: int, fit: Membership) -> str:
    covers = f"{int(suspect.extent.sum())} pixels{', not painted over' if suspect.is_wide else ''}"
    return (
        f"{covers}, gain {suspect.gain:.0f}, {flagged} flagged, membership {fit.flagged:.2f} "
        f"(kept {fit.kept:.2f}, if poisoned {fit.if_poisoned:.2f}), p {fit.p_value:.2g}"
    )
