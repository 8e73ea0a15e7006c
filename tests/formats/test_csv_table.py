from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vbdguard.formats.rendering import render
from vbdguard.report import ScanReport


def rows(report: ScanReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(report, "csv"))))


def test_every_flagged_sample_has_a_row(any_report: ScanReport) -> None:
    read = rows(any_report)
    assert [(row["digest"], int(row["label"]), float(row["score"])) for row in read] == [
        (sample.digest, sample.label, sample.score) for sample in any_report.flagged
    ]


def test_a_suggested_class_is_named(poisoned: ScanReport) -> None:
    flagged = (replace(poisoned.flagged[0], suggested_label=5), *poisoned.flagged[1:])
    first, second, *_ = rows(replace(poisoned, flagged=flagged))
    assert (first["class"], first["suggested_label"], first["suggested_class"]) == ("thing3", "5", "thing5")
    assert (second["suggested_label"], second["suggested_class"]) == ("", "")


@pytest.mark.parametrize(
    "key", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "|calc", "%x"]
)
def test_no_cell_is_a_formula(key: str, make_report: Callable[..., ScanReport], make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, keys=lambda i: f"{key}{i}", names=lambda k: key)
    for row in rows(report):
        assert row["key"].startswith("'")
        assert row["class"].startswith("'")


def test_a_key_with_separators_stays_one_cell(make_report: Callable[..., ScanReport], make_trigger: Any) -> None:
    report = make_report({3: make_trigger()}, keys=lambda i: f'a,b"c;{i}')
    assert [row["key"] for row in rows(report)] == [f'a,b"c;{i}' for i in range(8)]
