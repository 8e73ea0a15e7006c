"""Stages 1 to 6 on a thousand small natural images, with and without a trigger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vbdguard.config import (
    AttackCheckConfig,
    DetectorConfig,
    EnsembleConfig,
    MethodConfig,
    RegionDetectorConfig,
    SuspectsConfig,
)
from vbdguard.method.pipeline import Detection, detect
from vbdguard.method.samples import Samples
from vbdguard.progress import Silent
from vbdguard.report import STAGES


class Listening(Silent):
    """Notes the stages with their totals and the steps of each."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.totals: list[int | None] = []
        self.steps: list[int] = []
        self.open = 0

    def begin(self, stage: str, total: int | None) -> None:
        self.stages.append(stage)
        self.totals.append(total)
        self.steps.append(0)
        self.open += 1

    def advance(self, steps: int = 1) -> None:
        self.steps[-1] += steps

    def end(self) -> None:
        self.open -= 1


PAPER = MethodConfig(
    ensemble=EnsembleConfig(architectures=((16,), (6, 6)), epochs=6, batch_size=32),
    suspects=SuspectsConfig(top=12),
    attack_check=AttackCheckConfig(share=0.5),
    detector=DetectorConfig(epochs=12, batch_size=32, pseudo_first=3, pseudo_last=6),
)
"""The published method with as many steps as a thousand images need; nothing is left out."""


def accused(detection: Detection) -> list[int]:
    return [finding.label for finding in detection.classes if finding.is_poisoned]


def counts(detection: Detection, truth: Tensor) -> tuple[int, int]:
    """Hits and false flags."""
    return int((detection.is_flagged & truth).sum()), int((detection.is_flagged & ~truth).sum())


@pytest.fixture(scope="module")
def heard() -> Listening:
    return Listening()


@pytest.fixture(scope="module")
def found(planted: Any, method: MethodConfig, heard: Listening) -> Detection:
    return detect(planted.samples, method, seed=0, progress=heard)


@pytest.fixture(scope="module")
def found_by_paper(planted: Any) -> Detection:
    return detect(planted.samples, PAPER, seed=0)


def test_an_all_to_one_trigger_is_found_with_its_samples(found: Detection, planted: Any) -> None:
    assert accused(found) == [planted.target]
    hits, false = counts(found, planted.is_poisoned)
    assert hits >= 0.95 * int(planted.is_poisoned.sum())
    assert false <= 5


def test_the_finding_shows_the_trigger_as_it_was_planted(found: Detection, planted: Any) -> None:
    finding = found.classes[planted.target]
    assert finding.trigger is not None
    assert torch.equal(finding.trigger.mask, planted.trigger.mask)
    torch.testing.assert_close(finding.trigger.pattern, planted.trigger.pattern, rtol=0, atol=12)
    assert finding.blend_factor == pytest.approx(1.0, abs=0.05)
    assert finding.attack_success_rate is not None
    assert finding.attack_success_rate > 0.8
    assert finding.p_value is not None
    assert finding.p_value < 0.01


def test_innocent_classes_have_neither_trigger_nor_flags(found: Detection, planted: Any) -> None:
    assert [finding.label for finding in found.classes] == [0, 1, 2, 3]
    for finding in found.classes:
        if finding.label != planted.target:
            assert (finding.trigger, finding.blend_factor) == (None, None)
            assert not found.is_flagged[planted.samples.members(finding.label)].any()


def test_flagged_samples_get_another_class_and_the_others_none(found: Detection, planted: Any) -> None:
    assert (found.suggested[~found.is_flagged] == -1).all()
    suggested = found.suggested[found.is_flagged]
    assert ((suggested >= 0) & (suggested < 4) & (suggested != planted.target)).all()
    # better than the third that guessing would give: the model still knows what is under the trigger
    moved = found.is_flagged & (planted.original_labels != planted.target)
    assert float((found.suggested[moved] == planted.original_labels[moved]).float().mean()) > 0.45


def test_scores_are_shares_and_agree_with_the_flags(found: Detection) -> None:
    assert 0 <= float(found.scores.min()) <= float(found.scores.max()) <= 1
    assert float(found.scores[found.is_flagged].min()) > 0.5


def test_the_listener_hears_of_all_stages_in_order_and_each_is_timed(found: Detection, heard: Listening) -> None:
    assert heard.stages == list(STAGES[1:]) == list(found.seconds)
    assert heard.open == 0
    for total, steps in zip(heard.totals, heard.steps, strict=True):
        assert total is None or total == steps
    assert all(seconds >= 0 for seconds in found.seconds.values())


