"""SARIF 2.1.0 for code scanning: one result per finding and shard, and one per kind of unreadable data in a shard.

GitHub takes 25,000 results a run and shows 5,000; 1,000 locations a result and shows 100. Where class times shard is
more than it shows, a finding becomes one result whose locations are its shards. The samples themselves are in the
JSON and CSV reports.
https://docs.github.com/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from blake3 import blake3

from vbdguard.by_shard import FlaggedPlace, flagged_places, is_url, place_of, place_path
from vbdguard.escaping import printable
from vbdguard.findings import RULES, Finding, findings_of
from vbdguard.formats.rendering import Extras
from vbdguard.formats.telling import tell_finding, tell_places
from vbdguard.next_steps import next_steps
from vbdguard.report import ScanReport, SkippedSample
from vbdguard.wording import artefact_words, count_words

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 5_000
MOST_LOCATIONS = 100
_NAMED_SAMPLES, _NAMED_ENTRIES = 5, 3

_UNREADABLE, _ARTEFACT = "unreadable-data", "class-artefact"
_LEVELS = {"backdoor-trigger": "error", "suspicious-class": "warning", _UNREADABLE: "error", _ARTEFACT: "note"}
_SEVERITIES = {"backdoor-trigger": "9.0", "suspicious-class": "5.0", _UNREADABLE: "5.0", _ARTEFACT: "1.0"}
"""GitHub's words for them: critical from 9.0, medium from 4.0, low below."""
_DESCRIPTIONS: dict[str, str] = {
    **{str(rule): words for rule, words in RULES.items()},
    _UNREADABLE: "Data that could not be read were not scanned, so they are not cleared.",
    _ARTEFACT: "Samples of one class share a pattern, and nothing says that their labels are wrong: no alarm.",
}
_HELP = {
    "backdoor-trigger": "Samples of this class carry the same pattern. A model trained on them gives this class to "
    "whatever image bears the pattern. Look at the images (vbdguard scan SOURCE -o report.html), then train without "
    "them (vbdguard clean SOURCE DEST, or vbdguard.guard in Python) and find out how they came in.",
    "suspicious-class": "The class stands out as a poisoned one would, but it was not proven. Look at its images, or "
    "scan a larger part of the data.",
    _UNREADABLE: "Repair or remove what is named, then scan again. A scan that could not read everything never calls "
    "the data clean.",
    _ARTEFACT: "A watermark, a border or a date stamp of one source, for instance. No poison, but a model may learn it "
    "instead of the class; crop or paint over it if that matters.",
}


