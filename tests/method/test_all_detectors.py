"""Stage 5 over suspects whose triggers move, or share their place with another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.all_detectors import train_detectors
from vbdguard.method.level import image_levels
from vbdguard.method.mixture import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect_triggers import Suspect, find_suspect_triggers
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.progress import Silent

COUNT = 60


def stamped(natural: Samples, patterns: list[Tensor], steps: list[tuple[int, int]]) -> Samples:
    """Return the crops with each pattern (h, w, C) on 60 samples of class 0, in turn a step off (6, 5)."""
    images, members = natural.images.clone(), natural.members(0)
    for i, sample in enumerate(members[: COUNT * len(patterns)].tolist()):
        (down, right), pattern = steps[i % len(steps)], patterns[i // COUNT]
        height, width, _ = pattern.shape
        images[sample, 6 + down : 6 + down + height, 5 + right : 5 + right + width] = pattern
    return replace(natural, images=images)


def pattern(side: int, seed: int) -> Tensor:
    """Return black, white and coloured pixels, uint8 (side, side, C)."""
    return torch.from_numpy(np.random.default_rng(seed).choice([0, 255], size=(side, side, 3)).astype(np.uint8))


def as_trigger(pattern: Tensor) -> TriggerCandidate:
    """Return the pattern where it lies without a step."""
    mask, whole = torch.zeros(16, 16, dtype=torch.bool), torch.zeros(3, 16, 16)
    place = np.s_[6 : 6 + len(pattern), 5 : 5 + len(pattern)]
    mask[place] = True
    whole[:, place[0], place[1]] = pattern.permute(2, 0, 1).float()
    return TriggerCandidate(mask, whole)


def suspects_and_what_detectors_see(
    samples: Samples, method: DirectMethodConfig
) -> tuple[list[Suspect], list[Suspect]]:
    levels = image_levels(Population.of(samples), samples, method)
    suspects = [one for one in find_suspect_triggers(samples, levels, method, 0, Silent()) if one.label == 0][:1]
    return suspects, train_detectors(samples, suspects, method, 0, Silent())


def flagged(suspects: list[Suspect]) -> Tensor:
    return torch.stack([suspect.logits > 0 for suspect in suspects]).any(0)


@pytest.mark.parametrize("seed", [2, 3])
def test_what_hides_behind_a_trigger_at_the_same_place_gets_a_detector_of_its_own(
    natural: Samples, method: DirectMethodConfig, seed: int
) -> None:
    both = [pattern(3, seed), pattern(7, seed + 10)]
    samples = stamped(natural, both, [(0, 0)])
    (suspect,), _ = suspects_and_what_detectors_see(samples, method)
    assert int((suspect.logits > 0)[: 2 * COUNT].sum()) >= 2 * COUNT - 2
    first_alone = replace(suspect, planted=PlantedTrigger(as_trigger(both[0]), 1.0))
    seen = train_detectors(samples, [first_alone], method, 0, Silent())
    assert len(seen) == 2
    for one, carriers in zip(seen, (slice(0, COUNT), slice(COUNT, 2 * COUNT)), strict=True):
        assert float((one.logits > 0)[carriers].float().mean()) > 0.95
    assert int(flagged(seen)[2 * COUNT :].sum()) <= 3


def test_one_trigger_gets_one_detector(natural: Samples, method: DirectMethodConfig) -> None:
    _, seen = suspects_and_what_detectors_see(stamped(natural, [pattern(3, 2)], [(0, 0)]), method)
    assert len(seen) == 1


@pytest.mark.parametrize("seed", [3, 4])
def test_a_trigger_that_moves_is_found_wherever_it_lies(
    natural: Samples, method: DirectMethodConfig, seed: int
) -> None:
    steps = [(0, 0), (0, 1), (1, 0)]
    suspects, seen = suspects_and_what_detectors_see(stamped(natural, [pattern(3, seed)], steps), method)
    assert len(suspects) == 1
    is_flagged = flagged(seen)
    assert float(is_flagged[:COUNT].float().mean()) > 0.9
    assert int(is_flagged[COUNT:].sum()) <= 3
