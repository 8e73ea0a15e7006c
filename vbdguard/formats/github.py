"""Annotations for the log of a GitHub Actions job (workflow commands).

GitHub shows ten errors and ten warnings of a step; more findings than that share the last annotation.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vbdguard.by_shard import FlaggedPlace, flagged_places, is_url, place_path
from vbdguard.findings import Finding
from vbdguard.formats.rendering import Extras
from vbdguard.formats.telling import open_findings, tell_finding, tell_places, tell_unread
from vbdguard.next_steps import next_steps
from vbdguard.report import ScanReport
from vbdguard.wording import class_words

MOST = 10
"""Annotations of one kind that GitHub shows of a step."""


@dataclass(frozen=True, slots=True)
class _Annotation:
    kind: str
    title: str
    message: str
    file: str = ""

    def __str__(self) -> str:
        file = f"file={_property(self.file)}," if self.file else ""
        return f"::{self.kind} {file}title={_property(self.title)}::{_message(self.message)}\n"


def render(report: ScanReport, extras: Extras) -> str:
    """Return workflow commands, a line each; a notice where nothing was found."""
    return "".join(map(str, _annotations(report, extras)))


def _annotations(report: ScanReport, extras: Extras) -> Iterator[_Annotation]:
    places = flagged_places(report)
    found = open_findings(report, extras.accepted)
    step = next_steps(report)[0]
    poisoned = [finding for finding in found if finding.rule == "backdoor-trigger"]
    yield from _some(poisoned, "error", report, places, f"Next: {step.command}")
    yield from _some([one for one in found if one not in poisoned], "warning", report, places, "")
    if report.status == "incomplete":
        yield _Annotation("error", "vbdguard: could not read all data", f"{tell_unread(report)}\nNothing is cleared.")
    elif not found:
        words = "nothing found beyond the baseline" if extras.accepted else "no backdoor trigger found"
        yield _Annotation(
            "notice", f"vbdguard: {words}", f"{report.dataset.samples:,} samples, data {report.dataset.digest}"
        )


def _some(
    findings: Sequence[Finding], kind: str, report: ScanReport, places: Sequence[FlaggedPlace], end: str
) -> Iterator[_Annotation]:
    # One place is left for what could not be read.
    shown = findings if len(findings) < MOST else findings[: MOST - 2]
    for finding in shown:
        where = [place for place in places if place.label == finding.label]
        lines = [tell_finding(finding, report), tell_places(report, where), end]
        yield _Annotation(kind, _title(finding), "\n".join(filter(None, lines)), _file(report, where))
    if rest := findings[len(shown) :]:
        names = ", ".join(f"class {finding.label}" for finding in rest[:50]) + (", ..." if len(rest) > 50 else "")
        yield _Annotation(kind, f"vbdguard: {len(rest)} more classes", f"{names}\n{end}".rstrip())


def _title(finding: Finding) -> str:
    what = "backdoor trigger" if finding.rule == "backdoor-trigger" else "suspicious"
    return f"vbdguard: {what} in class {class_words(finding)}"


def _file(report: ScanReport, places: Sequence[FlaggedPlace]) -> str:
    """Return the file that an annotation hangs on, none where GitHub could not find it."""
    if not places:
        return ""
    path = place_path(report, max(places, key=lambda place: len(place.samples)).place)
    is_inside = path.isprintable() and not is_url(path) and not path.startswith(("/", "../"))
    return path if is_inside else ""


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
