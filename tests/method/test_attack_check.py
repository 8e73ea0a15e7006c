from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from vbdguard.config import AttackCheckConfig
from vbdguard.method.attack_check import Candidate, CheckedCandidate, attack_success_rate, check_candidates
from vbdguard.method.ensemble import Ensemble, predict
from vbdguard.method.samples import Samples, stratified_split
from vbdguard.method.suspects import ClassEvidence
from vbdguard.method.trigger import TriggerCandidate

TARGET = 0
CONFIG = AttackCheckConfig(share=0.5)


@pytest.fixture(scope="module")
def dud() -> TriggerCandidate:
    """A grey patch in the other corner, which nobody has trained on."""
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:3, :3] = True
    return TriggerCandidate(mask, 120.0 * mask.expand(3, 16, 16))


def point(trigger: TriggerCandidate, label: int = TARGET, model: int = 0) -> Candidate:
    evidence = ClassEvidence(label, 1e-6, True, torch.arange(20), torch.zeros(3, 16, 16))
    return Candidate(model, evidence, trigger)


@pytest.fixture
def check(ensemble: Ensemble, planted: Any) -> Callable[..., dict[int, CheckedCandidate]]:
    def run(*candidates: Candidate, config: AttackCheckConfig = CONFIG, **changes: Any) -> dict[int, CheckedCandidate]:
        generator = torch.Generator().manual_seed(7)
        return check_candidates(candidates, replace(ensemble, **changes), planted.samples, config, generator=generator)

    return run


def test_the_true_trigger_works_and_another_patch_does_not(
    ensemble: Ensemble, planted: Any, dud: TriggerCandidate
) -> None:
    others = planted.samples.images[planted.samples.labels != planted.target]
    for fitted in ensemble.models:
        clean = float((predict(fitted.model, others).argmax(1) == planted.target).float().mean())
        assert attack_success_rate(fitted.model, planted.trigger, others, planted.target) > 0.9
        assert attack_success_rate(fitted.model, dud, others, planted.target) < clean + 0.15 < 0.5


def test_the_rate_is_that_on_the_drawn_samples_of_other_classes(
    check: Callable[..., dict[int, CheckedCandidate]], ensemble: Ensemble, planted: Any
) -> None:
    drawn, _ = stratified_split(planted.samples.labels, 0.5, torch.Generator().manual_seed(7))
    others = [index for index in drawn.tolist() if planted.samples.labels[index] != TARGET]
    patched = planted.samples.images[others].clone()
    patched[:, 13:, 13:] = planted.trigger.pattern[:, 13:, 13:].permute(1, 2, 0).to(torch.uint8)
    rate = float((predict(ensemble.models[1].model, patched).argmax(1) == TARGET).float().mean())
    checked = check(point(planted.trigger, model=1))[TARGET]
    assert checked.attack_success_rate == pytest.approx(rate, abs=1e-6)
    expected = 0.6 * (1 - ensemble.models[1].train_accuracy) + 0.4 * rate
    assert checked.score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("least", "is_harmful"), [(0.33, True), (1.01, False)])
def test_the_threshold_decides_what_is_harmful(
    check: Callable[..., dict[int, CheckedCandidate]], planted: Any, least: float, is_harmful: bool
) -> None:
    checked = check(point(planted.trigger), config=replace(CONFIG, min_success_rate=least))
    assert checked[TARGET].is_harmful is is_harmful


def test_one_models_word_is_enough(
    check: Callable[..., dict[int, CheckedCandidate]], planted: Any, dud: TriggerCandidate
) -> None:
    for candidates in ([point(planted.trigger, model=1)], [point(dud, model=0), point(planted.trigger, model=1)]):
        checked = check(*candidates)
        assert list(checked) == [TARGET]
        assert checked[TARGET].is_harmful
        assert checked[TARGET].candidate is candidates[-1]


def test_a_harmful_candidate_beats_a_harmless_one_with_a_higher_score(
    check: Callable[..., dict[int, CheckedCandidate]], ensemble: Ensemble, planted: Any, dud: TriggerCandidate
) -> None:
    # the less a model knows, the higher its candidates score
    models = replace(ensemble.models[0], train_accuracy=0.0), replace(ensemble.models[1], train_accuracy=1.0)
    harmless, harmful = point(dud, model=0), point(planted.trigger, model=1)
    alone = check(harmless, models=models)[TARGET]
    for order in ([harmless, harmful], [harmful, harmless]):
        best = check(*order, models=models)[TARGET]
        assert best.candidate is harmful
        assert best.score < alone.score


def test_among_harmful_candidates_the_model_that_knows_least_wins(
    check: Callable[..., dict[int, CheckedCandidate]], ensemble: Ensemble, planted: Any
) -> None:
    fitted = ensemble.models[0]
    for accuracies, winner in (((0.9, 0.1), 1), ((0.1, 0.9), 0)):
        models = tuple(replace(fitted, train_accuracy=accuracy) for accuracy in accuracies)
        candidates = [point(planted.trigger, model=model) for model in (0, 1)]
        assert check(*candidates, models=models)[TARGET].candidate is candidates[winner]


def test_each_class_has_its_own_best_in_label_order(
    check: Callable[..., dict[int, CheckedCandidate]], planted: Any, dud: TriggerCandidate
) -> None:
    checked = check(point(dud, 3), point(planted.trigger, TARGET), point(dud, 2))
    assert list(checked) == [0, 2, 3]
    assert [entry.label for entry in checked.values()] == [0, 2, 3]
    assert [entry.is_harmful for entry in checked.values()] == [True, False, False]


def test_a_share_that_rounds_to_no_sample_takes_all_of_them(planted: Any, ensemble: Ensemble) -> None:
    few = Samples(planted.samples.images[:40], planted.samples.labels[:40], 4)
    others = few.images[few.labels != TARGET]
    checked = check_candidates(
        [point(planted.trigger)],
        ensemble,
        few,
        AttackCheckConfig(share=0.001),
        generator=torch.Generator().manual_seed(0),
    )
    expected = attack_success_rate(ensemble.models[0].model, planted.trigger, others, TARGET)
    assert checked[TARGET].attack_success_rate == pytest.approx(expected)


def test_a_large_class_beside_tiny_ones_is_checked_on_all_they_have(planted: Any, ensemble: Ensemble) -> None:
    """A tenth of four samples rounds to none, while the large class still gives its share."""
    large, tiny = planted.samples.members(TARGET), planted.samples.members(1)[:4]
    lopsided = planted.samples.subset(torch.cat([large, tiny]))
    generator = torch.Generator().manual_seed(0)
    run = [[point(planted.trigger)], ensemble, lopsided, AttackCheckConfig()]
    checked = check_candidates(*run, generator=generator)  # type: ignore[arg-type]
    expected = attack_success_rate(ensemble.models[0].model, planted.trigger, planted.samples.images[tiny], TARGET)
    assert expected >= 0.75
    assert checked[TARGET].attack_success_rate == pytest.approx(expected)
    assert checked[TARGET].is_harmful


def test_where_there_is_no_other_class_to_patch_a_candidate_is_left_out(planted: Any, ensemble: Ensemble) -> None:
    alone = planted.samples.subset(planted.samples.members(TARGET))
    generator = torch.Generator().manual_seed(0)
    assert check_candidates([point(planted.trigger)], ensemble, alone, AttackCheckConfig(), generator=generator) == {}


def test_no_candidate_no_finding(check: Callable[..., dict[int, CheckedCandidate]]) -> None:
    assert check() == {}
