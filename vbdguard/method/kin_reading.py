"""Stage 5 of preset `default` where many classes carry the same trigger: it is read from the carriers of all.

An attack from all classes to all pastes one trigger, for each class at a place of its own. A class alone shows a faint
one with noise, and a detector learns the noise; all together show it clearly. One network learns it at all these places
(`window_detector`); matched filter and share of poison are each class's own. Not in the paper, where each class has its
own trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.common_trigger import Template
from vbdguard.method.likeness import Likeness, best_offset
from vbdguard.method.planted import PlantedTrigger, lowest_blend_factor
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate

FEWEST_KIN = 3
"""Classes with the same trigger from which on it is read from all of them."""
_LOOKS = 2
"""How often it is asked who shows the same."""
_MASK_VOTES = 0.5
"""Part of the most votes, one for each carrier, from which on a pixel belongs to the trigger."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one class shows, moved to where the clearest class has its trigger."""

    planted: PlantedTrigger
    background: Tensor
    """float32 (C, H, W): what it was pasted on."""
    carriers: float
    back: tuple[int, int]
    """Pixels down and right to the class's own place."""


def common_reading(kin: Sequence[Suspect]) -> list[PlantedTrigger | None]:
    """Return for each suspect the trigger that they share, at its place; None where it shows something else.

    Args:
        kin: suspects of images of the same size, one at least.
    """
    first = _typical(kin)
    model, background = first.planted, first.background
    # What one shows has noise of its own; what all that are like it show has little, and more are like that.
    for _ in range(_LOOKS):
        shown = [_shown(suspect, model, background) for suspect in kin]
        model = common = _average([one for one in shown if one is not None])
    return [
        None if one is None else PlantedTrigger(common.trigger.moved(*one.back), common.blend_factor) for one in shown
    ]


def _typical(kin: Sequence[Suspect]) -> Suspect:
    """Return the clearest suspect that most others are like, or the one that more are like than any other."""
    by_gain = sorted(kin, key=lambda suspect: -suspect.gain)
    shifts = [_shift(suspect.planted, suspect.background) for suspect in by_gain]
    known = Likeness.to_any_of(shifts)
    for shift in shifts:
        known.add(shift)
    followers: list[int] = []
    for shift in shifts:
        alike = (best_offset(shifts[i], shift) for i in known.candidates(shift))
        followers.append(sum(offset is not None for offset in alike))
        if 2 * followers[-1] > len(kin):
            break
    return by_gain[followers.index(max(followers))]


def _shown(suspect: Suspect, model: PlantedTrigger, model_background: Tensor) -> _Shown | None:
    """Return what a suspect shows where a model of the trigger lies, None if it is not alike."""
    offset = best_offset(_shift(suspect.planted, suspect.background), _shift(model, model_background))
    if offset is None:
        return None
    trigger = suspect.planted.trigger
    (top, left), (to_top, to_left) = trigger.bbox[:2], model.trigger.bbox[:2]
    down, right = to_top - top + offset[0], to_left - left + offset[1]
    background = suspect.background.permute(2, 0, 1).float()
    mean = TriggerCandidate(torch.ones_like(trigger.mask), background.to(trigger.pattern.device))
    return _Shown(
        PlantedTrigger(trigger.moved(down, right), suspect.planted.blend_factor),
        mean.moved(down, right).pattern,
        suspect.carriers,
        (-down, -right),
    )


def _average(shown: Sequence[_Shown]) -> PlantedTrigger:
    """Return the trigger that all show.

    What it does to the mean is averaged: single classes part that into pattern and blend factor as chance has it.
    """
    weights = torch.tensor([one.carriers for one in shown])
    weights = (weights / weights.sum()).to(shown[0].planted.trigger.mask.device)
    votes = sum(weight * one.planted.trigger.mask for weight, one in zip(weights, shown, strict=True))
    mask = votes >= _MASK_VOTES * votes.max()
    shifts = [one.planted.shift(one.background) for one in shown]
    shift = torch.einsum("i,ichw->chw", weights, torch.stack(shifts))
    background = torch.einsum("i,ichw->chw", weights, torch.stack([one.background for one in shown]))
    needed = lowest_blend_factor(*(image[:, mask].cpu().numpy() for image in (shift, background)))
    likely = float(torch.tensor([one.planted.blend_factor for one in shown]).median())
    blend_factor = min(1.0, max(needed, likely))
    pattern = (background + shift / blend_factor).clamp(0, 255) * mask
    return PlantedTrigger(TriggerCandidate(mask, pattern), blend_factor)


def _shift(planted: PlantedTrigger, background: Tensor) -> NDArray[np.float64]:
    """Return how far a trigger moves the pixels of its box, (h, w, C)."""
    return Template.of(planted, background, carriers=1.0, gain=0.0, label=0).shift
