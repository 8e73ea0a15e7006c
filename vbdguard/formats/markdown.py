"""Markdown for a pull request or the summary of a CI job: verdict, classes, shards, what to type next.

Whatever comes from the data stands in code spans, where nothing has a meaning: no link, no mention, no HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vbdguard.by_shard import flagged_per_place, place_path
from vbdguard.escaping import printable
from vbdguard.findings import Finding, findings_of
from vbdguard.formats.rendering import Extras
from vbdguard.formats.telling import class_of
from vbdguard.next_steps import next_steps, scan_command
from vbdguard.report import ClassReport, ScanReport
from vbdguard.wording import artefact_judgement, attack_words, blend_words, count_words, p_value_words, trigger_words

_ROWS, _SHARDS, _SAMPLES, _SKIPPED = 50, 20, 10, 20
"""GitHub takes 1 MiB of summary per step, and nobody reads that much."""


def render(report: ScanReport, extras: Extras) -> str:
    """Return a summary in GitHub's Markdown, a few kilobytes whatever the size of the report."""
    return "\n".join(_lines(report, extras.accepted)) + "\n"


def _lines(report: ScanReport, accepted: Mapping[str, str]) -> Iterator[str]:
    yield from _head(report)
    found = findings_of(report)
    yield from _classes([one for one in found if one.rule == "backdoor-trigger"], report, accepted)
    yield from _suspicious([one for one in found if one.rule == "suspicious-class"], report)
    yield from _artefacts(report)
    yield from _shards(report)
    yield from _samples(report)
    yield from _skipped(report)
    yield from _next(report)
    yield from _about(report)


def _head(report: ScanReport) -> Iterator[str]:
    data = report.dataset
    size = f"{count_words(data.samples, 'sample')} of {count_words(data.classes, 'class', 'classes')}"
    if report.verdict == "poisoned":
        share = len(report.flagged) / data.samples if data.samples else 0.0
        yield "## :x: vbdguard: poisoned"
        yield ""
        classes = count_words(data.classes, "class", "classes")
        yield (
            f"**A backdoor trigger in {len(report.poisoned_classes):,} of {classes}; "
            f"{len(report.flagged):,} of {data.samples:,} samples flagged ({share:.1%}).** "
            "A model trained on these data would obey whoever knows the trigger."
        )
    elif report.status == "incomplete":
        yield "## :warning: vbdguard: incomplete"
        yield ""
        yield f"**No trigger found in {size}, but not all data could be read: not cleared.**"
    else:
        yield "## :white_check_mark: vbdguard: clean"
        yield ""
        yield (
            f"**No trigger found in {size}.** Looked for triggers that repeat across images (BadNets, Blended); "
            "clean-label poison, sample-specific triggers and warping are not seen."
        )
    yield ""


def _classes(found: Sequence[Finding], report: ScanReport, accepted: Mapping[str, str]) -> Iterator[str]:
    if not found:
        return
    rows = []
    for finding in found[:_ROWS]:
        entry = class_of(finding, report)
        trigger = entry.trigger
        what = "not recovered"
        if trigger is not None:
            what = f"{trigger_words(trigger, report.dataset.image_shape)}, blend {blend_words(trigger)}"
        share = entry.flagged / entry.samples if entry.samples else 0.0
        state = f"accepted: {_code(accepted[finding.digest])}" if finding.digest in accepted else "open"
        flagged = f"{entry.flagged:,} of {entry.samples:,} ({share:.1%})"
        rows.append((_class(entry), flagged, what, _certainty(entry), state))
    columns = ("Class", "Flagged", "Trigger", "Certainty", "State")
    used = columns if accepted else columns[:-1]
    yield from _table(used, rows)
    yield from _more(len(found) - len(rows), "more class", "more classes")
    yield "The p-value is the chance of such evidence in a clean class."
    yield ""


def _certainty(entry: ClassReport) -> str:
    p_value = "" if entry.p_value is None else f"p = {p_value_words(entry.p_value)}"
    rate = entry.attack_success_rate
    attack = "" if rate is None else f"turns {attack_words(rate)}"
    return ", ".join(filter(None, (p_value, attack))) or "-"


