from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.findings import RULES, SUSPICIOUS_P, Finding, findings_of
from vbdguard.report import ClassReport, FlaggedSample, ScanReport

MakeData = Callable[..., ScanReport]


def test_a_poisoned_class_is_a_finding_and_a_clean_one_is_none(known_data: MakeData) -> None:
    report = known_data(flagged={"train-000000.tar/s01": 0, "train-000002.tar/s09": None})
    (finding,) = findings_of(report)
    assert (finding.rule, finding.label, finding.flagged, finding.samples) == ("backdoor-trigger", 1, 2, 8)
    assert findings_of(known_data("clean", seed=1)) == ()


def test_a_finding_is_known_again_when_samples_are_renamed_and_in_another_order(known_data: MakeData) -> None:
    report = known_data(flagged={"train-000000.tar/s01": 0, "train-000002.tar/s09": None})
    moved = tuple(replace(sample, key=f"other/{n}", score=0.8) for n, sample in enumerate(reversed(report.flagged)))
    assert findings_of(replace(report, flagged=moved))[0].digest == findings_of(report)[0].digest


def test_a_finding_with_other_samples_is_another_one(known_data: MakeData) -> None:
    report = known_data(flagged={"train-000000.tar/s01": 0, "train-000002.tar/s09": None})
    fewer = replace(report, flagged=report.flagged[:1])
    assert findings_of(fewer)[0].digest != findings_of(report)[0].digest


@given(p_value=st.floats(0, 1))
def test_a_class_is_suspicious_up_to_the_threshold(p_value: float) -> None:
    report = report_of(ClassReport(0, "a", 5, False, 0, p_value, None, None))
    rules = [finding.rule for finding in findings_of(report)]
    assert rules == (["suspicious-class"] if p_value <= SUSPICIOUS_P else [])


def test_a_poisoned_class_without_flagged_samples_is_known_by_the_data_set() -> None:
    entry = ClassReport(0, "a", 5, True, 0, 0.001, None, None)
    one, other = report_of(entry), report_of(entry, digest="b" * 64)
    assert findings_of(one)[0].digest == findings_of(one)[0].digest != findings_of(other)[0].digest


def test_the_rule_and_the_label_are_part_of_the_fingerprint() -> None:
    poisoned = findings_of(report_of(ClassReport(0, "a", 5, True, 0, 0.001, None, None)))[0]
    suspicious = findings_of(report_of(ClassReport(0, "a", 5, False, 0, 0.001, None, None)))[0]
    elsewhere = findings_of(report_of(ClassReport(1, "a", 5, True, 0, 0.001, None, None)))[0]
    assert len({poisoned.digest, suspicious.digest, elsewhere.digest}) == 3
    assert set(RULES) == {poisoned.rule, suspicious.rule}


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule must be one of"):
        Finding("bad-luck", "a" * 64, 0, "a", 1, 1, None)  # type: ignore[arg-type]


def report_of(*classes: ClassReport, digest: str = "a" * 64) -> ScanReport:
    from vbdguard.report import DatasetReport

    flagged: tuple[FlaggedSample, ...] = ()
    return ScanReport(
        status="complete",
        verdict="poisoned" if any(entry.poisoned for entry in classes) else "clean",
        dataset=DatasetReport(digest, ("data",), 5, len(classes), (8, 8, 3), ()),
        config={},
        seed=0,
        device="cpu",
        classes=classes,
        flagged=flagged,
        skipped=(),
        timings={},
        environment={},
        tool={"name": "vbdguard", "version": "0"},
    )
