"""Stage 4 of preset `default` over all suspects: those whose carriers do not belong to their class."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vbdguard.config import DirectMethodConfig
from vbdguard.method.blind_models import LEAST_CONTRAST, BlindFits, blind_fits
from vbdguard.method.cross_section import contents, cross_section, natural_distances
from vbdguard.method.extent import shown_whole
from vbdguard.method.kin_judgement import Judged, together
from vbdguard.method.kin_reading import FEWEST_KIN
from vbdguard.method.label_check import Membership, membership
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect, flagged_by_none
from vbdguard.progress import Progress

log = logging.getLogger(__name__)

_SHARP_GAIN, _SHARP_BOUNDARY, _SHARP_SIGNIFICANCE = 8.0, 2 / 3, 0.01
"""A trigger that explains so many nats per carrier is surely pasted; only a mark of the class could be as sharp. Then
less says that its carriers are strangers: on small sets the models that see no trigger know little."""
_MOST, _SURE = 0.5, 2.0
"""Share of a class from which on its kept samples do not speak for it, and the log-odds that sure carriers have."""
_MOST_BOUNDARY = 0.25
"""Part of the way from strangers to members that such carriers may lie at where models are kept from them: whoever
learns a class from its smaller part finds the larger one strange in any case."""
_HARDLY = 0.1
"""Posterior above which a sample is kept from models that must not learn a trigger."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """Whose carriers belong to their class, and whose do not."""

    strangers: list[Suspect]
    """With those that may show the same trigger."""
    artefacts: list[Suspect]
    """What is surely pasted, on samples of which nothing says that they do not belong to their class."""


def find_strangers(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> Belonging:
    """Return the suspects whose carriers do not belong to their class, and those whose carriers surely do.

    Only so much of an image can be painted over. The suspects that explain most come first; where some found no room,
    another round follows for them, and as many as it takes for those that explain much.
    """
    alone: Judged = []
    found: Judged = []
    weights = _weights(suspects)
    waiting = sorted(suspects, key=lambda suspect: (-weights[id(suspect)], -suspect.gain))
    rounds = 0
    while waiting and (rounds < config.label_check.rounds or _is_any_clear(waiting, config)):
        rounds += 1
        shown, waiting = _with_room(waiting, config)
        strangers = [suspect for suspect, fit in found if fit.is_stranger]
        fits = _look_without_triggers(samples, shown, strangers, config, seed, progress)
        seen = [replace(suspect, blind=fits) for suspect in shown]
        alone += memberships(samples, seen, strangers, config, among=suspects)
        found = together(alone, config, chances=len(suspects))
    for suspect in waiting:
        log.info("class %d: a pattern of %d pixels was not looked into", suspect.label, int(suspect.extent.sum()))
    for suspect, fit in found:
        log.info("class %d: %s", suspect.label, _words(suspect, fit))
    return Belonging(_strangers_and_kin(found), _artefacts(found))


def _strangers_and_kin(judged: Judged) -> list[Suspect]:
    """Return the strangers, and what shows a proven trigger of three classes or more elsewhere.

    Detectors tell better who carries it; then these are judged once more.
    """
    classes: dict[int | None, set[int]] = {}
    for suspect, fit in judged:
        if fit.is_stranger:
            classes.setdefault(suspect.kin, set()).add(suspect.label)
    proven = {kin: labels for kin, labels in classes.items() if kin is not None and len(labels) >= FEWEST_KIN}
    chosen = [suspect for suspect, fit in judged if fit.is_stranger]
    for suspect, fit in sorted(judged, key=lambda entry: -entry[0].gain):
        if not fit.is_stranger and suspect.kin in proven and suspect.label not in proven[suspect.kin]:
            proven[suspect.kin].add(suspect.label)  # the clearest of a class is enough
            chosen.append(suspect)
    return chosen


def _is_any_clear(waiting: list[Suspect], config: DirectMethodConfig) -> bool:
    """Return whether one of them explains so much by itself that it must be looked into."""
    return any(suspect.gain >= config.label_check.clear_gain for suspect in waiting)


def _weights(suspects: list[Suspect]) -> dict[int, float]:
    """Return what each suspect explains (nats), by its id; a trigger that classes share counts for all of them."""
    of_kin: dict[int | None, float] = {}
    for suspect in suspects:
        of_kin[suspect.kin] = of_kin.get(suspect.kin, 0.0) + suspect.gain
    return {id(one): one.gain if one.kin is None else max(one.gain, of_kin[one.kin]) for one in suspects}


def _artefacts(judged: Judged) -> list[Suspect]:
    """Return what is surely pasted on samples that are no strangers, unless it is a trigger of other classes.

    They are clearly members, or nobody can say: of few samples, models learn too little to tell them apart, and below a
    picture that hides all there is nothing to tell. What most of a class bears may be natural.
    """
    attacks = {suspect.kin for suspect, fit in judged if fit.is_stranger} - {None}
    marks = [
        suspect
        for suspect, fit in judged
        if not fit.is_stranger
        and (fit.is_clearly_of_members(_SHARP_BOUNDARY) or fit.n_flagged <= _MOST * len(suspect.members))
        and _is_sharp(suspect)
        and not (suspect.level.is_coarse or suspect.kin in attacks)
    ]
    return marks + [shown_whole(suspect) for suspect, _ in judged if _hides_all(suspect)]


def _hides_all(suspect: Suspect) -> bool:
    """Return whether nothing can be seen below it."""
    return suspect.left_below < LEAST_CONTRAST


def _is_sharp(suspect: Suspect) -> bool:
    """Return whether it is surely pasted and small."""
    return suspect.is_sharp(_SHARP_GAIN) and not suspect.is_wide


def _with_room(waiting: list[Suspect], config: DirectMethodConfig) -> tuple[list[Suspect], list[Suspect]]:
    """Return the suspects that can be painted over together, at least one, and those that cannot.

    A trigger that is not painted over (see `blind_models`) needs no room.
    """
    chosen: list[Suspect] = []
    left: list[Suspect] = []
    union = torch.zeros_like(waiting[0].extent)
    for suspect in waiting:
        wider = union | suspect.extent if suspect.is_painted else union
        if chosen and float(wider.float().mean()) > config.label_check.max_blanked:
            left.append(suspect)
        else:
            union = wider
            chosen.append(suspect)
    return chosen, left


def _look_without_triggers(
    samples: Samples,
    suspects: list[Suspect],
    strangers: list[Suspect],
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> BlindFits:
    """Return what models see that learn from no carrier of the strangers, nor of what is not painted over."""
    labels = sorted({suspect.label for suspect in suspects})
    masks = [suspect.extent for suspect in suspects if suspect.is_painted]
    is_hidden = torch.zeros_like(samples.labels, dtype=torch.bool)
    for suspect in (*strangers, *(suspect for suspect in suspects if not suspect.is_painted)):
        is_hidden[suspect.members] |= suspect.logits.sigmoid() > _HARDLY
    faded = [one.members[one.logits > 0] for one in suspects if one.left_below < 1 and not _hides_all(one)]
    return blind_fits(samples, masks, labels, is_hidden, config.label_check, faded=faded, seed=seed, progress=progress)


def memberships(
    samples: Samples,
    suspects: list[Suspect],
    strangers: list[Suspect],
    config: DirectMethodConfig,
    *,
    among: list[Suspect],
) -> Judged:
    """Return for each suspect whether the samples that carry its trigger belong to their class.

    Args:
        samples: the training set.
        suspects: those asked for; models that cannot see their triggers have looked.
        strangers: others whose carriers are no honest samples either.
        config: all settings.
        among: all suspects that are left at this stage, any of which might be accused by accident.
    """
    labels = samples.labels.cpu().numpy()
    flagged = [suspect.flagged_among(len(samples)) for suspect in suspects]
    is_kept = flagged_by_none(samples, [*suspects, *strangers]).cpu().numpy()
    sharp = sum(_is_sharp(suspect) for suspect in among)
    judged = []
    for suspect, is_flagged in zip(suspects, flagged, strict=True):
        if is_flagged.sum() < config.mixture.min_carriers:
            continue
        is_sharp = _is_sharp(suspect)
        is_unlearned = not suspect.is_painted and is_flagged.sum() > _MOST * len(suspect.members)
        fit = membership(
            suspect.fits.fit(suspect.label).double().cpu().numpy(),
            labels == suspect.label,
            is_flagged,
            is_kept,
            purity=suspect.purity,
            own_share=1 / samples.n_classes,
            # As many chances for an accident as there are suspects of a kind (Bonferroni).
            significance=_SHARP_SIGNIFICANCE / sharp if is_sharp else config.label_check.significance / len(among),
            boundary=_MOST_BOUNDARY if is_unlearned else _SHARP_BOUNDARY if is_sharp else 0.5,
        )
        judged.append((suspect, replace(fit, is_stranger=False) if _hides_all(suspect) else fit))
    return _with_cross_sections(samples, judged, is_kept, config)


def _with_cross_sections(
    samples: Samples, judged: Judged, is_kept: NDArray[np.bool_], config: DirectMethodConfig
) -> Judged:
    """Return the judgement with those as strangers who are most of their class and drawn from all classes.

    The kept samples of such a class cannot speak for it: they are few, and many of them may be poison that was missed.
    """
    counts = samples.labels.bincount(minlength=samples.n_classes).tolist()
    most = {i for i, (suspect, fit) in enumerate(judged) if fit.n_flagged > _MOST * counts[suspect.label]}
    asked = [i for i in most if judged[i][0].is_painted and not judged[i][1].is_stranger]
    natural = set(range(samples.n_classes)) - {judged[i][0].label for i in most}
    labels = samples.labels.cpu().numpy()
    by_painting: dict[int, tuple[NDArray[np.float64], list[float]]] = {}
    result = list(judged)
    for i in asked:
        suspect, fit = judged[i]
        painting = suspect.fits.models.painting
        if id(painting) not in by_painting:
            content = contents(painting(samples.images))
            by_painting[id(painting)] = content, natural_distances(content, labels, is_kept, natural)
        content, distances = by_painting[id(painting)]
        others = np.flatnonzero(is_kept & (labels != suspect.label))
        section = cross_section(
            content[suspect.members[suspect.logits > _SURE].cpu().numpy()],
            content[others[suspect.would_be_sure(samples.images, others, _SURE)]],
            distances,
            significance=config.label_check.significance / len(asked),
        )
        if section is not None:
            log.info("class %d: most of it carries a trigger, %s", suspect.label, section)
            if section.is_drawn_from_all:
                result[i] = suspect, replace(fit, is_stranger=True, p_value=section.p_value)
    return result


def _words(suspect: Suspect, fit: Membership) -> str:
    covers = f"{int(suspect.extent.sum())} pixels{'' if suspect.is_painted else ', not painted over'}"
    kin = "" if suspect.kin is None else f", trigger {suspect.kin}"
    return (
        f"{covers}{kin}, gain {suspect.gain:.0f}, {fit.n_flagged} flagged ({suspect.purity:.2f} pure), "
        f"membership {fit.flagged:.2f} +- {fit.standard_error:.2f} "
        f"(kept {fit.kept:.2f}, if poisoned {fit.if_poisoned:.2f}), p {fit.p_value:.2g}"
        f"{': strangers' if fit.is_stranger else ''}"
    )