def test_the_same_seed_gives_identical_results(found: Detection, planted: Any, method: MethodConfig) -> None:
    torch.manual_seed(99)
    again = detect(planted.samples, method, seed=0)
    assert torch.equal(again.is_flagged, found.is_flagged)
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(again.suggested, found.suggested)
    for one, other in zip(again.classes, found.classes, strict=True):
        assert replace(one, trigger=None) == replace(other, trigger=None)


def test_another_seed_finds_it_too(planted: Any, method: MethodConfig) -> None:
    other = detect(planted.samples, method, seed=1)
    hits, false = counts(other, planted.is_poisoned)
    assert accused(other) == [planted.target]
    assert hits >= 0.95 * int(planted.is_poisoned.sum())
    assert false <= 5


def test_an_all_to_all_trigger_is_found_at_each_accused_class_own_place(
    planted_everywhere: Any, method: MethodConfig
) -> None:
    found = detect(planted_everywhere.samples, method, seed=0)
    classes = accused(found)
    assert len(classes) >= 2
    for label in classes:
        finding = found.classes[label]
        assert finding.trigger is not None
        # class k bears the samples of class k - 1, whose cell is that many to the left of the corner
        original = (label - 1) % 4
        assert finding.trigger.bbox == (13, 13 - 3 * original, 3, 3)
        members = planted_everywhere.samples.members(label)
        truth = planted_everywhere.is_poisoned[members]
        assert float(found.is_flagged[members][truth].float().mean()) > 0.9
        assert int(found.is_flagged[members][~truth].sum()) <= 5


@pytest.mark.parametrize("seed", range(3))
def test_clean_data_raise_no_alarm(natural: Samples, method: MethodConfig, seed: int) -> None:
    found = detect(natural, method, seed=seed)
    assert accused(found) == []
    assert not found.is_flagged.any()
    assert (found.suggested == -1).all()


def test_clean_classes_that_stages_2_and_4_accuse_are_cleared(natural: Samples, method: MethodConfig) -> None:
    """Every class is taken for suspect and every candidate for harmful; the label check has the last word."""
    credulous = replace(
        method,
        suspects=SuspectsConfig(significance=1.1),
        attack_check=AttackCheckConfig(min_success_rate=0.0),
        detector=RegionDetectorConfig(others=300, epochs=4, batch_size=64),
    )
    heard = Listening()
    assert accused(detect(natural, credulous, seed=0, progress=heard)) == []
    assert heard.steps[heard.stages.index("detector")] >= 3


def test_the_paper_preset_finds_it_with_its_own_detector(found_by_paper: Detection, planted: Any) -> None:
    hits, _ = counts(found_by_paper, planted.is_poisoned)
    assert planted.target in accused(found_by_paper)
    assert hits >= 0.9 * int(planted.is_poisoned.sum())
    members = planted.samples.members(planted.target)
    clean = members[~planted.is_poisoned[members]]
    assert float(found_by_paper.is_flagged[clean].float().mean()) < 0.2


def test_the_paper_preset_reports_its_candidate_and_no_blend_factor(found_by_paper: Detection, planted: Any) -> None:
    finding = found_by_paper.classes[planted.target]
    assert finding.blend_factor is None
    assert finding.trigger is not None
    assert finding.trigger.mask[13:, 13:].any()


def test_a_detector_that_did_not_learn_is_dropped(planted: Any) -> None:
    assert isinstance(PAPER.detector, DetectorConfig)
    unreachable = replace(PAPER, detector=replace(PAPER.detector, epochs=1, min_accuracy=1.01))
    found = detect(planted.samples, unreachable, seed=0)
    assert not found.is_flagged.any()
    assert accused(found) == []
    finding = found.classes[planted.target]
    assert finding.trigger is None
    assert finding.attack_success_rate is not None


def test_a_candidate_that_does_no_harm_gets_no_detector(planted: Any, method: MethodConfig) -> None:
    strict = replace(method, attack_check=replace(method.attack_check, min_success_rate=1.01))
    heard = Listening()
    found = detect(planted.samples, strict, seed=0, progress=heard)
    assert heard.totals[heard.stages.index("detector")] == 0
    assert not found.is_flagged.any()
    assert found.classes[planted.target].attack_success_rate is not None


def test_classes_too_small_to_test_have_no_p_value(planted: Any, method: MethodConfig) -> None:
    samples = planted.samples
    kept = torch.cat([samples.members(1)[:6], *(samples.members(label)[:120] for label in (0, 2, 3))])
    assert isinstance(method.detector, RegionDetectorConfig)
    found = detect(samples.subset(kept), replace(method, ensemble=replace(method.ensemble, epochs=1)), seed=0)
    assert found.classes[1].p_value is None
    assert not found.classes[1].is_poisoned
