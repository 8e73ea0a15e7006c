"""A receipt: the short form of a report that goes into a repository beside the data it speaks of.

    {
     "receipt_version": 1,
     "tool": {"code": "...", "name": "vbdguard", "version": "0.1.0"},
     "sources": ["data/train"],
     "digest": "...", "status": "complete", "verdict": "clean",
     "samples": 50000, "classes": 10, "flagged": 0, "skipped": 0, "unread_percent": 0.0,
     "config": {...}, "seed": 0,
     "findings": [],
     "flagged_in": {},
     "shards": [
      {"name": "train-000000.tar", "digest": "...", "samples": 5000}
     ],
     "checksum": "..."
    }

Sorted, a shard a line, without times, device or machine: the same data and settings give the same bytes, and a
change of one shard is one changed line. The checksum catches slips and merges by hand. It is no signature: whoever
can write the file can write its checksum, so a receipt is worth what the review of the repository is worth.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from vbdguard.atomic import write_atomically
from vbdguard.by_shard import flagged_per_place
from vbdguard.errors import ReceiptError
from vbdguard.findings import Finding, findings_of
from vbdguard.report import ScanReport, Status, Verdict
from vbdguard.typed_json import MismatchError, rebuild
from vbdguard.unreadable import Unread

RECEIPT_VERSION = 1
DEFAULT_NAME = "vbdguard.lock"

_LISTS = ("findings", "shards")


@dataclass(frozen=True, slots=True)
class ReceiptShard:
    """One unit of reading, as it was scanned."""

    name: str
    digest: str
    """Hex BLAKE3 of its bytes, or of its samples where it is no file; empty where it could not be read."""
    samples: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a scan said, and of which bytes.

    Raises:
        ValueError: if the parts contradict each other.
    """

    receipt_version: int
    tool: Mapping[str, str]
    sources: tuple[str, ...]
    """What was scanned; relative paths start from the receipt's folder."""
    digest: str
    status: Status
    verdict: Verdict
    samples: int
    classes: int
    flagged: int
    skipped: int
    unread_percent: float
    """The share of samples or of shards that could not be read, whichever is larger, 0 to 100."""
    config: Mapping[str, Any]
    seed: int
    findings: tuple[Finding, ...]
    flagged_in: Mapping[str, int]
    """How many samples are flagged in each shard (or folder, where samples are loose files) that has any."""
    shards: tuple[ReceiptShard, ...]
    """Sorted by name."""
    checksum: str

    def __post_init__(self) -> None:
        if self.receipt_version != RECEIPT_VERSION:
            raise ValueError(f"expected receipt_version {RECEIPT_VERSION}, got {self.receipt_version}")
        if self.checksum != _checksum(asdict(self)):
            raise ValueError("its checksum is not that of its content: it was edited or damaged")
        if any(entry.rule == "backdoor-trigger" for entry in self.findings) != (self.verdict == "poisoned"):
            raise ValueError(f"the verdict is {self.verdict!r}, its findings say otherwise")
        if self.status == "complete" and self.skipped:
            raise ValueError(f"the status is 'complete' with {self.skipped} entries skipped")

    def is_accepted(self, percent: float) -> bool:
        """Return whether everything could be read, or no more is missing than this share, 0 to 100."""
        return self.status == "complete" or 0 < self.unread_percent <= percent

    @classmethod
    def of(cls, report: ScanReport, path: Path) -> Self:
        """Return the receipt of a report that is to stand at `path`."""
        body: dict[str, Any] = {
            "receipt_version": RECEIPT_VERSION,
            "tool": dict(sorted(report.tool.items())),
            "sources": tuple(sorted(_seen_from(path, source) for source in report.dataset.sources)),
            "digest": report.dataset.digest,
            "status": report.status,
            "verdict": report.verdict,
            "samples": report.dataset.samples,
            "classes": report.dataset.classes,
            "flagged": len(report.flagged),
            "skipped": len(report.skipped),
            "unread_percent": 0.0 if report.status == "complete" else round(Unread.of(report).percent, 6),
            "config": _sorted(report.config),
            "seed": report.seed,
            "findings": findings_of(report),
            "flagged_in": _sorted(flagged_per_place(report)),
            "shards": tuple(
                ReceiptShard(shard.name, shard.digest, shard.samples)
                for shard in sorted(report.dataset.shards, key=lambda shard: (shard.name, shard.digest))
            ),
        }
        plain = {name: [asdict(one) for one in value] if name in _LISTS else value for name, value in body.items()}
        return cls(**body, checksum=_checksum(plain))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the receipt in a file.

        Raises:
            ReceiptError: if there is none, or what is there is damaged or edited.
            OSError: if the file cannot be read.
        """
        try:
            return rebuild(cls, json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise ReceiptError(
                f"{path}: expected a receipt, there is no such file; make one: vbdguard scan SOURCE --receipt {path}"
            ) from error
        except MismatchError as error:
            problem = str(error) if error.path else error.problem
            raise ReceiptError(f"{path}: refused: {problem}; {_renewal(path)}") from error
        except (ValueError, RecursionError) as error:
            raise ReceiptError(f"{path}: refused: expected a receipt as JSON: {error}; {_renewal(path)}") from error

    def write(self, path: Path) -> None:
        """Write it to a file.

        Raises:
            OSError: if it cannot be written.
        """
        write_atomically(path, self.to_json())

    def to_json(self) -> str:
        """Return it as ASCII JSON, a shard and a finding a line."""
        lines = []
        for name, value in asdict(self).items():
            if name in _LISTS and value:
                inner = ",\n".join(f"  {json.dumps(one)}" for one in value)
                lines.append(f' "{name}": [\n{inner}\n ]')
            else:
                lines.append(f' "{name}": {json.dumps(value, allow_nan=False)}')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _checksum(body: Mapping[str, Any]) -> str:
    content = {name: value for name, value in body.items() if name != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake3(text.encode("ascii")).hexdigest()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return value


def _renewal(path: Path) -> str:
    return f"scan again: vbdguard scan SOURCE --receipt {path}"


def _seen_from(path: Path, source: str) -> str:
    """Return a source as it is named from the receipt's folder; a URL, or what was named in full elsewhere, stays."""
    return "::".join(_one_seen_from(path.parent, part) for part in source.split("::"))


def _one_seen_from(folder: Path, part: str) -> str:
    if "://" in part:
        return part
    # By their names and without following links: what is a link today may be a folder in the next checkout.
    full, top = Path(os.path.abspath(part)), Path(os.path.abspath(folder))  # noqa: PTH100  # Path has no such thing
    if Path(part).is_absolute() and not full.is_relative_to(top):
        return part
    return Path(os.path.relpath(full, top)).as_posix()


def sources_from(receipt: Receipt, path: Path) -> Sequence[str]:
    """Return the sources of a receipt at `path` as they are named from the working directory."""
    return ["::".join(_from_here(path.parent, part) for part in source.split("::")) for source in receipt.sources]


def _from_here(folder: Path, part: str) -> str:
    return part if "://" in part or Path(part).is_absolute() else str(folder / part)
