"""Stages 2 and 3 of preset `default` over all classes: every trigger that some class may carry.

The images are looked at as they are, where small patches stand out, and coarse, where whole pictures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vbdguard.config import DirectMethodConfig
from vbdguard.method.common_trigger import MANY_CLASSES, Expected, Template, common_templates, expected_elsewhere
from vbdguard.method.extent import with_extent
from vbdguard.method.kin_reading import FEWEST_KIN
from vbdguard.method.level import Level
from vbdguard.method.mirrored import find_in_all_classes
from vbdguard.method.mixture import fit_mixture, known_mixture
from vbdguard.method.rare_detail import RareDetail
from vbdguard.method.repeated_pattern import repeated_patterns
from vbdguard.method.samples import Samples, other_samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger_search import search
from vbdguard.method.window import Window, window_at
from vbdguard.progress import Progress

LOOKS = 4
"""How often each class is looked at, at most: where it is odd, and thrice where it may show what others show."""
_SAME_PLACE = 3
"""Pixels by which two windows may differ and still show the same thing."""
_NEWS = 0.5
"""Share of a further trigger's carriers that no earlier trigger of the class explains, at least."""
_WIDE_GAIN = 1000.0
"""The same in all where a trigger is wide. Its carriers are kept from the models, unless it is opaque, and natural
samples of a kind that a model never saw look like strangers to it; natural looks gained up to 560."""
_COMMON_GAIN = 200.0
"""Log-likelihood (nats), of all classes that show it, from which on a trigger is looked for in all others."""
_FEWEST_SEARCHED = 5
"""Classes that must show a trigger, and half of all up to `MANY_CLASSES`, for a detector to look for it: natural
patterns of ten classes are shown by two at most."""
_MUCH_MORE = 2.0
"""Times the log-likelihood of what a detector finds, from which on what a class alone shows is another thing. Where it
was the same trigger it explained 0.8 to 1.3 times as much."""
_CLEAR_GAIN, _CLEAR_EACH = 100.0, 1.0
"""Log-likelihood (nats) of a trigger whose place is beyond doubt, in all and for each of its carriers."""


