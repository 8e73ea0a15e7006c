"""The gate: which findings count, and the exit code that says so.

0  nothing counts, and everything could be read
1  a finding counts
2  no finding counts, but something could not be read
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from vbdguard.baseline import Acceptance, Baseline
from vbdguard.escaping import printable
from vbdguard.findings import Finding, Rule
from vbdguard.wording import count_words, finding_words

FailOn = Literal["never", "suspicious", "poisoned"]

_COUNTING: dict[FailOn, frozenset[Rule]] = {
    "never": frozenset(),
    "poisoned": frozenset({"backdoor-trigger"}),
    "suspicious": frozenset({"backdoor-trigger", "suspicious-class"}),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate makes of the findings."""

    counting: tuple[Finding, ...]
    """Those that let it fail."""
    passed_over: tuple[Finding, ...]
    """Those that `fail_on` does not count, though they are poison."""
    accepted: tuple[tuple[Finding, Acceptance], ...]
    """Those that the baseline takes out."""
    expired: tuple[Acceptance, ...]
    """Entries of the baseline whose finding counts again."""
    unused: tuple[Acceptance, ...]
    """Entries of the baseline that nothing matches any more."""
    is_complete: bool

    @property
    def exit_code(self) -> int:
        """0, 1 or 2; findings outrank what could not be read."""
        return 1 if self.counting else self.exit_code_without_findings

    @property
    def exit_code_without_findings(self) -> int:
        """What it would be if none counted: 0, or 2 where something could not be read."""
        return 0 if self.is_complete else 2


def judge(
    findings: Iterable[Finding],
    *,
    is_complete: bool,
    fail_on: FailOn = "poisoned",
    baseline: Baseline | None = None,
    today: date | None = None,
) -> Judgement:
    """Return which findings count.

    Args:
        findings: of a report or a receipt.
        is_complete: whether everything could be read, or what could not is accepted.
        fail_on: the least that counts.
        baseline: what is accepted; None accepts nothing.
        today: the day that acceptances are held against; None takes the present day, in UTC.
    """
    day = today or datetime.now(UTC).date()
    known = baseline or Baseline.empty()
    open_ones: list[Finding] = []
    accepted: list[tuple[Finding, Acceptance]] = []
    expired: list[Acceptance] = []
    for finding in findings:
        entry = known.acceptance_of(finding)
        if entry is not None and not entry.has_expired(day):
            accepted.append((finding, entry))
            continue
        if entry is not None:
            expired.append(entry)
        open_ones.append(finding)
    seen = {*expired, *(entry for _, entry in accepted)}
    unused = tuple(entry for entry in known.findings if entry not in seen)
    counting = tuple(finding for finding in open_ones if finding.rule in _COUNTING[fail_on])
    passed_over = tuple(f for f in open_ones if f.rule == "backdoor-trigger" and f not in counting)
    return Judgement(counting, passed_over, tuple(accepted), tuple(expired), unused, is_complete)


def gate_lines(judgement: Judgement) -> Iterator[str]:
    """Yield what a reader of the log has to know about the gate; nothing where no baseline had a say."""
    for finding, entry in judgement.accepted:
        until = f" until {entry.expires}" if entry.expires else ""
        yield f"Accepted{until}: {finding_words(finding)}; reason: {printable(entry.reason)}"
    for entry in judgement.expired:
        yield f"Accepted only until {entry.expires}: {printable(entry.what)}; reason was: {printable(entry.reason)}"
    if judgement.unused:
        count = count_words(len(judgement.unused), "entry", "entries")
        yield f"{count} of the baseline matched nothing; `vbdguard baseline update` takes them out"
    if judgement.accepted and judgement.counting:
        names = "; ".join(finding_words(finding) for finding in judgement.counting)
        yield f"Not accepted: {names}"
