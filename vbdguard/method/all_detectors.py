"""Stage 5 of preset `default` over all suspects: each seen by a detector of its trigger, read anew as it gets clearer.

What several classes share is read from the carriers of all of them (`kin_reading`), and one network learns it for all
whose windows are laid out alike: it sees more samples than each class could afford alone. Where two triggers lie at
one place, stage 3 takes their carriers for those of one, and the detector that learns from it may recognise the clearer
of the two. Samples that stage 3 is sure of and the detector is sure to deny show the other, which gets a detector too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.device import give_back_freed
from vbdguard.method.kin_reading import FEWEST_KIN, common_reading
from vbdguard.method.mixture import View, planted_trigger
from vbdguard.method.moves import Reading, read_trigger
from vbdguard.method.planted import CLEAR_PARTS, PlantedTrigger
from vbdguard.method.samples import Samples, other_samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect, flagged_by_none, joint_gain
from vbdguard.method.window_detector import Sight, fit_window_detectors
from vbdguard.progress import Progress

_SURE = 4.6
"""Log-odds from which on somebody is sure: 99 %."""
_PURE = 0.95
"""Share of the flagged that carry the trigger for sure, from which on they are asked where their copies lie: samples
that only seem to carry one fit best wherever chance has it."""
_MANY_DENIED = 0.1
"""Share of a trigger's carriers that its detector may deny."""
_LOOKS_AT_ONE_PLACE = 3
"""How often classes with a trigger at the same place are looked at, the last time thoroughly. Each time fewer carriers
are left among the samples of others, but what looks a little like a carrier is gone from them too."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all detectors learn from, and how."""

    samples: Samples
    suspects: Sequence[Suspect]
    """All that is known of triggers."""
    is_honest: Tensor
    """bool (N,): samples that none of them flags. Others may carry one at the very place where a detector looks."""
    config: DirectMethodConfig
    seed: int

    @classmethod
    def of(cls, samples: Samples, suspects: Sequence[Suspect], config: DirectMethodConfig, seed: int) -> _Setting:
        return cls(samples, suspects, flagged_by_none(samples, suspects), config, seed)

    def knowing(self, kin: Sequence[Suspect], seen: Sequence[Suspect]) -> _Setting:
        """Return the same once some of the suspects have been looked at."""
        known = {id(suspect) for suspect in kin}
        others = (suspect for suspect in self.suspects if id(suspect) not in known)
        return _Setting.of(self.samples, [*others, *seen], self.config, self.seed)

    def others(self, label: int, most: int) -> Tensor:
        """Return honest samples of other classes, int64 (m,)."""
        return other_samples(self.samples, label, most, self.seed, among=self.is_honest)

    def view(self, suspect: Suspect) -> View:
        """Return what stage 3 saw of a suspect."""
        others = self.others(suspect.label, self.config.mixture.others)
        return suspect.level.view(suspect.members, others, suspect.label, suspect.window)


