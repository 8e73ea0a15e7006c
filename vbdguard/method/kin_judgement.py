"""Stage 4 of preset `default` where classes share a trigger: their carriers speak together.

A few dozen samples of one class prove little. A pattern of one class does not turn up at another place in other
classes, so what all that show it say counts for each (Stouffer's weighted test).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from scipy.stats import combine_pvalues

from vbdguard.config import DirectMethodConfig
from vbdguard.method.kin_reading import FEWEST_KIN
from vbdguard.method.label_check import NO_RATIO, Membership
from vbdguard.method.suspect import Suspect, joint_gain

log = logging.getLogger(__name__)

Judged = list[tuple[Suspect, Membership]]
"""Suspects, and whether their carriers belong to their class."""

_LEAST_GAIN, _SURE_GAIN, _MISFIT = 50.0, 100.0, 2.33
"""The log-likelihood (nats) that each class must explain, that which leaves no doubt, and the standard errors by which
carriers may lie on the side of members where there is doubt."""
_ALL_HEARD = 20
"""Classes from which on all that share a trigger are asked, however little each explains; once so many are proven, less
leaves no doubt."""
_DOUBT = 0.05
"""Largest p-value of a class that explains less than `_LEAST_GAIN` and is accused with others of the same trigger."""
_P_VALUES = 1e-300, 1 - 1e-9
"""What a p-value counts as at the ends: exactly 0 or 1 would outweigh all others together."""
_AS_CLEAR = 0.5
"""Part of the nats per carrier of strangers from which on another class carries the same."""


def together(judged: Judged, config: DirectMethodConfig, *, chances: int) -> Judged:
    """Return the judgement with classes that share a trigger judged together, where few samples prove nothing alone.

    A pattern of one class does not turn up at another place in other classes. If the carriers of all these classes are
    strangers taken together (Stouffer's weighted test), so are those of each, unless they clearly look like members.
    Where the trigger is there beyond doubt, they do so because they come from a class that looks the same. What more
    classes bear on samples that belong to them is none.
    """
    groups: dict[int, list[int]] = {}
    for i, (suspect, _) in enumerate(judged):
        if suspect.kin is not None:
            groups.setdefault(suspect.kin, []).append(i)
    result = list(judged)
    for group in groups.values():
        kin = _without_wrong_labels([judged[i] for i in group])
        p_value = _joint_p_value(_heard(kin))
        if p_value < config.label_check.significance / chances:
            kin = _without_doubt(_without_members(kin, p_value), p_value)
        for i, entry in zip(group, kin, strict=True):
            result[i] = entry
    return result


def _without_wrong_labels(kin: Judged) -> Judged:
    """Return kin with one or two strangers acquitted of what three classes bear as often, and as clearly, on members.

    It does not go with the label then: where samples of several classes are labelled wrongly, they bring to a class
    what is natural in theirs.
    """
    strangers = [(suspect, fit) for suspect, fit in kin if fit.is_stranger]
    if not 0 < _n_classes(strangers) < FEWEST_KIN:
        return kin
    often = max(_share(suspect, fit) for suspect, fit in strangers)
    clear = _AS_CLEAR * max(_clearness(suspect, fit) for suspect, fit in strangers)
    at_home = [
        (suspect, fit)
        for suspect, fit in kin
        if _is_of_members(fit) and _share(suspect, fit) >= often and _clearness(suspect, fit) >= clear
    ]
    if _n_classes(at_home) < FEWEST_KIN or _joint_gain(at_home) < _joint_gain(strangers):
        return kin
    log.info("a pattern of %d classes lies as often on members: no attack", _n_classes(at_home))
    return [(suspect, replace(fit, is_stranger=False)) for suspect, fit in kin]


def _share(suspect: Suspect, fit: Membership) -> float:
    """Return the share of its class that carries the trigger."""
    return fit.n_flagged / len(suspect.members)


def _heard(kin: Judged) -> Judged:
    """Return those who explain enough to have a say: what many classes show is no accident, however faint."""
    return kin if _n_classes(kin) >= _ALL_HEARD else [entry for entry in kin if entry[0].gain >= _LEAST_GAIN]


def _joint_p_value(kin: Judged) -> float:
    """Return the chance of so bad a fit if the carriers of all these classes were members; 1 if they look like it."""
    alone = [(suspect, fit) for suspect, fit in kin if fit.is_stranger]
    # One class with many carriers must not convict others, in which something innocent looks like its trigger.
    heard = kin if _n_classes(alone) >= FEWEST_KIN else [entry for entry in kin if not entry[1].is_stranger]
    # Something natural may look like the trigger, and lies on members; those that could not be asked know nothing.
    heard = [entry for entry in heard if entry[1].content is not NO_RATIO and not _is_of_members(entry[1])]
    if _n_classes(heard) < FEWEST_KIN:
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
        if not (fit.is_stranger or _is_of_members(fit)) and (suspect.gain >= _LEAST_GAIN or fit.p_value < _DOUBT)
        else (suspect, fit)
        for suspect, fit in kin
    ]


def _is_of_members(fit: Membership) -> bool:
    """Return whether carriers clearly look like members."""
    return fit.flagged - _MISFIT * fit.standard_error >= (fit.kept + fit.if_poisoned) / 2


def _is_typical(fit: Membership) -> bool:
    """Return whether carriers look more like members than the other samples of their class do."""
    return fit.flagged - fit.standard_error >= fit.kept


def _without_doubt(kin: Judged, p_value: float) -> Judged:
    """Return as strangers also those that carry what three strangers or more carry, as clearly as they do.

    They may come from a class that looks the same. What is natural looks more like its class than most of it does.
    """
    strangers = [(suspect, fit) for suspect, fit in kin if fit.is_stranger]
    if _n_classes(strangers) < FEWEST_KIN:
        return kin
    enough = _LEAST_GAIN if _n_classes(strangers) >= _ALL_HEARD else _SURE_GAIN
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


def _joint_gain(judged: Judged) -> float:
    return joint_gain(suspect for suspect, _ in judged)


def _n_classes(judged: Judged) -> int:
    return len({suspect.label for suspect, _ in judged})
