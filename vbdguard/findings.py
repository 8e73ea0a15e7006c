"""What a report found, item by item, as a gate judges it, a baseline accepts it and other tools track it.

A finding is known again by its fingerprint, which hangs on the content of the flagged samples alone: it stays the
same when shards are renamed, cut anew or scanned on another machine, and changes with the flagged samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from blake3 import blake3

from vbdguard.report import ClassReport, ScanReport

Rule = Literal["backdoor-trigger", "suspicious-class"]

RULES: dict[Rule, str] = {
    "backdoor-trigger": "A class has a backdoor trigger: samples that carry it were given this label.",
    "suspicious-class": "A class looks as a poisoned one would, short of proof.",
}
"""Every rule with what it says, in one sentence."""
SUSPICIOUS_P = 0.01
"""A class that is not held for poisoned is suspicious where its evidence is at most this likely in a clean class."""

_TAG = b"vbdguard finding 1\0"


@dataclass(frozen=True, slots=True)
class Finding:
    """One class that somebody has to look at.

    Raises:
        ValueError: if the rule is unknown or a value out of range.
    """

    rule: Rule
    digest: str
    """Hex BLAKE3: the fingerprint."""
    label: int
    name: str
    samples: int
    """Samples of the class."""
    flagged: int
    p_value: float | None

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {self.rule!r}")
        if not 0 <= self.flagged <= self.samples:
            raise ValueError(f"flagged must be 0 to the class's {self.samples} samples, got {self.flagged}")


def findings_of(report: ScanReport) -> tuple[Finding, ...]:
    """Return the findings of a report in the order of their labels."""
    return tuple(_findings(report))


def _findings(report: ScanReport) -> Iterator[Finding]:
    flagged: dict[int, list[str]] = {}
    for sample in report.flagged:
        flagged.setdefault(sample.label, []).append(sample.digest)
    for entry in report.classes:
        rule = _rule(entry)
        if rule is not None:
            # A class without flagged samples has no content of its own to be known by: the data set's stands for it.
            content = flagged.get(entry.label, [report.dataset.digest])
            digest = _fingerprint(rule, entry.label, content)
            # Three digits: the last ones of a test differ from machine to machine.
            p_value = None if entry.p_value is None else float(f"{entry.p_value:.3g}")
            yield Finding(rule, digest, entry.label, entry.name, entry.samples, entry.flagged, p_value)


def _rule(entry: ClassReport) -> Rule | None:
    if entry.poisoned:
        return "backdoor-trigger"
    return "suspicious-class" if entry.p_value is not None and entry.p_value <= SUSPICIOUS_P else None


def _fingerprint(rule: Rule, label: int, content: list[str]) -> str:
    lines = "\n".join([rule, str(label), *sorted(content)])
    return blake3(_TAG + lines.encode("ascii")).hexdigest()
