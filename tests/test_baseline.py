from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.baseline import Acceptance, Baseline
from vbdguard.errors import BaselineError
from vbdguard.findings import Finding

A, B = (Finding("backdoor-trigger", letter * 64, 3, "cat", 100, 9, 1e-5) for letter in "ab")


def accepting(*findings: Finding, reason: str = "a watermark", expires: str | None = None) -> Baseline:
    return Baseline.empty().updated(findings, reason=reason, expires=expires)


def test_what_is_written_is_read_again_and_one_finding_is_one_line(tmp_path: Path) -> None:
    baseline = accepting(B, A, expires="2027-03-31")
    baseline.write(tmp_path / "b.json")
    assert Baseline.read(tmp_path / "b.json") == baseline
    lines = (tmp_path / "b.json").read_text().splitlines()
    assert [A.digest in lines[3], B.digest in lines[4]] == [True, True]


@given(st.permutations([A, B, replace(A, rule="suspicious-class")]))
def test_the_order_of_findings_never_shows(order: list[Finding]) -> None:
    assert accepting(*order) == accepting(*sorted(order, key=lambda finding: finding.rule + finding.digest))


def test_an_update_keeps_reasons_and_takes_out_what_is_mended() -> None:
    first = accepting(A, B, reason="first", expires="2027-03-31")
    second = first.updated([B], reason="second", expires=None)
    (entry,) = second.findings
    assert (entry.digest, entry.reason, entry.expires) == (B.digest, "first", "2027-03-31")


def test_a_new_finding_needs_a_reason() -> None:
    with pytest.raises(BaselineError, match="class 3 cat.*pass --reason"):
        Baseline.empty().updated([A], reason=None, expires=None)
    with pytest.raises(BaselineError, match="reason must say why"):
        Baseline.empty().updated([A], reason="  ", expires=None)
    assert accepting(A).updated([A], reason=None, expires=None) == accepting(A)


def test_the_last_day_counts_and_the_day_after_does_not() -> None:
    (entry,) = accepting(A, expires="2027-03-31").findings
    assert not entry.has_expired(date(2027, 3, 31))
    assert entry.has_expired(date(2027, 4, 1))
    assert not accepting(A).findings[0].has_expired(date.max)


GOOD = {"rule": "backdoor-trigger", "digest": "a" * 64, "what": "w", "reason": "r", "expires": None}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"baseline_version": 2, "findings": []}, "expected baseline_version 1, got 2"),
        ({"baseline_version": 1, "findings": [GOOD, GOOD]}, "stands in it twice"),
        ({"baseline_version": 1, "findings": [{**GOOD, "reason": " "}]}, "reason must say why"),
        ({"baseline_version": 1, "findings": [{**GOOD, "expires": "soon"}]}, "soon"),
        ({"baseline_version": 1, "findings": [{**GOOD, "rule": "any"}]}, "expected one of 'backdoor-trigger'"),
        ({"baseline_version": 1, "findings": [{"digest": "a"}]}, "missing"),
        ({"baseline_version": 1, "findings": [], "all": True}, "unknown 'all'"),
        ([], "expected an object"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused_with_the_reason(body: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(body))
    with pytest.raises(BaselineError, match=words):
        Baseline.read(tmp_path / "b.json")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("<<<<<<< ours\n")
    with pytest.raises(BaselineError, match="expected a vbdguard baseline as JSON"):
        Baseline.read(tmp_path / "b.json")


def test_names_from_the_data_cannot_break_the_file(tmp_path: Path) -> None:
    hostile = replace(A, name='x"\n{]\x1b[31m‮')
    baseline = accepting(hostile)
    baseline.write(tmp_path / "b.json")
    assert Baseline.read(tmp_path / "b.json") == baseline
    assert (tmp_path / "b.json").read_text().isascii()
    assert isinstance(baseline.findings[0], Acceptance)
