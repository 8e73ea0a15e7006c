"""JUnit XML: a test per class, and one for what could not be read, since CI servers show tests of any kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from vbdguard.by_shard import FlaggedPlace, flagged_places
from vbdguard.escaping import printable
from vbdguard.findings import Finding, findings_of
from vbdguard.formats.rendering import Extras
from vbdguard.formats.telling import tell_finding, tell_places, tell_unread
from vbdguard.next_steps import next_steps
from vbdguard.report import ScanReport
from vbdguard.wording import class_words

_NAMED = 100
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def render(report: ScanReport, extras: Extras) -> str:
    """Return the report as JUnit XML (the dialect that Jenkins, GitLab, Azure and CircleCI read)."""
    suites = Element("testsuites", name="vbdguard")
    suite = SubElement(suites, "testsuite", name="vbdguard")
    _add_properties(suite, report)
    _add_reading(suite, report)
    _add_classes(suite, report, extras.accepted)
    for element in (suites, suite):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            element.set(name, str(sum(1 for _ in suite.iter(tag))))
        element.set("time", f"{report.timings.get('total', 0.0):.3f}")
    suite.set("skipped", str(sum(1 for _ in suite.iter("skipped"))))
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _add_properties(suite: Element, report: ScanReport) -> None:
    properties = SubElement(suite, "properties")
    for name, value in (
        ("verdict", report.verdict),
        ("status", report.status),
        ("dataset.digest", report.dataset.digest),
        ("dataset.samples", str(report.dataset.samples)),
        ("flagged", str(len(report.flagged))),
        ("vbdguard", report.tool.get("version", "")),
    ):
        SubElement(properties, "property", name=name, value=_text(value))


def _add_reading(suite: Element, report: ScanReport) -> None:
    case = SubElement(suite, "testcase", classname="vbdguard.data", name="all data can be read")
    if report.status == "incomplete":
        error = SubElement(case, "error", type="unreadable-data", message=_text(tell_unread(report)))
        lines = [f"{printable(one.key)}: {printable(one.reason)}: {printable(one.detail)}" for one in report.skipped]
        more = [f"... and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else []
        error.text = _text("\n".join(lines[:_NAMED] + more))


def _add_classes(suite: Element, report: ScanReport, accepted: Mapping[str, str]) -> None:
    found = {finding.label: finding for finding in findings_of(report)}
    places: defaultdict[int, list[FlaggedPlace]] = defaultdict(list)
    for place in flagged_places(report):
        places[place.label].append(place)
    for entry in report.classes:
        case = SubElement(suite, "testcase", classname="vbdguard.class", name=_text(f"class {class_words(entry)}"))
        if (finding := found.get(entry.label)) is not None:
            _add_finding(case, report, finding, places[entry.label], accepted.get(finding.digest))


def _add_finding(
    case: Element, report: ScanReport, finding: Finding, places: list[FlaggedPlace], reason: str | None
) -> None:
    message = _text(tell_finding(finding, report))
    if reason is not None:
        SubElement(case, "skipped", message=_text(f"accepted: {printable(reason)}; {message}"))
    elif finding.rule == "suspicious-class":
        SubElement(case, "system-out").text = message
    else:
        failure = SubElement(case, "failure", type=finding.rule, message=message)
        samples = [sample for place in places for sample in place.samples]
        more = [f"... and {len(samples) - _NAMED:,} more"] if len(samples) > _NAMED else []
        lines = [
            message,
            tell_places(report, places),
            f"Next: {next_steps(report)[0].command}",
            *(f"{sample.score:.3f} {printable(sample.key)}" for sample in samples[:_NAMED]),
            *more,
        ]
        failure.text = _text("\n".join(lines))


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