def render(report: ScanReport, extras: Extras) -> str:
    """Return the report as a SARIF log, ASCII."""
    body = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(report, extras.accepted)]}
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _run(report: ScanReport, accepted: Mapping[str, str]) -> dict[str, Any]:
    rules = tuple(_DESCRIPTIONS)
    results = [*_findings(report, accepted), *_unreadable(report), *_artefacts(report)]
    ranks = {level: rank for rank, level in enumerate(("error", "warning", "note"))}
    results.sort(key=lambda result: ranks[result["level"]])
    return {
        "tool": {
            "driver": {
                "name": "vbdguard",
                "semanticVersion": report.tool.get("version", "0.0.0"),
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "invocations": [{"executionSuccessful": report.status == "complete"}],
        "results": [{**result, "ruleIndex": rules.index(result["ruleId"])} for result in results[:MOST_RESULTS]],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdict": report.verdict,
            "status": report.status,
            "datasetDigest": report.dataset.digest,
            "samples": report.dataset.samples,
            "flagged": len(report.flagged),
            "resultsLeftOut": max(0, len(results) - MOST_RESULTS),
        },
    }


def _rule(rule: str) -> dict[str, Any]:
    return {
        "id": rule,
        "name": "".join(word.capitalize() for word in rule.split("-")),
        "shortDescription": {"text": _DESCRIPTIONS[rule]},
        "fullDescription": {"text": _DESCRIPTIONS[rule]},
        "help": {"text": _HELP[rule]},
        "defaultConfiguration": {"level": _LEVELS[rule]},
        "properties": {
            "precision": "medium" if rule == "suspicious-class" else "high",
            "security-severity": _SEVERITIES[rule],
            "tags": ["security", "training-data", "data-poisoning"],
        },
    }


# the findings ---------------------------------------------------------------------------------------------------


def _findings(report: ScanReport, accepted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    by_class: defaultdict[int, list[FlaggedPlace]] = defaultdict(list)
    for place in flagged_places(report):
        by_class[place.label].append(place)
    is_many = sum(map(len, by_class.values())) > MOST_RESULTS
    for finding in findings_of(report):
        places = by_class.get(finding.label, []) if finding.rule == "backdoor-trigger" else []
        groups = [[place] for place in places] if places and not is_many else [places]
        for group in groups:
            yield _finding(report, finding, group, accepted.get(finding.digest))


def _finding(
    report: ScanReport, finding: Finding, places: Sequence[FlaggedPlace], reason: str | None
) -> dict[str, Any]:
    """Return the result for a finding in some of its places; in none, it is about the whole data set."""
    ranked = sorted(places, key=lambda place: (-len(place.samples), place.place))
    paths = [place_path(report, place.place) for place in ranked] or list(report.dataset.sources[:1])
    command = next_steps(report)[0].command
    words = [tell_finding(finding, report), tell_places(report, ranked), _surest(ranked), f"Next: {command}"]
    result = _result(finding.rule, " ".join(filter(None, words)), paths, (finding.rule, str(finding.label), *paths[:1]))
    result["partialFingerprints"]["vbdguardFinding/v1"] = finding.digest
    if ranked:
        names = [sample.key for place in ranked for sample in place.samples[:_NAMED_SAMPLES]][:_NAMED_SAMPLES]
        result["locations"][0]["logicalLocations"] = [{"fullyQualifiedName": printable(name)} for name in names]
    if reason is not None:
        result["suppressions"] = [{"kind": "external", "justification": printable(reason)}]
    return result


def _surest(places: Sequence[FlaggedPlace]) -> str:
    if len(places) != 1:
        return ""
    shown = ", ".join(printable(sample.key) for sample in places[0].samples[:_NAMED_SAMPLES])
    return f"Surest: {shown}{', ...' if len(places[0].samples) > _NAMED_SAMPLES else ''}."


# what could not be read -----------------------------------------------------------------------------------------


def _unreadable(report: ScanReport) -> Iterator[dict[str, Any]]:
    shards = {shard.name for shard in report.dataset.shards}
    groups: defaultdict[tuple[str, str], list[SkippedSample]] = defaultdict(list)
    for entry in report.skipped:
        place = entry.key if entry.key in shards else place_of(entry.key, shards)
        groups[place, entry.reason].append(entry)
    for (place, reason), entries in sorted(groups.items()):
        shown = "; ".join(f"{printable(one.key)}: {printable(one.detail)}" for one in entries[:_NAMED_ENTRIES])
        more = f"; and {len(entries) - _NAMED_ENTRIES:,} more" if len(entries) > _NAMED_ENTRIES else ""
        head = f"{count_words(len(entries), 'entry', 'entries')} could not be read ({printable(reason)})"
        path = place_path(report, place)
        yield _result(_UNREADABLE, f"{head}: {shown}{more}", [path], (_UNREADABLE, reason, path))
    named = {place for place, _ in groups}
    for shard in report.dataset.shards:
        if shard.status != "complete" and shard.name not in named and not groups:
            path = place_path(report, shard.name)
            yield _result(_UNREADABLE, f"This shard is {shard.status}.", [path], (_UNREADABLE, "", path))


def _artefacts(report: ScanReport) -> Iterator[dict[str, Any]]:
    for entry in report.marked_classes:
        words = artefact_words(entry, report.dataset.image_shape)
        yield _result(
            _ARTEFACT, f"{words[:1].upper()}{words[1:]}.", report.dataset.sources[:1], (_ARTEFACT, str(entry.label))
        )


# parts of a result ----------------------------------------------------------------------------------------------


def _result(rule: str, words: str, paths: Sequence[str], identity: Sequence[str]) -> dict[str, Any]:
    """Return a result without its extras.

    Args:
        rule: its id.
        words: the message.
        paths: where it lies, at most `MOST_LOCATIONS` of them are kept.
        identity: what makes two runs' results the same one. GitHub tracks alerts by `primaryLocationLineHash` alone.
    """
    identity_hash = blake3("\0".join(identity).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return {
        "ruleId": rule,
        "level": _LEVELS[rule],
        "message": {"text": _escaped(words)},
        "locations": [_location(path) for path in paths[:MOST_LOCATIONS]],
        "partialFingerprints": {"primaryLocationLineHash": f"{identity_hash}:1"},
    }


def _location(path: str) -> dict[str, Any]:
    # GitHub wants a line, also of files that have none.
    return {"physicalLocation": {"artifactLocation": _artifact(path), "region": {"startLine": 1}}}


def _artifact(path: str) -> dict[str, str]:
    """Return where a file lies: relative to the root of the repository, unless it says itself where."""
    if is_url(path):
        scheme, _, rest = path.partition("://")
        return {"uri": f"{scheme}://{_quoted(rest)}"}
    path = path.replace("\\", "/")
    if path.startswith("/"):
        return {"uri": f"file://{_quoted(path)}"}
    return {"uri": _quoted(path.removeprefix("./")) or ".", "uriBaseId": "%SRCROOT%"}


def _quoted(path: str) -> str:
    return quote(path.encode("utf-8", "surrogatepass"), safe="/")


def _escaped(text: str) -> str:
    r"""Return text as a SARIF message (3.11): braces would be placeholders, brackets links."""
    text = text.replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
    return text.replace("{", "{{").replace("}", "}}")
