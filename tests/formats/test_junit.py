from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from vbdguard.findings import findings_of
from vbdguard.formats.rendering import Extras, render
from vbdguard.report import ScanReport, SkippedSample

SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "schemas" / "junit-10.xsd"))


def suite_of(report: ScanReport, extras: Extras | None = None) -> etree._Element:
    root = etree.fromstring(render(report, "junit", extras).encode())
    SCHEMA.assertValid(root)
    (suite,) = root
    return suite


def case(suite: etree._Element, name: str) -> etree._Element:
    (found,) = suite.xpath("testcase[@name=$name]", name=name)
    return found


def test_the_schema_can_fail(poisoned: ScanReport) -> None:
    broken = render(poisoned, "junit").replace("<failure", "<fault").replace("</failure", "</fault")
    assert not SCHEMA.validate(etree.fromstring(broken.encode()))


def test_every_report_is_valid_and_its_counts_are_right(any_report: ScanReport) -> None:
    suite = suite_of(any_report)
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == len(suite.xpath(f".//{tag}"))
    assert int(suite.get("tests")) == len(any_report.classes) + 1


def test_a_poisoned_class_fails_and_says_why_where_and_what_next(poisoned: ScanReport) -> None:
    suite = suite_of(poisoned)
    failure = case(suite, "class 3 thing3").find("failure")
    assert "8 of 100 samples flagged (8.0%)" in failure.get("message")
    assert "In shards/train-000000.tar (8)." in failure.text
    assert "Next: vbdguard scan shards/" in failure.text
    assert "0.990 train-000000.tar/img_0" in failure.text
    assert len(case(suite, "class 4 thing4")) == 0


def test_unreadable_data_are_an_error(incomplete: ScanReport) -> None:
    error = case(suite_of(incomplete), "all data can be read").find("error")
    assert "train-000001.tar/img_12: undecodable: expected a JPEG" in error.text


def test_an_accepted_finding_is_skipped_with_its_reason(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    suite = suite_of(poisoned, Extras({finding.digest: "a drill"}))
    assert suite.get("failures") == "0"
    assert case(suite, "class 3 thing3").find("skipped").get("message").startswith("accepted: a drill; Class 3")


def test_a_suspicious_class_passes_with_a_word(suspicious: ScanReport) -> None:
    suite = suite_of(suspicious)
    assert suite.get("failures") == "0"
    assert "short of proof" in case(suite, "class 2 thing2").findtext("system-out")


def test_a_thousand_classes_are_a_thousand_tests(huge: ScanReport) -> None:
    assert suite_of(huge).get("failures") == "1000"


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\ufffe", "\udc80", "\x85", "]]>"])
def test_what_xml_cannot_hold_is_spelled_out(
    char: str, make_report: Callable[..., ScanReport], make_trigger: Any
) -> None:
    skipped = (SkippedSample(char, char, char),)
    report = make_report(
        {3: make_trigger()}, names=lambda k: f"{k}{char}", keys=lambda i: f"{i}{char}", skipped=skipped
    )
    shown = char if char == "]]>" else char.encode("unicode_escape").decode()
    assert case(suite_of(report), f"class 3 3{shown}").find("failure") is not None
