"""Stage 5 of preset `default` where many classes carry the same trigger: one detector learns it for all of them.

An attack from all classes to all pastes one trigger, for each class at a place of its own. Read from all carriers the
trigger is sharper than any class shows it, and one network, trained on windows around all of these places, costs what
one class would. Each class is then judged at its own place under its own share of poison. Not in the paper, which
trains one detector for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.common_trigger import Template, best_offset
from vbdguard.method.mixture import PlantedTrigger
from vbdguard.method.suspect_triggers import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import OUTSIDE, Window
from vbdguard.method.window_detector import MatchedFilter, MatchedFilters, judging, matched_filter, train_net

FEWEST_KIN = 3
"""Classes with the same trigger from which on they are looked at together."""
_MOST_WINDOWS = 3
"""Windows to learn from, as a multiple of what one class would have."""
_MASK_VOTES = 0.5
"""Share of the carriers whose class has a pixel in its mask, from which on it belongs to the trigger."""

Read = Callable[[Suspect, Tensor], PlantedTrigger]
"""Returns the trigger of a suspect as its members show it, weighted with their posterior, float32 (n,) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A suspect, and the window in which its trigger lies where it lies in the windows of its kin."""

    suspect: Suspect
    window: Window
    others: Tensor
    """int64 (m,), samples of other classes."""


def fit_kin_detector(
    kin: Sequence[Suspect], others: Sequence[Tensor], read: Read, config: DirectMethodConfig, seed: int
) -> list[Suspect]:
    """Return suspects that share a trigger as their common detector sees them; those that do not fit in are left out.

    Args:
        kin: the suspects, of images of the same size.
        others: for each of them, int64 (m,), samples of other classes to learn from.
        read: reads a trigger anew.
        config: all settings.
        seed: of weights, dropout, batch order and blend factors.
    """
    placed = _placed(kin, others, config.detector)
    common, best = _common(placed), list[Suspect]()
    for _ in range(config.detector.rounds + 1):
        generator = torch.Generator().manual_seed(seed)
        found = _judged(placed, common, config.detector, generator)
        if sum(one.gain for one in found) > sum(one.gain for one in best):
            best = found
        placed = [_read_anew(where, one, read, config) for where, one in zip(placed, found, strict=True)]
        anew = _common(placed)
        if anew.shows_the_same_as(common):
            break
        common = anew
    return best


def _read_anew(where: Placed, seen: Suspect, read: Read, config: DirectMethodConfig) -> Placed:
    if _carriers(seen) < config.mixture.min_carriers:
        return where
    return replace(where, suspect=replace(seen, planted=read(seen, seen.logits.sigmoid())))


def _carriers(suspect: Suspect) -> float:
    return float(suspect.logits.sigmoid().sum())


def _placed(kin: Sequence[Suspect], others: Sequence[Tensor], config: WindowDetectorConfig) -> list[Placed]:
    """Return the suspects, each with the window that shows its trigger as the clearest one's window shows that."""
    templates = [_template(suspect) for suspect in kin]
    clearest = max(range(len(kin)), key=lambda i: kin[i].gain)
    height, width, _ = templates[clearest].shift.shape
    sides = [min(side + 2 * config.margin, config.max_side) for side in (height, width)]
    margins = [(side - length) // 2 for side, length in zip(sides, (height, width), strict=True)]
    found = []
    for suspect, template, of_others in zip(kin, templates, others, strict=True):
        offset = best_offset(template.shift, templates[clearest].shift)
        if offset is not None:
            corner = suspect.planted.trigger.bbox[:2]
            top, left = (corner[axis] - offset[axis] - margins[axis] for axis in (0, 1))
            found.append(Placed(suspect, Window(top, top + sides[0], left, left + sides[1]), of_others))
    return found


def _template(suspect: Suspect) -> Template:
    return Template.of(suspect.planted, suspect.level.means.without(suspect.label), _carriers(suspect))


def _judged(
    placed: Sequence[Placed], common: PlantedTrigger, config: WindowDetectorConfig, generator: torch.Generator
) -> list[Suspect]:
    """Return the suspects as a detector of what they share sees them."""
    low, high = config.blend_slack
    clean = [_clean_windows(where, i, len(placed)) for i, where in enumerate(placed)]
    alpha = [(torch.rand(len(one), generator=generator) * (high - low) + low) * common.blend_factor for one in clean]
    stamped = [
        common.trigger.paste(one, some.clamp(0, 1).to(one.device)) for one, some in zip(clean, alpha, strict=True)
    ]
    filters = _filters(placed, clean, stamped)
    scores = [matched(windows) for part in (clean, stamped) for windows, matched in zip(part, filters, strict=True)]
    net = train_net(torch.cat([*clean, *stamped]), torch.cat(scores), config, generator)
    found = []
    for where, matched in zip(placed, filters, strict=True):
        suspect, images = where.suspect, where.suspect.level.samples.images
        detector = judging(images, suspect.members, where.window, matched, net)
        logits = detector.logits(images, suspect.members)
        found.append(replace(suspect, logits=logits, gain=detector.gain, trace=detector))
    return found


def _clean_windows(where: Placed, i: int, n_places: int) -> Tensor:
    """Return other classes' windows at one of the places, uint8 (n, h, w, C); each place has others of them."""
    step = max(1, n_places // _MOST_WINDOWS)
    return where.window.cut(where.suspect.level.samples.images, where.others[i % step :: step])


def _filters(placed: Sequence[Placed], clean: Sequence[Tensor], stamped: Sequence[Tensor]) -> list[MatchedFilters]:
    """Return the matched filter of the common trigger for each place, where windows have a mean of their own."""
    usual = [_usual(where) for where in placed]
    x = torch.cat([windows.flatten(1).float() - mean for windows, mean in zip(clean, usual, strict=True)])
    shift = torch.cat([*stamped]).flatten(1).float().mean(0) - torch.cat([*clean]).flatten(1).float().mean(0)
    common = matched_filter(x, torch.zeros_like(shift), shift)
    centres = [common.centre + float(common.weights @ mean) for mean in usual]
    return [MatchedFilters((MatchedFilter(common.weights, centre),)) for centre in centres]


def _usual(where: Placed) -> Tensor:
    """Return the mean of other classes' windows, float32 (D,)."""
    suspect = where.suspect
    image = suspect.level.means.without(suspect.label).to(suspect.members.device)
    inside = where.window.of_image(torch.ones_like(image))
    return (where.window.of_image(image) + (1 - inside) * OUTSIDE).float().flatten()


def _common(placed: Sequence[Placed]) -> PlantedTrigger:
    """Return the trigger in the pixels of the windows, as all its carriers show it."""
    weights = torch.tensor([_carriers(where.suspect) for where in placed])
    weights = weights / weights.sum()
    planted = [where.suspect.planted for where in placed]
    masks = torch.stack(
        [where.window.of_image(one.trigger.mask).float().cpu() for where, one in zip(placed, planted, strict=True)]
    )
    patterns = torch.stack(
        [
            where.window.of_image(one.trigger.pattern.permute(1, 2, 0)).permute(2, 0, 1).cpu()
            for where, one in zip(placed, planted, strict=True)
        ]
    )
    votes = torch.einsum("i,ihw->hw", weights, masks)
    pattern = torch.einsum("i,ichw->chw", weights, patterns) / votes.clamp_min(1e-6)
    mask = votes >= _MASK_VOTES * votes.max()
    blend_factor = float(weights @ torch.tensor([one.blend_factor for one in planted]))
    device = placed[0].suspect.members.device
    return PlantedTrigger(TriggerCandidate(mask.to(device), (pattern * mask).to(device)), blend_factor)
