"""Stage 5 over suspects whose triggers move, or share their place with another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.all_detectors import (
    _denied,
    _lie_at_one_place,
    _read_anew,
    _seen_by_detector,
    _Setting,
    train_detectors,
)
from vbdguard.method.level import image_levels
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.moves import Reading
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.suspect_triggers import find_suspect_triggers
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import window_at
from vbdguard.method.window_detector import WindowDetector
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
def test_two_triggers_at_one_place_are_both_found_where_the_first_look_was_for_one(
    natural: Samples, method: DirectMethodConfig, seed: int
) -> None:
    both = [pattern(3, seed), pattern(7, seed + 10)]
    samples = stamped(natural, both, [(0, 0)])
    (suspect,), _ = suspects_and_what_detectors_see(samples, method)
    assert int((suspect.logits > 0)[: 2 * COUNT].sum()) >= 2 * COUNT - 2
    around_both = window_at(9, 8, suspect.level.side, (16, 16))
    first_alone = replace(suspect, planted=PlantedTrigger(as_trigger(both[0]), 1.0), window=around_both)
    is_flagged = flagged(train_detectors(samples, [first_alone], method, 0, Silent()))
    for carriers in (slice(0, COUNT), slice(COUNT, 2 * COUNT)):
        assert float(is_flagged[carriers].float().mean()) > 0.95
    assert int(is_flagged[2 * COUNT :].sum()) <= 3


def test_a_second_look_is_for_samples_that_are_surely_denied_if_they_are_many(
    natural: Samples, method: DirectMethodConfig
) -> None:
    (suspect,), _ = suspects_and_what_detectors_see(stamped(natural, [pattern(3, 2)], [(0, 0)]), method)
    sure = torch.full_like(suspect.logits, -9.0)
    sure[:COUNT] = 9.0
    seen = sure.clone()
    seen[:5] = -9.0
    assert _denied(replace(suspect, logits=sure), replace(suspect, logits=seen), method) is None
    seen[5:20] = -9.0
    seen[20:40] = 1.0
    denied = _denied(replace(suspect, logits=sure), replace(suspect, logits=seen), method)
    assert denied is not None
    assert denied.nonzero().squeeze(1).tolist() == list(range(20))


def test_one_trigger_gets_one_detector(natural: Samples, method: DirectMethodConfig) -> None:
    _, seen = suspects_and_what_detectors_see(stamped(natural, [pattern(3, 2)], [(0, 0)]), method)
    assert len(seen) == 1


@pytest.mark.parametrize(("blend_factor", "looks"), [(0.3, 2), (1.0, 1)])
def test_a_detector_in_doubt_looks_again_without_stray_pixels(
    natural: Samples, method: DirectMethodConfig, monkeypatch: pytest.MonkeyPatch, blend_factor: float, looks: int
) -> None:
    images, square = natural.images.clone(), torch.zeros(16, 16, dtype=torch.bool)
    square[6:9, 5:8] = True
    carriers = natural.members(0)[: 2 * COUNT]
    light = (1 - blend_factor) * images[carriers].float() + blend_factor * 250
    images[carriers] = torch.where(square[..., None], light, images[carriers].float()).to(torch.uint8)
    (suspect,), _ = suspects_and_what_detectors_see(replace(natural, images=images), method)
    with_stray, pattern = square.clone(), torch.full((3, 16, 16), 250.0)
    with_stray[3:5, 5:8] = True
    pattern[:, 3:5] = suspect.background.permute(2, 0, 1)[:, 3:5].float() + 20
    stray = PlantedTrigger(TriggerCandidate(with_stray, pattern * with_stray), blend_factor)
    looked_for: list[PlantedTrigger] = []

    def remember(*args: object, **options: object) -> list[Suspect]:
        looked_for.extend(reading.planted for reading in args[2])  # type: ignore[attr-defined]
        return _seen_by_detector(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("vbdguard.method.all_detectors._seen_by_detector", remember)
    train_detectors(replace(natural, images=images), [replace(suspect, planted=stray)], method, 0, Silent())
    of_stray = [planted for planted in looked_for if planted.trigger.pattern[0, 6, 5] == 250]
    assert looked_for[0] is stray
    assert [planted.trigger.mask.equal(square) for planted in of_stray] == [False, True][:looks]


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


def test_one_network_learns_what_three_classes_share_also_at_the_border(
    natural: Samples, method: DirectMethodConfig
) -> None:
    images, shared = natural.images.clone(), pattern(3, 7)
    places = {0: (6, 5), 1: (0, 9), 2: (13, 13)}
    for label, (top, left) in places.items():
        images[natural.members(label)[:COUNT], top : top + 3, left : left + 3] = shared
    samples = replace(natural, images=images)
    levels = image_levels(Population.of(samples), samples, method)
    found = find_suspect_triggers(samples, levels, method, 0, Silent())
    kin = [max((one for one in found if one.label == label), key=lambda one: one.gain) for label in places]
    assert len({one.kin for one in kin}) == 1
    assert kin[0].kin is not None
    seen = train_detectors(samples, kin, method, 0, Silent())
    assert [one.planted.trigger.bbox for one in seen] == [(*place, 3, 3) for place in places.values()]
    traces = [one.trace for one in seen]
    assert all(isinstance(trace, WindowDetector) for trace in traces)
    assert len({id(trace.net) for trace in traces if isinstance(trace, WindowDetector)}) == 1
    for one in seen:
        assert int((one.logits > 0)[:COUNT].sum()) >= 0.95 * COUNT
        assert int((one.logits > 0)[COUNT:].sum()) <= 3
    alone = train_detectors(samples, [replace(one, kin=None) for one in kin], method, 0, Silent())
    nets = [one.trace.net for one in alone if isinstance(one.trace, WindowDetector)]
    assert len({id(net) for net in nets}) == len(nets) == 3


def shared_at(
    natural: Samples, method: DirectMethodConfig, places: list[tuple[int, int]]
) -> tuple[_Setting, list[Suspect]]:
    """Return three classes with one trigger, each at a place, and who carries it."""
    images, shared = natural.images.clone(), pattern(3, 7)
    for label, (top, left) in enumerate(places):
        images[natural.members(label)[:COUNT], top : top + 3, left : left + 3] = shared
    samples = replace(natural, images=images)
    level = image_levels(Population.of(samples), samples, method)[0]
    planted = PlantedTrigger(as_trigger(shared), 1.0)
    kin = []
    for label, (top, left) in enumerate(places):
        window = window_at(top + 1, left + 1, level.side, (16, 16))
        trigger = planted.trigger.moved(top - 6, left - 5)
        is_carrier = torch.arange(len(samples.members(label))) < COUNT
        suspect = Suspect(
            label=label,
            members=samples.members(label),
            level=level,
            planted=PlantedTrigger(trigger, 1.0),
            window=window,
            logits=torch.where(is_carrier, 9.0, -9.0),
            gain=100.0 + label,
            trace=MixtureTrace(window, torch.zeros(3 * window.size[0] * window.size[1]), [], 0.5),
            extent=trigger.mask,
            is_wide=False,
            is_painted=True,
        )
        kin.append(suspect)
    return _Setting.of(samples, kin, method, 0), kin


@pytest.mark.parametrize("places", [[(6, 5)] * 3, [(6, 5), (2, 9), (11, 3)]])
def test_what_kin_share_is_read_anew_without_stray_pixels_where_it_lay(
    natural: Samples, method: DirectMethodConfig, places: list[tuple[int, int]]
) -> None:
    setting, kin = shared_at(natural, method, places)
    with_stray = []
    for suspect in kin:
        top, left = suspect.planted.trigger.bbox[:2]
        mask = suspect.planted.trigger.mask.clone()
        mask[top + 3, left] = True
        trigger = TriggerCandidate(mask, suspect.planted.trigger.pattern)
        with_stray.append(Reading(PlantedTrigger(trigger, 1.0)))
    anew = _read_anew(setting, kin, with_stray)
    assert [reading.planted.trigger.bbox for reading in anew] == [(*place, 3, 3) for place in places]
    assert all(int(reading.planted.trigger.mask.sum()) == 9 for reading in anew)


def test_one_place_is_where_most_of_what_classes_share_lies(natural: Samples, method: DirectMethodConfig) -> None:
    for places, is_one in (([(6, 5)] * 3, True), ([(6, 5), (6, 5), (2, 9)], True), ([(6, 5), (2, 9), (11, 3)], False)):
        _, kin = shared_at(natural, method, places)
        assert _lie_at_one_place([Reading(suspect.planted) for suspect in kin]) == is_one


def test_others_are_honest_by_what_is_known_by_now(natural: Samples, method: DirectMethodConfig) -> None:
    setting, kin = shared_at(natural, method, [(6, 5)] * 3)
    members = kin[1].members
    assert not setting.is_honest[members[:COUNT]].any()
    assert setting.is_honest[members[COUNT:]].all()
    seen = [replace(suspect, logits=-suspect.logits) for suspect in kin[:2]]
    informed = setting.knowing(kin[:2], seen)
    assert informed.is_honest[members[:COUNT]].all()
    assert not informed.is_honest[members[COUNT:]].any()
    assert not informed.is_honest[kin[2].members[:COUNT]].any()
