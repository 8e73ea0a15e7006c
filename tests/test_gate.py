from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.baseline import Baseline
from vbdguard.findings import Finding
from vbdguard.gate import gate_lines, judge

POISON = Finding("backdoor-trigger", "a" * 64, 3, "cat", 100, 9, 1e-5)
OTHER = Finding("backdoor-trigger", "b" * 64, 4, "dog", 100, 9, 1e-5)
SUSPICION = Finding("suspicious-class", "c" * 64, 5, "cow", 100, 0, 0.004)
TODAY = date(2027, 1, 1)


def baseline_of(*findings: Finding, expires: str | None = None) -> Baseline:
    return Baseline.empty().updated(findings, reason="a watermark", expires=expires)


@pytest.mark.parametrize(
    ("findings", "fail_on", "is_complete", "code"),
    [
        ([], "poisoned", True, 0),
        ([], "poisoned", False, 2),
        ([POISON], "poisoned", True, 1),
        ([POISON], "poisoned", False, 1),
        ([POISON], "never", True, 0),
        ([POISON], "never", False, 2),
        ([SUSPICION], "poisoned", True, 0),
        ([SUSPICION], "suspicious", True, 1),
        ([POISON, SUSPICION], "suspicious", True, 1),
    ],
)
def test_exit_codes(findings: list[Finding], fail_on: Any, is_complete: bool, code: int) -> None:
    assert judge(findings, is_complete=is_complete, fail_on=fail_on).exit_code == code


def test_an_accepted_finding_does_not_count_and_a_new_one_beside_it_does() -> None:
    accepted = judge([POISON], is_complete=True, baseline=baseline_of(POISON), today=TODAY)
    assert accepted.exit_code == 0
    assert list(gate_lines(accepted)) == [
        "Accepted: class 3 cat: backdoor trigger, 9 of 100 samples flagged, p-value 1e-05; reason: a watermark"
    ]
    both = judge([POISON, OTHER], is_complete=True, baseline=baseline_of(POISON), today=TODAY)
    assert both.exit_code == 1
    assert any(line.startswith("Not accepted: class 4 dog") for line in gate_lines(both))


def test_what_could_not_be_read_is_not_accepted_with_a_finding() -> None:
    assert judge([POISON], is_complete=False, baseline=baseline_of(POISON), today=TODAY).exit_code == 2


def test_an_acceptance_that_has_run_out_no_longer_helps() -> None:
    judgement = judge([POISON], is_complete=True, baseline=baseline_of(POISON, expires="2026-12-31"), today=TODAY)
    assert judgement.exit_code == 1
    assert any(line.startswith("Accepted only until 2026-12-31: class 3 cat") for line in gate_lines(judgement))


def test_the_present_day_is_taken_where_none_is_given() -> None:
    assert judge([POISON], is_complete=True, baseline=baseline_of(POISON, expires="2001-01-01")).exit_code == 1
    assert judge([POISON], is_complete=True, baseline=baseline_of(POISON, expires="9999-12-31")).exit_code == 0


def test_entries_that_match_nothing_are_said() -> None:
    judgement = judge([], is_complete=True, baseline=baseline_of(POISON), today=TODAY)
    assert judgement.exit_code == 0
    assert "1 entry of the baseline matched nothing" in "".join(gate_lines(judgement))


@given(
    findings=st.lists(st.sampled_from([POISON, OTHER, SUSPICION]), unique=True),
    accepted=st.lists(st.sampled_from([POISON, OTHER, SUSPICION]), unique=True),
)
def test_every_finding_is_accounted_for_once(findings: list[Finding], accepted: list[Finding]) -> None:
    judgement = judge(findings, is_complete=True, fail_on="suspicious", baseline=baseline_of(*accepted), today=TODAY)
    known = [finding for finding, _ in judgement.accepted]
    assert sorted([*judgement.counting, *known], key=findings.index) == findings
    assert {entry.digest for entry in judgement.unused} == {a.digest for a in accepted if a not in findings}


def test_a_baseline_is_no_way_around_another_rule() -> None:
    same_digest = Finding("suspicious-class", POISON.digest, 3, "cat", 100, 0, 0.001)
    judgement = judge([POISON], is_complete=True, baseline=baseline_of(same_digest), today=TODAY)
    assert judgement.exit_code == 1
