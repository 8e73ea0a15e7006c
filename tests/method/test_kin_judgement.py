"""Classes that share a trigger, judged together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbdguard.config import DirectMethodConfig
from vbdguard.method.kin_judgement import together
from vbdguard.method.label_check import NO_RATIO, ContentRatio, Membership
from vbdguard.method.level import image_levels
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

CONFIG = DirectMethodConfig()
RATIO = ContentRatio(np.array([0.5]), np.array([-1.0, 1.0]))


@pytest.fixture(scope="module")
def suspect() -> Suspect:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 8, 8, 3), dtype=torch.uint8, generator=generator)
    samples = Samples(images, torch.arange(60) % 6, 6)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:4, 2:4] = True
    return Suspect(
        label=0,
        members=samples.members(0),
        level=image_levels(Population.of(samples), samples, CONFIG)[0],
        planted=PlantedTrigger(TriggerCandidate(mask, torch.zeros(3, 8, 8)), 1.0),
        window=Window(0, 8, 0, 8),
        logits=torch.full((10,), 3.0),
        gain=120.0,
        trace=MixtureTrace(Window(0, 8, 0, 8), torch.zeros(192), [], 0.5),
        extent=mask,
        is_wide=False,
        is_painted=True,
        kin=0,
    )


def fit(flagged: float, p_value: float, *, n: int = 30, is_stranger: bool = False) -> Membership:
    """Between members at 0.7 and strangers at 0.3."""
    return Membership(flagged, 1 / np.sqrt(12 * n), n, 0.7, 0.3, p_value, is_stranger, RATIO)


UNASKED = Membership(1.0, 1.0, 30, 1.0, 0.0, 1.0, False, NO_RATIO)
"""Of a class of which too few samples are kept."""


def verdicts(suspect: Suspect, fits: list[Membership], kin: int | None = 0) -> list[bool]:
    judged = [(replace(suspect, label=label, kin=kin), found) for label, found in enumerate(fits)]
    return [found.is_stranger for _, found in together(judged, CONFIG, chances=10)]


@pytest.mark.parametrize("odd", [UNASKED, fit(0.7, 1.0)], ids=["nobody left to ask", "p of exactly 1"])
def test_one_class_has_no_veto(suspect: Suspect, odd: Membership) -> None:
    fits = [fit(0.3, 2e-3) for _ in range(9)]
    assert verdicts(suspect, [*fits, odd])[:9] == [True] * 9


def test_a_class_that_nobody_can_ask_is_accused_of_what_others_are_proven_to_carry(suspect: Suspect) -> None:
    """Alone it would be taken for a mark of the class; the same pattern elsewhere is an attack."""
    assert verdicts(suspect, [*(fit(0.3, 2e-3) for _ in range(9)), UNASKED]) == [True] * 10
    assert verdicts(suspect, [UNASKED] * 10) == [False] * 10


def test_certainty_beside_its_opposite_is_a_number(suspect: Suspect) -> None:
    fits = [fit(0.3, 0.0) for _ in range(5)]
    assert verdicts(suspect, [*fits, fit(0.7, 1.0)])[:5] == [True] * 5


def test_what_no_class_can_prove_alone_many_prove_together(suspect: Suspect) -> None:
    fits = [fit(0.45, 0.005) for _ in range(6)]
    assert verdicts(suspect, fits) == [True] * 6
    assert verdicts(suspect, fits, kin=None) == [False] * 6
    assert verdicts(suspect, fits[:2]) == [False] * 2


def test_a_class_whose_carriers_clearly_belong_there_is_not_accused_with_the_others(suspect: Suspect) -> None:
    fits = [fit(0.4, 1e-5) for _ in range(12)] + [fit(0.72, 0.9, n=100), fit(0.55, 0.2, n=10)]
    faint = replace(suspect, gain=60.0)
    assert verdicts(faint, fits) == [True] * 12 + [False, True]


def test_a_trigger_beyond_doubt_is_an_attack_also_on_samples_of_a_class_that_looks_the_same(suspect: Suspect) -> None:
    fits = [fit(0.4, 1e-5) for _ in range(12)] + [fit(0.72, 0.9, n=50)]
    assert verdicts(suspect, fits) == [True] * 13


def test_what_looks_more_like_its_class_than_the_class_does_is_natural(suspect: Suspect) -> None:
    fits = [fit(0.4, 1e-5) for _ in range(12)] + [fit(0.85, 1.0, n=50)]
    assert verdicts(suspect, fits) == [True] * 12 + [False]


def test_where_dozens_share_a_trigger_less_of_it_leaves_no_doubt(suspect: Suspect) -> None:
    """The last class explains 60 nats; its carriers look as its other samples do."""

    def is_accused(others: int) -> bool:
        judged = [(replace(suspect, label=label), fit(0.4, 1e-5)) for label in range(others)]
        judged.append((replace(suspect, label=others, gain=60.0), fit(0.72, 0.9, n=25)))
        return together(judged, CONFIG, chances=10)[-1][1].is_stranger

    assert is_accused(30)
    assert not is_accused(15)


def test_one_class_with_many_carriers_convicts_no_others_that_look_alike(suspect: Suspect) -> None:
    """A flat patch looks like parts of natural images; a trigger of one class is no trigger of those."""
    attacked = fit(0.3, 0.0, n=5000, is_stranger=True)
    innocent = [fit(0.72, 0.9, n=200), fit(0.7, 0.5, n=12), fit(0.68, 0.4, n=150), fit(0.6, 0.1, n=20)]
    assert verdicts(suspect, [attacked, *innocent]) == [True] + [False] * 4
    assert verdicts(suspect, [attacked, attacked, *innocent]) == [True] * 2 + [False] * 4


def test_what_is_fainter_by_far_than_a_proven_trigger_is_another_thing(suspect: Suspect) -> None:
    proven = [(replace(suspect, label=k, gain=600.0), fit(0.3, 1e-9, n=50, is_stranger=True)) for k in range(8)]
    alike = [(replace(suspect, label=8, gain=500.0), fit(0.72, 0.9, n=50))]
    fainter = [(replace(suspect, label=9, gain=250.0), fit(0.72, 0.9, n=150))]
    found = together([*proven, *alike, *fainter], CONFIG, chances=10)
    assert [fit.is_stranger for _, fit in found] == [True] * 9 + [False]


def test_a_mark_that_many_classes_bear_on_their_own_samples_is_no_attack(suspect: Suspect) -> None:
    assert verdicts(suspect, [fit(0.7, 0.5) for _ in range(20)]) == [False] * 20
    # significantly rarer among members, and yet nearer to them than to strangers
    assert verdicts(suspect, [fit(0.6, 1e-4) for _ in range(20)]) == [False] * 20


def test_a_class_that_explains_little_must_be_likely_by_itself(suspect: Suspect) -> None:
    judged = [(replace(suspect, label=label), fit(0.4, 1e-4)) for label in range(5)]
    judged.append((replace(suspect, label=5, gain=35.0), fit(0.45, 0.2)))
    judged.append((replace(suspect, label=6, gain=35.0), fit(0.4, 0.01)))
    assert [found.is_stranger for _, found in together(judged, CONFIG, chances=10)] == [True] * 5 + [False, True]


def test_classes_that_explain_little_prove_nothing_together(suspect: Suspect) -> None:
    judged = [(replace(suspect, label=label, gain=45.0), fit(0.4, 1e-4)) for label in range(12)]
    assert not any(found.is_stranger for _, found in together(judged, CONFIG, chances=10))


def test_what_dozens_of_classes_show_is_no_accident_however_faint(suspect: Suspect) -> None:
    fits = [fit(0.45, 0.02)] * 20 + [fit(0.7, 0.5)] * 10 + [fit(0.45, 0.2)] * 10
    judged = [(replace(suspect, label=label, gain=12.0), found) for label, found in enumerate(fits)]
    verdicts = [found.is_stranger for _, found in together(judged, CONFIG, chances=10)]
    assert verdicts == [True] * 20 + [False] * 20
    natural = [(suspect, replace(found, flagged=0.62)) for suspect, found in judged]
    assert not any(found.is_stranger for _, found in together(natural, CONFIG, chances=10))


def test_natural_patterns_that_look_like_a_trigger_do_not_hide_it(suspect: Suspect) -> None:
    attacked = [(replace(suspect, label=label), fit(0.45, 0.005)) for label in range(8)]
    natural = [(replace(suspect, label=label), fit(0.75, 0.99, n=100)) for label in range(8, 30)]
    found = together([*attacked, *natural], CONFIG, chances=10)
    assert [fit.is_stranger for _, fit in found] == [True] * 8 + [False] * 22


def test_what_looks_like_the_trigger_elsewhere_in_an_accused_class_is_another_thing(suspect: Suspect) -> None:
    proven = [(replace(suspect, label=label), fit(0.3, 1e-9, is_stranger=True)) for label in range(4)]
    alike = [(replace(suspect, label=label, gain=300.0), fit(0.72, 0.9, n=60)) for label in (3, 4)]
    found = together([*proven, *alike], CONFIG, chances=10)
    assert [fit.is_stranger for _, fit in found] == [True] * 4 + [False, True]


def test_who_is_a_stranger_alone_stays_one(suspect: Suspect) -> None:
    assert verdicts(suspect, [fit(0.3, 1e-9, is_stranger=True), fit(0.7, 0.5), fit(0.7, 0.6)]) == [True, False, False]


def test_what_more_classes_bear_on_their_own_samples_is_not_proven_by_wrong_labels_in_one(suspect: Suspect) -> None:
    wrong = fit(0.4, 1e-9, is_stranger=True)
    assert verdicts(suspect, [wrong, *[fit(0.7, 0.5)] * 3]) == [False] * 4
    # Two others may look like it by accident, and an attack lies on a larger part of its class.
    assert verdicts(suspect, [wrong, *[fit(0.7, 0.5)] * 2]) == [True, False, False]
    assert verdicts(suspect, [wrong, *[fit(0.7, 0.5, n=20)] * 3]) == [True] + [False] * 3


@pytest.mark.parametrize(("gain", "is_attack"), [(230.0, False), (250.0, True)])
def test_what_is_fainter_by_far_on_members_acquits_nobody(suspect: Suspect, gain: float, is_attack: bool) -> None:
    attacked = (replace(suspect, gain=gain), fit(0.4, 1e-9, is_stranger=True))
    natural = [(replace(suspect, label=label), fit(0.7, 0.5)) for label in (1, 2, 3)]
    found = together([attacked, *natural], CONFIG, chances=10)
    assert [fit.is_stranger for _, fit in found] == [is_attack] + [False] * 3


def test_what_three_classes_bear_on_strangers_is_an_attack_wherever_else_it_lies(suspect: Suspect) -> None:
    attacked = [fit(0.4, 1e-9, n=30, is_stranger=True)] * 3
    assert verdicts(suspect, [*attacked, *[fit(0.85, 1.0, n=40)] * 5]) == [True] * 3 + [False] * 5
