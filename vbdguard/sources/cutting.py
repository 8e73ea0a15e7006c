"""Cutting samples out of shards: what the cutters of all formats share.

A cutter makes two passes over a shard. The first asks a rule about every entry and plans; the second writes what
stays in the layout of the source, and what goes beside it in the same layout.
"""

from __future__ import annotations

import enum
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from vbdguard.atomic import partial_name, replacing
from vbdguard.sources.base import RawSample, Shard, Unreadable
from vbdguard.sources.files import BLOCK, is_url, open_binary


class Fate(enum.StrEnum):
    """What becomes of an entry of a shard."""

    KEPT = "kept"
    RELABELLED = "relabelled"
    """Kept under another class."""
    FLAGGED = "flagged"
    """Moved to the quarantine."""
    SKIPPED = "skipped"
    """Left out, since no scan could judge it or no name of its own may be written."""

    @property
    def stays(self) -> bool:
        """Whether the entry is among the kept samples."""
        return self in (Fate.KEPT, Fate.RELABELLED)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rule says about one entry."""

    key: str
    fate: Fate
    digest: str = ""
    """Hex `sample_digest`; empty where bytes or label could not be read."""
    label: int | str | None = None
    new_label: int | str | None = None
    """For `RELABELLED`."""
    new_digest: str = ""
    """For `RELABELLED`: the digest under the new label."""
    reason: str = ""
    detail: str = ""
    is_judged: bool = True
    """Whether a scan could read and judge it."""
    is_refused: bool = False
    """Whether nothing of it may be written anywhere; it is listed only."""

    @property
    def written_digest(self) -> str:
        """The digest of the sample as it is written."""
        return self.new_digest or self.digest

    def refused(self, reason: str, detail: str) -> Ruling:
        """Return the ruling on the same entry when it must not be written: what would stay is skipped."""
        fate = Fate.SKIPPED if self.fate.stays else self.fate
        plain = replace(self, fate=fate, new_label=None, new_digest="", is_refused=True)
        return replace(plain, reason=reason, detail=detail) if fate is Fate.SKIPPED else plain

    def not_relabelled(self) -> Ruling:
        """Return the ruling on the same entry where the new label has no place: to the quarantine."""
        return replace(self, fate=Fate.FLAGGED, new_label=None, new_digest="")


Rule = Callable[[RawSample | Unreadable], Ruling]


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that cut shards are written to, each in the layout of the source."""

    kept: Path
    flagged: Path
    skipped: Path


@dataclass(frozen=True, slots=True)
class Written:
    """What was written to one of the places."""

    fate: Fate
    """`KEPT` (with what was relabelled), `FLAGGED` or `SKIPPED`."""
    shard: Shard
    """Reads it again."""
    files: tuple[Path, ...]


class CuttingPlan(Protocol):
    """The first pass over a shard, and the second to come."""

    @property
    def digest(self) -> str:
        """Hex BLAKE3 of the file that was planned on; empty for a slice of loose files."""

    @property
    def rulings(self) -> Sequence[Ruling]:
        """One for each entry that reading the shard gives, in its order."""

    @property
    def others(self) -> Sequence[Unreadable]:
        """What is no sample and is left out nonetheless."""

    def write(self, places: Places, *, link: bool) -> tuple[Written, ...]:
        """Write the shard's parts to their places.

        Args:
            places: existing folders.
            link: whether files that lose nothing become hard links where the file system can.

        Raises:
            ReadError: "changed" if the shard is not what was planned on.
            OSError: if something cannot be written.
        """


_UNSAFE = re.compile(r"[\\/]|[A-Za-z]:[\\/]|.*\0", re.DOTALL)


def is_safe_name(name: str) -> bool:
    """Return whether a name from the data stays below the folder that it is unpacked in, on any system."""
    return bool(name) and _UNSAFE.match(name) is None and ".." not in re.split(r"[\\/]", name)


def copy_file(path: str, dest: Path, *, link: bool) -> None:
    """Copy a file or URL as it stands, or make a hard link to it where that is wanted and can be done.

    Raises:
        ReadError: "io-error" if it cannot be opened.
        OSError: if it cannot be read or written.
    """
    if link and not is_url(path) and _is_linked(path, dest):
        return
    with open_binary(path) as stream, replacing(dest) as file:
        shutil.copyfileobj(stream, file, BLOCK)


def _is_linked(path: str, dest: Path) -> bool:
    aside = partial_name(dest)
    aside.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(path), aside)  # a link to a symbolic link would not survive the move of its target
    except OSError:  # another file system, or one without hard links
        return False
    aside.replace(dest)
    # If both are the same file already, POSIX lets `replace` do nothing.
    aside.unlink(missing_ok=True)
    return True