def _suspicious(found: Sequence[Finding], report: ScanReport) -> Iterator[str]:
    if found:
        names = ", ".join(
            f"{_class(class_of(one, report))} (p = {p_value_words(one.p_value)})" for one in found[:_ROWS]
        )
        yield f"Suspicious, short of proof: {names}{', ...' if len(found) > _ROWS else ''}"
        yield ""


def _artefacts(report: ScanReport) -> Iterator[str]:
    marked = report.marked_classes
    if marked:
        yield "Artefacts, no alarm: patterns on samples of one class. A model may learn them instead."
        yield ""
        for entry in marked[:_ROWS]:
            if entry.artefact is not None:
                pattern, shape = entry.artefact.pattern, report.dataset.image_shape
                what = f"{trigger_words(pattern, shape)}, on {entry.artefact.bearers:,}"
                known = artefact_judgement(pattern, shape)
                yield f"- {_class(entry)}: {what} of {count_words(entry.samples, 'sample')}, {known}"
        yield ""
        yield from _more(len(marked) - _ROWS, "more class", "more classes")


def _shards(report: ScanReport) -> Iterator[str]:
    counts = flagged_per_place(report)
    if not counts:
        return
    yield from _opening(f"Where: {count_words(len(counts), 'shard or folder', 'shards or folders')}")
    shown = list(counts.items())[:_SHARDS]
    yield from _table(("Shard", "Flagged"), [(_code(place_path(report, name)), f"{n:,}") for name, n in shown])
    yield from _more(len(counts) - len(shown), "more", "more")
    yield from _closing()


def _samples(report: ScanReport) -> Iterator[str]:
    if not report.flagged:
        return
    shown = sorted(report.flagged, key=lambda sample: (-sample.score, sample.key))[:_SAMPLES]
    yield from _opening(f"Flagged samples: the surest {len(shown)} of {len(report.flagged):,}")
    rows = [(_code(one.key), str(one.label), f"{one.score:.3f}", _code(one.digest[:12])) for one in shown]
    yield from _table(("Sample", "Label", "Score", "Digest"), rows)
    yield from _closing()


def _skipped(report: ScanReport) -> Iterator[str]:
    if report.status == "complete":
        return
    yield f"### Could not be read: {count_words(len(report.skipped), 'entry', 'entries')}"
    yield ""
    for one in report.skipped[:_SKIPPED]:
        yield f"- {_code(one.key)} {_code(one.reason)}: {_code(one.detail)}"
    yield from _more(len(report.skipped) - _SKIPPED, "more", "more")
    yield ""


def _next(report: ScanReport) -> Iterator[str]:
    yield "### Next"
    yield ""
    for step in next_steps(report):
        yield f"- {_code(step.command)} {step.purpose}"
    yield ""


def _about(report: ScanReport) -> Iterator[str]:
    version = report.tool.get("version", "")
    data = f"{count_words(len(report.dataset.shards), 'shard')}, data {_code(report.dataset.digest[:12])}"
    yield (f"<sub>vbdguard {_code(version)}, {data}, again: {_code(scan_command(report))}</sub>")


# parts of a page ------------------------------------------------------------------------------------------------


def _class(entry: ClassReport) -> str:
    number = str(entry.label)
    return number if entry.name in ("", number) else f"{number} {_code(entry.name)}"


def _code(text: str) -> str:
    r"""Return text from the data as a code span; a pipe would end the cell of a table and is spelled out."""
    shown = printable(text).replace("|", r"\x7c")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if not shown.strip() or "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown or ' '}{pad}{fence}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row[: len(columns)])} |"
    yield ""


def _more(count: int, one: str, many: str) -> Iterator[str]:
    if count > 0:
        yield f"... and {count_words(count, one, many)}: `-o report.json` lists them all"
        yield ""


def _opening(summary: str) -> Iterator[str]:
    yield f"<details><summary>{summary}</summary>"
    yield ""


def _closing() -> Iterator[str]:
    yield "</details>"
    yield ""
