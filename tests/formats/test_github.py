from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vbdguard.findings import findings_of
from vbdguard.formats.github import MOST
from vbdguard.formats.rendering import Extras, render
from vbdguard.report import ScanReport

COMMAND = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^,:]*)(?:,[a-z]+=[^,:]*)*)::(.*)")


def obeyed(report: ScanReport, extras: Extras | None = None) -> list[tuple[str, dict[str, str], str]]:
    """The commands as the runner reads them, line by line: kind, properties, message."""
    found = []
    for line in render(report, "github", extras).splitlines():
        match = COMMAND.fullmatch(line)
        assert match is not None, line
        fields = dict(part.split("=", 1) for part in match[2].split(","))
        found.append((match[1], {name: decoded(value) for name, value in fields.items()}, decoded(match[3])))
    return found


def decoded(text: str) -> str:
    for code, char in (("%2C", ","), ("%3A", ":"), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_a_finding_says_class_shards_samples_certainty_and_what_to_type(poisoned: ScanReport) -> None:
    ((kind, fields, message),) = obeyed(poisoned)
    assert kind == "error"
    assert fields == {
        "file": "shards/train-000000.tar",
        "title": "vbdguard: backdoor trigger in class 3 thing3",
    }
    assert message.splitlines() == [
        "Class 3 thing3: backdoor trigger (3 x 3 bottom right, blend 100%); 8 of 100 samples flagged (8.0%); "
        "the trigger turns 98.7% of other images, p-value 1e-12 (chance of such evidence in a clean class).",
        "In shards/train-000000.tar (8).",
        "Next: vbdguard scan shards/ -o report.html",
    ]


def test_clean_data_are_a_notice_and_unreadable_ones_an_error(clean: ScanReport, incomplete: ScanReport) -> None:
    assert [kind for kind, _, _ in obeyed(clean)] == ["notice"]
    ((kind, _, message),) = obeyed(incomplete)
    assert kind == "error"
    assert message.startswith("Could not be read: 1 undecodable. train-000001.tar/img_12: expected a JPEG")


def test_an_artefact_is_nothing_to_annotate(marked: ScanReport, clean: ScanReport) -> None:
    assert obeyed(marked) == obeyed(clean)


def test_a_suspicious_class_is_a_warning(suspicious: ScanReport) -> None:
    assert [kind for kind, _, _ in obeyed(suspicious)] == ["warning"]


def test_accepted_findings_are_not_annotated(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    assert [kind for kind, _, _ in obeyed(poisoned, Extras({finding.digest: "a drill"}))] == ["notice"]


def test_no_more_annotations_than_github_shows(huge: ScanReport) -> None:
    found = obeyed(huge)
    assert len(found) < MOST
    assert found[-1][1]["title"] == "vbdguard: 992 more classes"


def test_hostile_names_stay_inside_their_annotation(evil: ScanReport) -> None:
    found = obeyed(evil)
    assert [kind for kind, _, _ in found] == ["error", "error", "error"]
    assert all(set(fields) <= {"file", "title"} for _, fields, _ in found)


def test_a_file_outside_the_repository_is_not_linked(make_report: Callable[..., ScanReport], make_trigger: Any) -> None:
    for source in ("/data/shards/", "s3://bucket/shards/", "../shards/"):
        ((_, fields, _),) = obeyed(make_report({3: make_trigger()}, sources=(source,)))
        assert "file" not in fields