def train_detectors(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return the suspects as their detectors see them, and what hid behind them."""
    setting = _Setting.of(samples, suspects, config, seed)
    shared = _shared_readings(setting, suspects)
    jobs = _jobs(suspects, shared, config)

    def judge(job: list[int]) -> list[list[Suspect]]:
        give_back_freed()  # each window has its own size: what the last one's networks left would pile up
        some = [suspects[i] for i in job]
        if job[0] in shared:
            return [[seen] for seen in _judged_as_kin(setting, some, [shared[i] for i in job])]
        return [_judged_alone(setting, some[0])]

    judged = side_by_side(judge, jobs, device=samples.device, progress=progress)
    progress.advance(len(suspects) - len(jobs))
    found = {i: of_one for job, seen in zip(jobs, judged, strict=True) for i, of_one in zip(job, seen, strict=True)}
    in_order = (suspect for i in range(len(suspects)) for suspect in found[i])
    return [suspect for suspect in in_order if suspect.explains_enough(config)]


def _jobs(suspects: list[Suspect], shared: Mapping[int, Reading], config: DirectMethodConfig) -> list[list[int]]:
    """Return which suspects are seen by one network: those with a shared reading whose windows are laid out alike."""
    alike: dict[tuple[int | None, ...], list[int]] = {}
    for i, reading in shared.items():
        sight = Sight(suspects[i].members, suspects[i].members, reading, beyond=True)
        layout = sight.layout(config.detector)
        alike.setdefault((suspects[i].kin, *layout), []).append(i)
    return [*alike.values(), *([i] for i in range(len(suspects)) if i not in shared)]


def _judged_as_kin(setting: _Setting, kin: list[Suspect], readings: list[Reading]) -> list[Suspect]:
    """Return what one network sees of classes that share a trigger.

    Where it lies at the same place in all, the samples of other classes carry it too, and as long as nobody knows which
    they teach that it is nothing special.
    """
    quick, thorough = setting.config.detector, setting.config.detector.thorough(len(kin))
    informed, known = setting, kin
    for _ in range(_LOOKS_AT_ONE_PLACE - 1 if _lie_at_one_place(readings) else 0):
        seen = _seen_by_detector(informed, kin, readings, quick, others=thorough.thorough_others, beyond=True)
        if _doubt(*seen) < quick.doubt or joint_gain(seen) < joint_gain(known):
            break
        readings, informed, known = _read_anew(setting, seen, readings), setting.knowing(kin, seen), seen
    seen = _seen_by_detector(informed, kin, readings, thorough, others=thorough.thorough_others, beyond=True)
    return [
        one if suspect.is_common or one.gain >= _worth(suspect) else suspect
        for suspect, one in zip(kin, seen, strict=True)
    ]


def _lie_at_one_place(readings: list[Reading]) -> bool:
    """Return whether most of the triggers that classes share lie at the same pixels."""
    places = Counter(reading.planted.trigger.bbox for reading in readings)
    return 2 * places.most_common(1)[0][1] > len(readings)


def _read_anew(setting: _Setting, kin: list[Suspect], readings: list[Reading]) -> list[Reading]:
    """Return the trigger that kin share as they show it now, at the places where it was read before."""

    def read(suspect: Suspect) -> Suspect:
        if suspect.carriers < setting.config.mixture.min_carriers:
            return suspect
        return replace(suspect, planted=_read(suspect, setting.view(suspect), suspect.logits.sigmoid()).planted)

    anew = zip(kin, common_reading([read(suspect) for suspect in kin]), readings, strict=True)
    clear = ((one.gain, planted, before) for one, planted, before in anew if planted is not None)
    _, planted, before = max(clear, key=lambda found: found[0])
    top, left = before.planted.trigger.bbox[:2]

    def at_place_of(reading: Reading) -> Reading:
        row, column = reading.planted.trigger.bbox[:2]
        return Reading(PlantedTrigger(planted.trigger.moved(row - top, column - left), planted.blend_factor))

    return [at_place_of(reading) for reading in readings]


def _judged_alone(setting: _Setting, suspect: Suspect) -> list[Suspect]:
    """Return what detectors of its own see of a suspect, and what hid behind it."""
    view = setting.view(suspect)
    # What stage 3 looked for, and what the samples show that it found with that.
    readings = [Reading(suspect.planted), _read(suspect, view, suspect.logits.sigmoid())]
    best = _best_detector(setting, suspect, readings, view)
    if best.gain < _worth(suspect):
        return [suspect]
    denied = _denied(suspect, best, setting.config)
    if denied is None:
        return [best]
    readings = [_read(suspect, view, denied.float())]
    hidden = replace(suspect, kin=None, is_common=False, gain=0.0)
    return [best, _best_detector(setting, hidden, readings, view)]


def _best_detector(setting: _Setting, suspect: Suspect, readings: list[Reading], view: View) -> Suspect:
    """Return a suspect as the best of a few detectors sees it: for each reading, then for what the best one flags.

    Where one is in doubt, stray pixels of its reading may be why, and another looks without those that are not clear.
    Where the best is in doubt, a thorough one follows for the same trigger.
    """
    found: list[tuple[Suspect, Reading]] = []
    config = setting.config
    quick, thorough = config.detector, config.detector.thorough()
    background = suspect.background.permute(2, 0, 1)

    def seen_with(reading: Reading, learning: WindowDetectorConfig, others: int) -> Suspect:
        return _seen_by_detector(setting, [suspect], [reading], learning, others=others)[0]

    def look(reading: Reading) -> bool:
        is_news = not any(reading.shows_the_same_as(earlier) for _, earlier in found)
        if is_news:
            seen = seen_with(reading, quick, config.mixture.others)
            found.append((seen, reading))
            if _doubt(seen) >= quick.doubt:
                for part in CLEAR_PARTS:
                    look(replace(reading, planted=reading.planted.clearer(background, part)))
        return is_news

    def best() -> tuple[Suspect, Reading]:
        return max(found, key=lambda one: one[0].gain)

    for reading in readings:
        look(reading)
    for _ in range(quick.rounds):
        posterior = best()[0].logits.sigmoid()
        if posterior.sum() < config.mixture.min_carriers or not look(_read(suspect, view, posterior)):
            break
    seen, reading = best()
    return seen_with(reading, thorough, thorough.thorough_others) if _doubt(seen) >= quick.doubt else seen


def _denied(suspect: Suspect, seen: Suspect, config: DirectMethodConfig) -> Tensor | None:
    """Return the members that the mixture is sure of and the detector sure to deny, bool (n,); None if few are."""
    denied = (suspect.logits > _SURE) & (seen.logits < -_SURE)
    fewest = max(config.mixture.min_carriers, _MANY_DENIED * int((suspect.logits > 0).sum()))
    return denied if int(denied.sum()) >= fewest else None


def _worth(suspect: Suspect) -> float:
    """Return the log-likelihood (nats) that a detector must explain for its word to count.

    One that learned from few samples, or looks at a whole coarse image, may know less than the mixture.
    """
    return suspect.gain if suspect.level.is_coarse else suspect.gain / 2


def _shared_readings(setting: _Setting, suspects: list[Suspect]) -> dict[int, Reading]:
    """Return the trigger of each suspect whose kin show it together; not of those whose copies move."""
    shared: dict[int, Reading] = {}
    for kin in _kin(suspects):
        clearest = max((suspects[i] for i in kin), key=lambda suspect: suspect.gain)
        alone = _read(clearest, setting.view(clearest), clearest.logits.sigmoid())
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


def _doubt(*suspects: Suspect) -> float:
    """Return how many errors a detector expects of itself for each carrier that it expects."""
    posterior = torch.cat([suspect.logits for suspect in suspects]).sigmoid()
    return float(torch.minimum(posterior, 1 - posterior).sum() / posterior.sum().clamp_min(1e-9))


def _seen_by_detector(
    setting: _Setting,
    suspects: list[Suspect],
    readings: list[Reading],
    learning: WindowDetectorConfig,
    *,
    others: int,
    beyond: bool = False,
) -> list[Suspect]:
    """Return suspects of one size of images as one network sees them that learns from so many other samples."""
    sights = [
        Sight(suspect.members, setting.others(suspect.label, others), reading, beyond)
        for suspect, reading in zip(suspects, readings, strict=True)
    ]
    at_size = suspects[0].level.samples
    detectors = fit_window_detectors(at_size, sights, learning, generator=torch.Generator().manual_seed(setting.seed))
    return [
        replace(
            suspect,
            planted=sight.reading.planted,
            logits=detector.logits(at_size.images, sight.own),
            gain=detector.gain,
            trace=detector,
        )
        for suspect, sight, detector in zip(suspects, sights, detectors, strict=True)
    ]


def _read(suspect: Suspect, view: View, posterior: Tensor) -> Reading:
    weights = posterior.double().cpu().numpy()
    if suspect.purity < _PURE:
        return Reading(planted_trigger(view, weights))
    return read_trigger(view, suspect.level.samples.images, suspect.members, suspect.background, weights)
