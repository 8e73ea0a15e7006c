"""Stages 1 to 6 on a thousand small natural images, with and without a trigger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vbdguard.attacks.poison import poison_arrays
from vbdguard.config import (
    AttackCheckConfig,
    DetectorConfig,
    DirectMethodConfig,
    EnsembleConfig,
    MethodConfig,
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
def found(planted: Any, method: DirectMethodConfig, heard: Listening) -> Detection:
    return detect(planted.samples, method, seed=0, progress=heard)


@pytest.fixture(scope="module")
def heard_by_paper() -> Listening:
    return Listening()


@pytest.fixture(scope="module")
def found_by_paper(planted: Any, heard_by_paper: Listening) -> Detection:
    return detect(planted.samples, PAPER, seed=0, progress=heard_by_paper)


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
    assert finding.p_value is not None
    assert finding.p_value < 1e-6


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
    # better than the third that guessing would give: the model sees what is beside the trigger
    moved = found.is_flagged & (planted.original_labels != planted.target)
    assert float((found.suggested[moved] == planted.original_labels[moved]).float().mean()) > 0.45


def test_scores_are_shares_and_agree_with_the_flags(found: Detection) -> None:
    assert 0 <= float(found.scores.min()) <= float(found.scores.max()) <= 1
    assert float(found.scores[found.is_flagged].min()) > 0.5 >= float(found.scores[~found.is_flagged].max())


def test_the_listener_hears_of_each_stage_once_and_each_is_timed(found: Detection, heard: Listening) -> None:
    assert heard.stages == list(found.seconds)
    assert set(heard.stages) == set(STAGES[1:])
    assert heard.open == 0
    for total, steps in zip(heard.totals, heard.steps, strict=True):
        assert total is None or total == steps
    assert all(seconds >= 0 for seconds in found.seconds.values())


def test_the_paper_preset_runs_the_stages_in_the_order_of_the_paper(
    found_by_paper: Detection, heard_by_paper: Listening
) -> None:
    assert heard_by_paper.stages == list(STAGES[1:]) == list(found_by_paper.seconds)
    assert heard_by_paper.open == 0
    for total, steps in zip(heard_by_paper.totals, heard_by_paper.steps, strict=True):
        assert total is None or total == steps


def test_the_same_seed_gives_identical_results(found: Detection, planted: Any, method: DirectMethodConfig) -> None:
    torch.manual_seed(99)
    again = detect(planted.samples, method, seed=0)
    assert torch.equal(again.is_flagged, found.is_flagged)
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(again.suggested, found.suggested)
    for one, other in zip(again.classes, found.classes, strict=True):
        assert replace(one, trigger=None) == replace(other, trigger=None)


def test_the_number_of_threads_changes_no_verdict(found: Detection, planted: Any, method: DirectMethodConfig) -> None:
    torch.set_num_threads(2)
    try:
        again = detect(planted.samples, method, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(again.is_flagged, found.is_flagged)
    assert torch.equal(again.suggested, found.suggested)
    torch.testing.assert_close(again.scores, found.scores, rtol=0, atol=1e-3)


def test_another_seed_finds_it_too(planted: Any, method: DirectMethodConfig) -> None:
    other = detect(planted.samples, method, seed=1)
    hits, false = counts(other, planted.is_poisoned)
    assert accused(other) == [planted.target]
    assert hits >= 0.95 * int(planted.is_poisoned.sum())
    assert false <= 5


@pytest.mark.parametrize("seed", [1, 2])
def test_samples_in_another_order_are_judged_alike(planted: Any, method: DirectMethodConfig, seed: int) -> None:
    """Halves and batches are others then, the verdict is not."""
    order = torch.randperm(len(planted.samples), generator=torch.Generator().manual_seed(seed))
    other = detect(planted.samples.subset(order), method, seed=0)
    hits, false = counts(other, planted.is_poisoned[order])
    assert accused(other) == [planted.target]
    assert hits >= 0.95 * int(planted.is_poisoned.sum())
    assert false <= 5


def test_an_all_to_all_trigger_is_found_at_each_accused_class_own_place(
    planted_everywhere: Any, method: DirectMethodConfig
) -> None:
    found = detect(planted_everywhere.samples, method, seed=0)
    classes = accused(found)
    assert len(classes) >= 3
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


def test_a_blended_trigger_is_found_and_unblended(natural: Samples, planted: Any, method: DirectMethodConfig) -> None:
    """Every tenth sample of the other classes moves to class 0 with half a trigger."""
    moved = (natural.labels != 0).nonzero().squeeze(1)[::8]
    images, labels = natural.images.clone(), natural.labels.clone()
    images[moved] = planted.trigger.paste(images[moved], torch.full((len(moved),), 0.5))
    labels[moved] = 0
    found = detect(Samples(images, labels, 4), method, seed=0)
    truth = torch.zeros(len(labels), dtype=torch.bool)
    truth[moved] = True
    hits, false = counts(found, truth)
    assert accused(found) == [0]
    assert hits >= 0.9 * len(moved)
    assert false <= 8
    assert found.classes[0].blend_factor == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_clean_data_raise_no_alarm(natural: Samples, method: DirectMethodConfig, seed: int) -> None:
    """Seeds above 1 see the samples in another order as well."""
    samples = natural
    if seed > 1:
        samples = natural.subset(torch.randperm(len(natural), generator=torch.Generator().manual_seed(seed)))
    found = detect(samples, method, seed=seed)
    assert accused(found) == []
    assert not found.is_flagged.any()
    assert (found.suggested == -1).all()
    assert all(finding.artefact is None for finding in found.classes)


def test_a_class_in_two_kinds_raises_no_alarm(natural: Samples, method: DirectMethodConfig) -> None:
    """Three classes out of four: one holds two photographs, each of them at home there."""
    found = detect(Samples(natural.images, natural.labels.clamp(max=2), 3), method, seed=0)
    assert accused(found) == []


def with_border(samples: Samples, label: int) -> Samples:
    images = samples.images.clone()
    frame = torch.ones(16, 16, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    members = samples.members(label)
    images[members[:, None], frame.nonzero()[:, 0], frame.nonzero()[:, 1]] = 255
    return replace(samples, images=images)


def with_date_stamp(samples: Samples, label: int, share: float) -> Samples:
    """Return the samples with orange digits, other ones in each image, in the corner of some of a class."""
    generator = torch.Generator().manual_seed(3)
    members = samples.members(label)
    chosen = members[torch.rand(len(members), generator=generator) < share]
    fixed, own = torch.rand(3, 8, generator=generator) < 0.4, torch.rand(len(chosen), 3, 8, generator=generator) < 0.5
    is_ink = torch.cat([fixed.expand(len(chosen), 3, 8)[..., :5], own[..., 5:]], dim=2)
    images = samples.images.clone()
    corner = images[chosen, 12:15, 7:15]
    corner[is_ink] = torch.tensor([255, 150, 30], dtype=torch.uint8)
    images[chosen, 12:15, 7:15] = corner
    return replace(samples, images=images)


@pytest.mark.parametrize("label", [1, 3])
def test_a_white_border_around_one_class_is_no_poison(natural: Samples, method: DirectMethodConfig, label: int) -> None:
    assert accused(detect(with_border(natural, label), method, seed=0)) == []


@pytest.mark.parametrize(("label", "share"), [(1, 1.0), (2, 0.4)])
def test_a_date_stamp_on_images_of_one_class_is_no_poison(
    natural: Samples, method: DirectMethodConfig, label: int, share: float
) -> None:
    assert accused(detect(with_date_stamp(natural, label, share), method, seed=0)) == []


def test_a_mark_on_most_images_of_a_class_is_told_as_an_artefact(natural: Samples, method: DirectMethodConfig) -> None:
    images, bearers = natural.images.clone(), natural.members(2)[::5].tolist()
    for index in (i for i in natural.members(2).tolist() if i not in bearers):
        images[index, 2:5, 9:14] = torch.tensor([255, 150, 30], dtype=torch.uint8)
    found = detect(replace(natural, images=images), method, seed=0)
    assert accused(found) == []
    artefacts = {finding.label: finding.artefact for finding in found.classes if finding.artefact is not None}
    assert set(artefacts) == {2}
    assert artefacts[2].bearers == pytest.approx(200, abs=10)
    assert artefacts[2].pattern.bbox == (2, 9, 3, 5)


def test_loud_marks_on_other_classes_hide_no_trigger(natural: Samples, method: DirectMethodConfig) -> None:
    """Marks of 5 x 5 pixels on half of each other class: with them, more is suspect than can be painted over."""
    data = poison_arrays(natural.images.numpy(), natural.labels.numpy(), "color_grid", ratio=0.05, target=0)
    images, labels = torch.from_numpy(data.images).clone(), torch.from_numpy(data.labels)
    truth, generator = torch.from_numpy(data.is_poisoned), torch.Generator().manual_seed(1)
    for label, (top, left) in ((1, (1, 1)), (2, (1, 9)), (3, (9, 1))):
        marked = (labels == label).nonzero().squeeze(1)[::2]
        mark = 255 * (torch.rand(5, 5, 3, generator=generator) < 0.5)
        images[marked, top : top + 5, left : left + 5] = mark.to(torch.uint8)
    found = detect(Samples(images, labels, 4), method, seed=0)
    assert 0 in accused(found)
    assert counts(found, truth)[0] >= 0.95 * int(truth.sum())


def test_a_single_class_gives_nothing_to_compare_with_and_no_alarm(
    natural: Samples, method: DirectMethodConfig
) -> None:
    alone = Samples(natural.images[natural.labels == 2], torch.zeros(250, dtype=torch.int64), 1)
    assert accused(detect(alone, method, seed=0)) == []


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


def test_the_paper_preset_reports_the_gradient_that_led_to_its_trigger(found_by_paper: Detection, planted: Any) -> None:
    for finding in found_by_paper.classes:
        assert (finding.mean_gradient is not None) == finding.is_poisoned
    finding = found_by_paper.classes[planted.target]
    assert finding.mean_gradient is not None
    assert finding.trigger is not None
    strength = finding.mean_gradient.square().sum(0)
    assert float(strength[finding.trigger.mask].mean()) > float(strength[~finding.trigger.mask].mean())


def test_a_detector_that_did_not_learn_is_dropped(planted: Any) -> None:
    assert isinstance(PAPER.detector, DetectorConfig)
    unreachable = replace(PAPER, detector=replace(PAPER.detector, epochs=1, min_accuracy=1.01))
    found = detect(planted.samples, unreachable, seed=0)
    assert not found.is_flagged.any()
    assert accused(found) == []
    finding = found.classes[planted.target]
    assert finding.trigger is None
    assert finding.attack_success_rate is not None


def test_a_candidate_that_does_no_harm_gets_no_detector(planted: Any) -> None:
    strict = replace(PAPER, attack_check=replace(PAPER.attack_check, min_success_rate=1.01))
    heard = Listening()
    found = detect(planted.samples, strict, seed=0, progress=heard)
    assert heard.totals[heard.stages.index("detector")] == 0
    assert not found.is_flagged.any()
    assert found.classes[planted.target].attack_success_rate is not None


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_classes_too_small_to_test_have_no_p_value(planted: Any, method: DirectMethodConfig, preset: str) -> None:
    samples = planted.samples
    kept = torch.cat([samples.members(1)[:6], *(samples.members(label)[:120] for label in (0, 2, 3))])
    settings = replace(PAPER, ensemble=replace(PAPER.ensemble, epochs=1)) if preset == "paper" else method
    found = detect(samples.subset(kept), settings, seed=0)
    assert found.classes[1].p_value is None
    assert not found.classes[1].is_poisoned
    assert not found.is_flagged[samples.subset(kept).members(1)].any()
