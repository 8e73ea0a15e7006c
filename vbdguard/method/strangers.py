"""Stage 4 of preset `default` over all suspects: those whose carriers do not belong to their class."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import combine_pvalues
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.blind_models import BlindModels, blind_fits
from vbdguard.method.cross_section import contents, cross_section, natural_distances
from vbdguard.method.label_check import NO_RATIO, Membership, membership
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.progress import Progress

log = logging.getLogger(__name__)

Judged = list[tuple[Suspect, Membership]]
"""Suspects, and whether their carriers belong to their class."""

_SHARP_GAIN, _SHARP_BOUNDARY, _SHARP_SIGNIFICANCE = 8.0, 2 / 3, 0.01
"""A trigger that explains so many nats per carrier is surely pasted; only a mark of the class could be as sharp. Then
less says that its carriers are strangers: on small sets the models that see no trigger know little."""
_MOST, _SURE = 0.5, 2.0
"""Share of a class from which on its kept samples do not speak for it, and the log-odds that sure carriers have."""
_HARDLY = 0.1
"""Posterior above which a sample is kept from models that must not learn a trigger."""


_FEWEST_KIN, _KIN_GAIN, _SURE_KIN_GAIN, _KIN_MISFIT = 3, 50.0, 100.0, 2.33
"""How many classes that share a trigger are judged together, the log-likelihood (nats) that each must explain, that
which leaves no doubt, and the standard errors by which carriers may lie on the side of members where there is doubt."""
_MANY_KIN = 20
"""Classes from which on all that share a trigger are asked, however little each explains; once so many are proven, less
leaves no doubt."""
_KIN_DOUBT = 0.05
"""Largest p-value of a class that explains less than that and is accused with others of the same trigger."""
_P_VALUES = 1e-300, 1 - 1e-9
"""What a p-value counts as at the ends: exactly 0 or 1 would outweigh all others together."""
_AS_CLEAR = 0.5
"""Part of the nats per carrier of proven classes from which on another class carries the same."""


@dataclass(frozen=True, slots=True)
class Blind:
    """What models that see no trigger say of every sample."""

    fits: Mapping[int, NDArray[np.float64]]
    """For each label that is suspect, the log-probability of that label, (N,)."""
    models: Mapping[int, BlindModels]
    """For each of these labels, which models said so."""
    likeliest: Tensor
    """int64 (N, 2): the two likeliest labels of samples that bear a suspect label."""

    def updated(self, newer: Blind, labels: Tensor, keep: Set[int]) -> Blind:
        """Return this with what newer models say of other labels than those to keep; labels are int64 (N,).

        The models of the round in which a class was accused could not see its trigger; newer ones can.
        """
        fits = {label: fit for label, fit in newer.fits.items() if label not in keep}
        is_new = torch.isin(labels, labels.new_tensor(list(fits)))
        models = {label: newer.models[label] for label in fits}
        likeliest = torch.where(is_new[:, None], newer.likeliest, self.likeliest)
        return Blind({**self.fits, **fits}, {**self.models, **models}, likeliest)


@dataclass(frozen=True, slots=True)
class Belonging:
    """Whose carriers belong to their class, and whose do not."""

    strangers: list[Suspect]
    """With those that may show the same trigger."""
    artefacts: list[Suspect]
    """What is surely pasted, on samples that clearly belong to their class."""
    blind: Blind
    """What models without triggers see."""


def find_strangers(
    samples: Samples, suspects: list[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> Belonging:
    """Return the suspects whose carriers do not belong to their class, and those whose carriers surely do.

    Only so much of an image can be painted over. The suspects that explain most come first; where some found no room,
    another round follows for them.
    """
    found: Judged = []
    waiting = _by_weight(suspects)
    blind = Blind({}, {}, samples.labels.new_zeros(len(samples), 2))
    for _ in range(config.label_check.rounds):
        if not waiting:
            break
        shown, waiting = _with_room(waiting, config)
        strangers = [suspect for suspect, fit in found if fit.is_stranger]
        newer = _look_without_triggers(samples, shown, strangers, config, seed, progress)
        blind = blind.updated(newer, samples.labels, keep={suspect.label for suspect in strangers})
        found += memberships(samples, shown, strangers, newer, config, chances=len(suspects))
        found = together(found, config, chances=len(suspects))
    for suspect in waiting:
        log.info("class %d: a pattern of %d pixels was not looked into", suspect.label, int(suspect.extent.sum()))
    for suspect, fit in found:
        log.info("class %d: %s", suspect.label, _words(suspect, fit))
    return Belonging(_strangers_and_kin(found), _artefacts(found), blind)


def _strangers_and_kin(judged: Judged) -> list[Suspect]:
    """Return the strangers, and what shows a proven trigger of three classes or more elsewhere.

    Detectors tell better who carries it; then these are judged once more.
    """
    classes: dict[int | None, set[int]] = {}
    for suspect, fit in judged:
        if fit.is_stranger:
            classes.setdefault(suspect.kin, set()).add(suspect.label)
    proven = {kin: labels for kin, labels in classes.items() if kin is not None and len(labels) >= _FEWEST_KIN}
    chosen = [suspect for suspect, fit in judged if fit.is_stranger]
    for suspect, fit in sorted(judged, key=lambda entry: -entry[0].gain):
        if not fit.is_stranger and suspect.kin in proven and suspect.label not in proven[suspect.kin]:
            proven[suspect.kin].add(suspect.label)  # the clearest of a class is enough
            chosen.append(suspect)
    return chosen


def _by_weight(suspects: list[Suspect]) -> list[Suspect]:
    """Return the suspects with what explains most first; a trigger that classes share counts for all of them."""
    together: dict[int, float] = {}
    for suspect in suspects:
        if suspect.kin is not None:
            together[suspect.kin] = together.get(suspect.kin, 0.0) + suspect.gain
    weight = {id(suspect): together.get(suspect.kin, 0.0) if suspect.kin is not None else 0.0 for suspect in suspects}
    return sorted(suspects, key=lambda suspect: (-max(weight[id(suspect)], suspect.gain), -suspect.gain))


def _artefacts(judged: Judged) -> list[Suspect]:
    """Return what is surely pasted, and clearly on members, unless it is a trigger of other classes."""
    attacks = {suspect.kin for suspect, fit in judged if fit.is_stranger} - {None}
    return [
        suspect
        for suspect, fit in judged
        if not fit.is_stranger
        and fit.is_clearly_of_members(_SHARP_BOUNDARY)
        and suspect.is_sharp(_SHARP_GAIN)
        and not (suspect.is_wide or suspect.level.is_coarse or suspect.kin in attacks)
    ]


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
) -> Blind:
    """Return what models see that learn from no carrier of the strangers, nor of what is not painted over."""
    labels = sorted({suspect.label for suspect in suspects})
    masks = [suspect.extent for suspect in suspects if suspect.is_painted]
    is_hidden = torch.zeros_like(samples.labels, dtype=torch.bool)
    for suspect in (*strangers, *(suspect for suspect in suspects if not suspect.is_painted)):
        is_hidden[suspect.members] |= suspect.logits.sigmoid() > _HARDLY
    fits = blind_fits(samples, masks, labels, is_hidden, config.label_check, seed=seed, progress=progress)
    columns = fits.log_probability.double().cpu().numpy()
    by_label = {label: columns[:, i] for i, label in enumerate(labels)}
    return Blind(by_label, dict.fromkeys(labels, fits.models), fits.likeliest)


def memberships(
    samples: Samples,
    suspects: list[Suspect],
    strangers: list[Suspect],
    blind: Blind,
    config: DirectMethodConfig,
    *,
    chances: int,
) -> Judged:
    """Return for each suspect whether the samples that carry its trigger belong to their class.

    Args:
        samples: the training set.
        suspects: those asked for.
        strangers: others whose carriers are no honest samples either.
        blind: what models without their triggers see.
        config: all settings.
        chances: how many suspects might be accused by accident.
    """
    labels = samples.labels.cpu().numpy()
    flagged = [suspect.flagged_among(len(samples)) for suspect in suspects]
    is_kept = ~np.any([*flagged, *(stranger.flagged_among(len(samples)) for stranger in strangers)], axis=0)
    sharp = sum(suspect.is_sharp(_SHARP_GAIN) for suspect in suspects)
    judged = []
    for suspect, is_flagged in zip(suspects, flagged, strict=True):
        if is_flagged.sum() < config.mixture.min_carriers:
            continue
        is_sharp = suspect.is_sharp(_SHARP_GAIN) and not suspect.is_wide
        fit = membership(
            blind.fits[suspect.label],
            labels == suspect.label,
            is_flagged,
            is_kept,
            purity=suspect.purity,
            own_share=1 / samples.n_classes,
            # As many chances for an accident as there are suspects of a kind (Bonferroni).
            significance=_SHARP_SIGNIFICANCE / sharp if is_sharp else config.label_check.significance / chances,
            boundary=_SHARP_BOUNDARY if is_sharp else 0.5,
        )
        judged.append((suspect, fit))
    return _with_cross_sections(samples, judged, is_kept, blind, config)


def _with_cross_sections(
    samples: Samples, judged: Judged, is_kept: NDArray[np.bool_], blind: Blind, config: DirectMethodConfig
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
        painting = blind.models[suspect.label].painting
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


def together(judged: Judged, config: DirectMethodConfig, *, chances: int) -> Judged:
    """Return the judgement with classes that share a trigger judged together, where few samples prove nothing alone.

    A pattern of one class does not turn up at another place in other classes. If the carriers of all these classes are
    strangers taken together (Stouffer's weighted test), so are those of each, unless they clearly look like members.
    Where the trigger is there beyond doubt, they do so because they come from a class that looks the same.
    """
    groups: dict[int, list[int]] = {}
    for i, (suspect, _) in enumerate(judged):
        if suspect.kin is not None:
            groups.setdefault(suspect.kin, []).append(i)
    result = list(judged)
    for group in groups.values():
        p_value = _joint_p_value(_heard([judged[i] for i in group]))
        if p_value < config.label_check.significance / chances:
            kin = _without_doubt(_without_members([judged[i] for i in group], p_value), p_value)
            for i, entry in zip(group, kin, strict=True):
                result[i] = entry
    return result


def _heard(kin: Judged) -> Judged:
    """Return those who explain enough to have a say: what many classes show is no accident, however faint."""
    return kin if _n_classes(kin) >= _MANY_KIN else [entry for entry in kin if entry[0].gain >= _KIN_GAIN]


def _joint_p_value(kin: Judged) -> float:
    """Return the chance of so bad a fit if the carriers of all these classes were members; 1 if they look like it."""
    alone = [(suspect, fit) for suspect, fit in kin if fit.is_stranger]
    # One class with many carriers must not convict others, in which something innocent looks like its trigger.
    heard = kin if _n_classes(alone) >= _FEWEST_KIN else [entry for entry in kin if not entry[1].is_stranger]
    # Something natural may look like the trigger, and lies on members; those that could not be asked know nothing.
    heard = [entry for entry in heard if entry[1].content is not NO_RATIO and not _is_of_members(entry[1])]
    if _n_classes(heard) < _FEWEST_KIN:
        return 1.0
    fits = [fit for _, fit in heard]
    counts = np.array([fit.n_flagged for fit in fits], dtype=np.float64)
    p_value = float(
        combine_pvalues(np.clip([fit.p_value for fit in fits], *_P_VALUES), "stouffer", np.sqrt(counts)).pvalue
    )
    missing = counts @ [fit.kept - fit.flagged for fit in fits]
    expected = counts @ [fit.kept - fit.if_poisoned for fit in fits]
    log.info("trigger of %d classes: misfit %.2f of what poison has, p %.2g", len(fits), missing / expected, p_value)
    return p_value if missing > expected / 2 else 1.0


def _without_members(kin: Judged, p_value: float) -> Judged:
    """Return kin of a proven trigger as strangers, but those whose carriers clearly look like members.

    One that explains little must be likely to be a stranger by itself.
    """
    return [
        (suspect, replace(fit, is_stranger=True, p_value=p_value))
        if not (fit.is_stranger or _is_of_members(fit)) and (suspect.gain >= _KIN_GAIN or fit.p_value < _KIN_DOUBT)
        else (suspect, fit)
        for suspect, fit in kin
    ]


def _is_of_members(fit: Membership) -> bool:
    """Return whether carriers clearly look like members."""
    return fit.flagged - _KIN_MISFIT * fit.standard_error >= (fit.kept + fit.if_poisoned) / 2


def _is_typical(fit: Membership) -> bool:
    """Return whether carriers look more like members than the other samples of their class do."""
    return fit.flagged - fit.standard_error >= fit.kept


def _without_doubt(kin: Judged, p_value: float) -> Judged:
    """Return as strangers also those that carry what three strangers or more carry, as clearly as they do.

    They may come from a class that looks the same. What is natural looks more like its class than most of it does.
    """
    strangers = [(suspect, fit) for suspect, fit in kin if fit.is_stranger]
    if _n_classes(strangers) < _FEWEST_KIN:
        return kin
    enough = _KIN_GAIN if _n_classes(strangers) >= _MANY_KIN else _SURE_KIN_GAIN
    clear = _AS_CLEAR * float(np.median([_clearness(suspect, fit) for suspect, fit in strangers]))
    accused = {suspect.label for suspect, _ in strangers}  # what looks like it elsewhere in these is another thing
    return [
        (suspect, fit)
        if suspect.label in accused or suspect.gain < enough or _clearness(suspect, fit) < clear or _is_typical(fit)
        else (suspect, replace(fit, is_stranger=True, p_value=p_value))
        for suspect, fit in kin
    ]


def _clearness(suspect: Suspect, fit: Membership) -> float:
    """Return the log-likelihood (nats) that a trigger explains for each of its carriers."""
    return suspect.gain / fit.n_flagged


def _n_classes(judged: Judged) -> int:
    return len({suspect.label for suspect, _ in judged})


def _words(suspect: Suspect, fit: Membership) -> str:
    covers = f"{int(suspect.extent.sum())} pixels{'' if suspect.is_painted else ', not painted over'}"
    kin = "" if suspect.kin is None else f", trigger {suspect.kin}"
    return (
        f"{covers}{kin}, gain {suspect.gain:.0f}, {fit.n_flagged} flagged ({suspect.purity:.2f} pure), "
        f"membership {fit.flagged:.2f} +- {fit.standard_error:.2f} "
        f"(kept {fit.kept:.2f}, if poisoned {fit.if_poisoned:.2f}), p {fit.p_value:.2g}"
        f"{': strangers' if fit.is_stranger else ''}"
    )
