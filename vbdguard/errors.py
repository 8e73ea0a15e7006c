"""Everything that vbdguard raises on purpose.

    VBDGuardError
    ├── ConfigError            a setting that cannot be right                       exit code 2
    ├── SourceError            a source that cannot be opened or understood         exit code 2
    │   ├── NothingToScanError no labelled image in it, or fewer than two classes   exit code 3
    │   └── UnreadableError    the same, and something in it cannot be read         exit code 2
    ├── ReadError              one shard or sample that cannot be read (becomes a `skipped` entry)
    ├── CacheError             the cache directory cannot be used                   exit code 2
    ├── ReportError            a report file that is not one                        exit code 2
    ├── PartialError           partial scans that are damaged or not one whole    exit code 2
    ├── BaselineError          a baseline file that is not one                      exit code 2
    ├── ReceiptError           a receipt that is none, or cannot vouch for the data exit code 2
    ├── PoisonFoundError       the guard found poison and was told to raise
    └── UnscannedSampleError   the guard met a sample that no scan has seen

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class VBDGuardError(Exception):
    """Base of every error that vbdguard raises on purpose."""


class ConfigError(VBDGuardError, ValueError):
    """A setting is out of range or contradicts another."""


class SourceError(VBDGuardError):
    """A source cannot be opened or its layout cannot be understood."""


class NothingToScanError(SourceError):
    """The source holds nothing that can be scanned: no labelled image, or fewer than two classes."""


class UnreadableError(SourceError):
    """Too little of the source can be read to say anything: who knows what the rest holds."""


class ReadError(VBDGuardError):
    """One shard or sample cannot be read; ingest turns it into a `skipped` entry of the report.

    Args:
        reason: a short fixed word for the report, such as "undecodable" or "truncated".
        detail: what was expected and what came.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


PASSING_REASONS = frozenset({"io-error", "out-of-memory"})
"""Reasons of a ReadError that lie with the machine, not with the data: what failed may well be read another time."""


def damage(error: Exception, what: str) -> ReadError:
    """Return what to say of what a library raised while it read: the data are damaged, or the machine has failed.

    Args:
        error: what it raised.
        what: what was read, such as "the parquet file".
    """
    if isinstance(error, MemoryError):
        return ReadError("out-of-memory", f"{what} does not fit into memory: {error}")
    if isinstance(error, OSError) and error.errno:
        return ReadError("io-error", f"cannot read {what}: {error}")
    return ReadError("corrupt", f"{what} is damaged: {error}")


class CacheError(VBDGuardError):
    """The cache directory cannot be created, read or written."""


class ReportError(VBDGuardError):
    """A file is not a vbdguard report of a version that this release reads."""


class PartialError(VBDGuardError):
    """A file is no partial scan, or partial scans do not fit together."""


class BaselineError(VBDGuardError):
    """A file is not a baseline of accepted findings, or cannot become one."""


class ReceiptError(VBDGuardError):
    """A receipt is damaged, edited, of another version or of other settings: it vouches for nothing."""


class PoisonFoundError(VBDGuardError):
    """The guard found poison and its policy is to raise."""


class UnscannedSampleError(VBDGuardError):
    """The guard met a sample whose digest no scan has seen."""