def find_suspect_triggers(
    samples: Samples, levels: list[Level], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return what each class seems to carry; progress gets `LOOKS` steps for each class."""

    def at_odd_places(label: int) -> list[Suspect]:
        found: list[Suspect] = []
        for level in levels:
            seen: dict[bool, list[Window]] = {True: [], False: []}
            for place in level.places.get(label, ()):
                window = window_at(place.row, place.column, level.side, level.samples.image_shape[:2])
                # What many show at a place tells nothing of what few show there.
                alike = seen[place.is_rare]
                if not level.is_coarse and any(window.overlaps(earlier, _SAME_PLACE) for earlier in alike):
                    continue
                rare = level.rare if place.is_rare else None
                suspect = _suspect_at(samples, level, label, window, config, seed, rare=rare)
                if suspect is not None:
                    alike.append(window)
                    found.append(suspect)
        return found

    by_class = side_by_side(at_odd_places, range(samples.n_classes), device=samples.device, progress=progress)
    for label, alike in find_in_all_classes(levels[0], config).items():
        by_class[label] = _distinct([*by_class[label], *alike])
    repeated = _repeated(levels[0], config)
    templates = _shared_templates(by_class, repeated)
    by_class = _with_those_elsewhere(samples, levels[0], by_class, templates, config, seed, progress)
    # What the first look found shows a trigger that classes share better to a second.
    shared = [template for template in _shared_templates(by_class, repeated) if len(template.labels) >= FEWEST_KIN]
    if shared:
        by_class = _with_those_elsewhere(samples, levels[0], by_class, shared, config, seed, progress)
        templates = _shared_templates(by_class, repeated)
        by_class = _with_those_searched_for(samples, by_class, templates, config, seed, progress)
    else:
        progress.advance(2 * samples.n_classes)

    def whole(label: int) -> list[Suspect]:
        whole = (_with_kin(with_extent(suspect, config), templates) for suspect in by_class[label])
        return [suspect for suspect in whole if not suspect.is_wide or suspect.gain >= _WIDE_GAIN]

    found = side_by_side(whole, range(samples.n_classes), device=samples.device)
    return [suspect for of_one in found for suspect in of_one]


def _with_those_elsewhere(
    samples: Samples,
    level: Level,
    by_class: list[list[Suspect]],
    templates: list[Template],
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> list[list[Suspect]]:
    """Return the suspects of each class, and those that show one of the templates at another place."""
    expected = expected_elsewhere(templates, level)

    def of_class(label: int) -> list[Suspect]:
        found = list(by_class[label])
        for place in expected.get(label, ()):
            suspect = _suspect_at(samples, level, label, place.window, config, seed, place)
            found += [] if suspect is None else [suspect]
        return _distinct(found)

    return side_by_side(of_class, range(samples.n_classes), device=samples.device, progress=progress)


def _with_those_searched_for(
    samples: Samples,
    by_class: list[list[Suspect]],
    templates: list[Template],
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> list[list[Suspect]]:
    """Return the suspects of each class, and where a detector finds the template that most classes show.

    It is asked where many show it, and not all of them clearly.
    """
    shown = [(suspect, _template(suspect)) for of_one in by_class for suspect in of_one if not suspect.level.is_coarse]
    alike = ([suspect for suspect, own in shown if own.is_like(template)] for template in templates)
    kin = max(alike, key=lambda kin: len({suspect.label for suspect in kin}), default=[])
    many = min(MANY_CLASSES, max(_FEWEST_SEARCHED, samples.n_classes // 2))
    clear = {one.label for one in kin if one.gain >= _CLEAR_GAIN and one.is_sharp(_CLEAR_EACH)}
    if len({suspect.label for suspect in kin}) < many or len(clear) == samples.n_classes:
        progress.advance(samples.n_classes)
        return by_class
    found = {suspect.label: suspect for suspect in search(samples, kin, config, seed, progress)}
    known = {id(suspect) for suspect in kin}

    def with_found(label: int) -> list[Suspect]:
        if label not in found:
            return by_class[label]
        # What a class alone made of these samples need not look like the trigger, and nobody would know it for kin.
        others = [
            suspect
            for suspect in by_class[label]
            if id(suspect) in known
            or suspect.gain > _MUCH_MORE * found[label].gain
            or _explained(suspect, found[label]) < 1 - _NEWS
        ]
        return _distinct([*others, found[label]])

    return [with_found(label) for label in range(samples.n_classes)]


def _suspect_at(
    samples: Samples,
    level: Level,
    label: int,
    window: Window,
    config: DirectMethodConfig,
    seed: int,
    expected: Expected | None = None,
    *,
    rare: RareDetail | None = None,
) -> Suspect | None:
    """Return what a class carries at a place, if it explains enough; `fit_mixture` says what it may begin with."""
    own = samples.members(label)
    if len(own) < config.mixture.min_carriers:
        return None
    view = level.view(own, other_samples(samples, label, config.mixture.others, seed), label, window)
    if expected is not None and expected.is_common:
        known = Suspect.of(label, own, level, known_mixture(view, expected.shift))
        known = replace(known, is_common=True)
        return known if known.explains_enough(config) else None
    mixture = fit_mixture(view, config.mixture, None if expected is None else expected.shift, rare=rare)
    if mixture is None or mixture.gain < level.least_gain(len(own), float(mixture.posterior.sum()), config):
        return None
    return Suspect.of(label, own, level, mixture)


def _shared_templates(by_class: list[list[Suspect]], repeated: Sequence[Template] = ()) -> list[Template]:
    """Return what one suspect shows clearly, or several together, or the classes' mean images."""
    suspects = (suspect for of_one in by_class for suspect in of_one)
    shown = [_template(suspect) for suspect in suspects if not suspect.level.is_coarse]
    return common_templates([*shown, *repeated], _COMMON_GAIN)


def _repeated(level: Level, config: DirectMethodConfig) -> list[Template]:
    contrasts, counts = level.means.against_others(), level.means.counts
    return repeated_patterns(contrasts, counts, config.contrast.side, level.natural_share)


def _template(suspect: Suspect) -> Template:
    return Template.of(suspect.planted, suspect.background, suspect.carriers, suspect.gain, suspect.label)


def _with_kin(suspect: Suspect, templates: list[Template]) -> Suspect:
    if suspect.level.is_coarse:
        return suspect
    own = _template(suspect)
    alike = (i for i, template in enumerate(templates) if own.is_like(template))
    return replace(suspect, kin=next(alike, None))


def _distinct(suspects: list[Suspect]) -> list[Suspect]:
    """Return the suspects of one class that each explain samples which those with more gain do not."""
    chosen: list[Suspect] = []
    for suspect in sorted(suspects, key=lambda found: -found.gain):
        if all(_explained(suspect, earlier) < 1 - _NEWS for earlier in chosen):
            chosen.append(suspect)
    return chosen


def _explained(suspect: Suspect, by: Suspect) -> float:
    """Return the share of a suspect's carriers that carry another trigger as well; 1 for itself, however faint."""
    posterior = suspect.logits.sigmoid()
    return float((posterior * by.logits.sigmoid()).sum() / posterior.square().sum())
