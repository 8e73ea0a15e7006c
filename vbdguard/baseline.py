"""A baseline: the findings that somebody has looked at and accepts, each with a reason, as a file for a repository.

    {
     "baseline_version": 1,
     "findings": [
      {"rule": "backdoor-trigger", "digest": "5c...", "what": "class 3 cat", "reason": "...", "expires": "2027-03-31"}
     ]
    }

One finding a line, sorted by rule and digest, without the time of its making: two branches that accept different
findings merge, and writing it again changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Self

from vbdguard.atomic import write_atomically
from vbdguard.errors import BaselineError
from vbdguard.findings import Finding, Rule
from vbdguard.typed_json import MismatchError, rebuild
from vbdguard.wording import finding_words

BASELINE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Acceptance:
    """One accepted finding.

    Raises:
        ValueError: if the reason is empty or the day is none.
    """

    rule: Rule
    digest: str
    """The finding's fingerprint."""
    what: str
    """The finding in words, for readers of the file; nothing depends on it."""
    reason: str
    expires: str | None
    """The last day on which the finding is accepted, as YYYY-MM-DD; None: for good."""

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("reason must say why the finding is accepted, got an empty one")
        if self.expires is not None:
            date.fromisoformat(self.expires)

    def has_expired(self, today: date) -> bool:
        """Return whether the finding counts again."""
        return self.expires is not None and date.fromisoformat(self.expires) < today


@dataclass(frozen=True, slots=True)
class Baseline:
    """The accepted findings, sorted by rule and digest.

    Raises:
        ValueError: if a finding stands in it twice.
    """

    baseline_version: int
    findings: tuple[Acceptance, ...]

    def __post_init__(self) -> None:
        if self.baseline_version != BASELINE_VERSION:
            raise ValueError(f"expected baseline_version {BASELINE_VERSION}, got {self.baseline_version}")
        entries = tuple(sorted(self.findings, key=lambda entry: (entry.rule, entry.digest)))
        for one, other in pairwise(entries):
            if (one.rule, one.digest) == (other.rule, other.digest):
                raise ValueError(f"{one.rule} {one.digest[:12]} stands in it twice; keep one")
        object.__setattr__(self, "findings", entries)

    @classmethod
    def empty(cls) -> Self:
        """Return the baseline that accepts nothing."""
        return cls(BASELINE_VERSION, ())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the baseline in a file.

        Raises:
            BaselineError: if the file holds none; says what is wrong with it.
            OSError: if it cannot be read.
        """
        try:
            return rebuild(cls, json.loads(path.read_bytes()))
        except MismatchError as error:
            raise BaselineError(f"{path}: not a vbdguard baseline: {error}") from error
        except (ValueError, RecursionError) as error:
            raise BaselineError(f"{path}: expected a vbdguard baseline as JSON: {error}") from error

    def write(self, path: Path) -> None:
        """Write it to a file, one finding a line.

        Raises:
            OSError: if it cannot be written.
        """
        lines = ",\n".join(f"  {json.dumps(asdict(entry))}" for entry in self.findings)
        body = f"[\n{lines}\n ]" if lines else "[]"
        write_atomically(path, f'{{\n "baseline_version": {self.baseline_version},\n "findings": {body}\n}}\n')

    def acceptance_of(self, finding: Finding) -> Acceptance | None:
        """Return the entry that accepts a finding, whether it has expired or not."""
        same = (entry for entry in self.findings if (entry.rule, entry.digest) == (finding.rule, finding.digest))
        return next(same, None)

    def updated(self, findings: Iterable[Finding], *, reason: str | None, expires: str | None) -> Self:
        """Return the baseline that accepts these findings and no others.

        Entries that are there already keep their reason and their day.

        Args:
            findings: all findings of a report.
            reason: why the new ones are accepted; None where there must not be any.
            expires: their last day, YYYY-MM-DD.

        Raises:
            BaselineError: if there is a new finding and no reason, or the day is none.
        """
        entries = []
        for finding in findings:
            known = self.acceptance_of(finding)
            if known is None and not reason:
                raise BaselineError(
                    f"{finding_words(finding)} is new: expected a reason to accept it; pass --reason TEXT"
                )
            entries.append(known or self._accept(finding, reason or "", expires))
        return type(self)(BASELINE_VERSION, tuple(entries))

    @staticmethod
    def _accept(finding: Finding, reason: str, expires: str | None) -> Acceptance:
        try:
            return Acceptance(finding.rule, finding.digest, finding_words(finding), reason, expires)
        except ValueError as error:
            raise BaselineError(f"cannot accept {finding_words(finding)}: {error}") from error
