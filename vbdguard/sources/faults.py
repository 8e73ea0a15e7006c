"""How many faults of one shard are told one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vbdguard.errors import ReadError
from vbdguard.sources.base import RawSample, Unreadable

MAX_FAULTS = 10_000
"""Behind so many, a shard is not read on: a report of millions of lines would fill the memory and say no more."""


class Faults:
    """Counts the entries of a shard that are no samples."""

    def __init__(self) -> None:
        self._count = 0

    def count(self) -> None:
        """Take notice of one more.

        Raises:
            ReadError: "too-many-faults".
        """
        self._count += 1
        if self._count > MAX_FAULTS:
            raise ReadError(
                "too-many-faults",
                f"more than {MAX_FAULTS} of its entries are no samples, the rest is not read; see the reasons above",
            )


def within_faults(entries: Iterable[RawSample | Unreadable]) -> Iterator[RawSample | Unreadable]:
    """Pass the entries on.

    Raises:
        ReadError: "too-many-faults" behind `MAX_FAULTS` of them that are no samples.
    """
    faults = Faults()
    for entry in entries:
        yield entry
        if isinstance(entry, Unreadable):
            faults.count()
