"""Findings in sentences, for the formats that are text: which class, how sure, which shards, how many samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

from vbdguard.by_shard import FlaggedPlace, place_path
from vbdguard.escaping import printable
from vbdguard.findings import Finding, findings_of
from vbdguard.report import ClassReport, ScanReport
from vbdguard.wording import attack_words, blend_words, class_words, count_words, p_value_words, trigger_words

_SHARDS, _REASONS, _ENTRIES = 5, 5, 3


def open_findings(report: ScanReport, accepted: Container[str]) -> tuple[Finding, ...]:
    """Return the findings that no baseline accepts."""
    return tuple(finding for finding in findings_of(report) if finding.digest not in accepted)


def class_of(finding: Finding, report: ScanReport) -> ClassReport:
    """Return what the report says about a finding's class."""
    return next(entry for entry in report.classes if entry.label == finding.label)


def tell_finding(finding: Finding, report: ScanReport) -> str:
    """Return class, trigger, number of samples and certainty of a finding, in a sentence or two."""
    entry = class_of(finding, report)
    name = f"Class {class_words(entry)}"
    if finding.rule == "suspicious-class":
        return f"{name} looks as a poisoned class would, short of proof: {certainty(entry)}."
    share = entry.flagged / entry.samples if entry.samples else 0.0
    what = "a trigger that was not recovered"
    if entry.trigger is not None:
        what = f"{trigger_words(entry.trigger, report.dataset.image_shape)}, blend {blend_words(entry.trigger)}"
    flagged = f"{entry.flagged:,} of {count_words(entry.samples, 'sample')} flagged ({share:.1%})"
    return f"{name}: backdoor trigger ({what}); {flagged}; {certainty(entry)}."


def certainty(entry: ClassReport) -> str:
    """Return how sure a finding is, in words: what was measured and how likely that is in a clean class."""
    parts = []
    if entry.attack_success_rate is not None:
        parts.append(f"the trigger turns {attack_words(entry.attack_success_rate)}")
    if entry.p_value is not None:
        parts.append(f"p-value {p_value_words(entry.p_value)} (chance of such evidence in a clean class)")
    return ", ".join(parts) or "certainty not measured"


def tell_places(report: ScanReport, places: Sequence[FlaggedPlace]) -> str:
    """Return the shards with the most flagged samples of a class, each with their number; "" for none."""
    if not places:
        return ""
    ranked = sorted(places, key=lambda place: (-len(place.samples), place.place))
    shown = ", ".join(f"{printable(place_path(report, one.place))} ({len(one.samples):,})" for one in ranked[:_SHARDS])
    more = f" and {len(ranked) - _SHARDS:,} more" if len(ranked) > _SHARDS else ""
    return f"In {shown}{more}."


def tell_unread(report: ScanReport) -> str:
    """Return how much could not be read, why, and the first of it."""
    reasons = Counter(entry.reason for entry in report.skipped).most_common(_REASONS)
    counts = ", ".join(f"{count:,} {printable(reason)}" for reason, count in reasons)
    shown = "; ".join(f"{printable(one.key)}: {printable(one.detail)}" for one in report.skipped[:_ENTRIES])
    if not counts:
        shards = [printable(shard.name) for shard in report.dataset.shards if shard.status != "complete"]
        return f"Could not be read in full: {', '.join(shards[:_SHARDS])}"
    return f"Could not be read: {counts}. {shown}{'; ...' if len(report.skipped) > _ENTRIES else ''}"
