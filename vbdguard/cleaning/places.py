"""The two folders that a clean copy is written to: whose they are, whether they are fit, what lies in them.

<dest>/vbdguard-clean.json         which data, which findings, which policy; the counts when it is complete
<quarantine>/vbdguard-clean.json   the same
<quarantine>/flagged/, skipped/    what was taken out, in the layout of the source
<quarantine>/reasons.jsonl         why
<quarantine>/report.json           the findings that the copy goes by
<quarantine>/records/              what of each shard has been written
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vbdguard.atomic import ASIDE_PATTERN, PARTIAL_PATTERN, write_atomically
from vbdguard.errors import SourceError
from vbdguard.sources.apart import check_apart, overlap
from vbdguard.sources.base import Shard, Source
from vbdguard.sources.cutting import Places
from vbdguard.sources.files import is_url
from vbdguard.sources.folder import FolderShard

CLAIM = "vbdguard-clean.json"
_MARGIN = 16 << 20
"""Bytes that records, reasons and folders may take besides."""
_GROWTH = 1.05
"""A gzipped shard may be packed less tightly than it was."""


@dataclass(frozen=True, slots=True)
class CleanFolders:
    """Where a clean copy and its quarantine stand."""

    dest: Path
    quarantine: Path

    @property
    def places(self) -> Places:
        """Where the parts of shards go."""
        return Places(self.dest, self.quarantine / "flagged", self.quarantine / "skipped")

    @property
    def records(self) -> Path:
        """Where the records of finished shards stand."""
        return self.quarantine / "records"

    @property
    def report(self) -> Path:
        """The findings, for whoever asks later or goes on from here."""
        return self.quarantine / "report.json"

    @property
    def reasons(self) -> Path:
        """The list of everything that did not stay."""
        return self.quarantine / "reasons.jsonl"


def clean_folders(dest: Path, quarantine: Path | None) -> CleanFolders:
    """Return the folders for a copy; without a name of its own, the quarantine stands beside it."""
    full = dest.resolve()
    beside = full.with_name(f"{full.name}.quarantine")
    return CleanFolders(full, beside if quarantine is None else quarantine.resolve())


def check_folders_apart(folders: CleanFolders, source: Source) -> None:
    """Make sure that nothing is written into the source, nor the quarantine into the copy.

    Raises:
        SourceError: if a folder lies in another one.
    """
    if overlap(folders.dest, folders.quarantine):
        raise SourceError(
            f"expected the quarantine beside the copy, got {folders.quarantine} and {folders.dest}: one holds the other"
        )
    for folder in (folders.dest, folders.quarantine):
        check_apart(folder, source)


@contextmanager
def claimed(folders: CleanFolders, claim: Mapping[str, Any]) -> Iterator[None]:
    """Take the folders for one source and report, alone; what a killed run left half-written is removed.

    Args:
        folders: new, empty, or written by an earlier run with the same claim.
        claim: says for what; JSON-ready.

    Raises:
        SourceError: if they hold anything else or belong to another claim, are in use or cannot be written to.
    """
    from filelock import FileLock, Timeout

    check_fit(folders, claim)
    lock = FileLock(folders.quarantine / ".lock", timeout=0)
    try:
        for folder in (*_all(folders.places), folders.records):
            folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise SourceError(f"{folders.quarantine}: another process writes this copy; wait for it") from error
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot write there ({error.strerror}); choose another folder") from error
    try:
        for folder in (folders.quarantine, folders.dest):
            # The claim first: what it covers is ours to remove. Nothing is complete before it has been proved again.
            write_claim(folder, {**claim, "status": "incomplete"})
        _sweep(folders)
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def check_fit(folders: CleanFolders, claim: Mapping[str, Any] | None = None) -> None:
    """Make sure that the folders are new, empty, or hold what an earlier run with this claim has written.

    Args:
        folders: where a copy shall go.
        claim: as `claimed` takes it; None asks only whether it is some run of ours.

    Raises:
        SourceError: if they are not.
    """
    for folder in (folders.dest, folders.quarantine):
        _check_free(folder, claim or {})


def write_claim(folder: Path, body: Mapping[str, Any]) -> None:
    """Write what a folder holds."""
    write_atomically(folder / CLAIM, json.dumps(body, indent=2) + "\n")


def stored_bytes(shard: Shard) -> int:
    """Return how many bytes a shard takes; 0 where nobody can say."""
    return sum(_size(path) for path in _files(shard))


def check_space(folders: CleanFolders, *, copy_bytes: int, quarantine_bytes: int) -> None:
    """Make sure that what is to be written fits.

    Args:
        folders: where to; they need not exist.
        copy_bytes: what the kept samples take.
        quarantine_bytes: what the others take.

    Raises:
        SourceError: if a disk has less room.
    """
    needs: dict[int, tuple[Path, float]] = {}
    for folder, count in ((folders.dest, copy_bytes), (folders.quarantine, quarantine_bytes)):
        there = _existing(folder)
        device = there.stat().st_dev
        needs[device] = (there, needs.get(device, (there, _MARGIN))[1] + count * _GROWTH)
    for there, needed in needs.values():
        free = shutil.disk_usage(there).free
        if free < needed:
            raise SourceError(
                f"{there}: expected {_megabytes(needed)} of free space for the copy, got {_megabytes(free)}; "
                "free some, choose another folder, or make hard links of what stays whole (--link)"
            )


def check_nothing_else(folder: Path, expected: Collection[str]) -> None:
    """Make sure that a finished copy holds the files that were written and nothing besides.

    Args:
        folder: the copy.
        expected: paths relative to it.

    Raises:
        SourceError: if a file is missing, or is there that nobody has looked at.
    """
    found = {
        os.path.relpath(os.path.join(base, name), folder)  # noqa: PTH118 - a million paths, and as strings
        for base, folders, names in os.walk(folder)
        # A link to a folder is none of the folders that the walk enters; trainers follow it.
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(base, name))))  # noqa: PTH114, PTH118
    } - {CLAIM}
    if missing := sorted(set(expected) - found):
        raise SourceError(f"{folder}: {len(missing)} files have gone, such as {missing[0]!r}; run it again")
    if foreign := sorted(found - set(expected)):
        raise SourceError(
            f"{folder}: expected only what was written, found {len(foreign)} files that no scan has seen, such as "
            f"{foreign[0]!r}; move them away and run it again"
        )


def _check_free(folder: Path, claim: Mapping[str, Any]) -> None:
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise SourceError(f"{folder}: expected a folder, this is a file; choose another")
        return
    try:
        held: Any = json.loads((folder / CLAIM).read_bytes())
    except FileNotFoundError:
        held = None
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / CLAIM}: cannot be read ({error}); choose another folder") from error
    if held is None:
        # Killed before the claim was laid, a run leaves nothing but these.
        ours = {"flagged", "skipped", "records", ".lock"}
        if foreign := [path.name for path in folder.iterdir() if path.name not in ours and CLAIM not in path.name]:
            raise SourceError(f"{folder}: expected a new or empty folder, found {foreign[0]!r} in it; choose another")
        return
    for name, value in claim.items():
        came = held.get(name) if isinstance(held, dict) else None
        if came != value:
            raise SourceError(
                f"{folder}: belongs to another copy: expected {name} {_short(value)}, got {_short(came)}; "
                "choose another folder, or remove this one and its quarantine"
            )


def _short(value: object) -> str:
    return str(value)[:16]


def _sweep(folders: CleanFolders) -> None:
    both = (folders.quarantine, folders.dest)
    remains = [
        *(folder.rglob(PARTIAL_PATTERN) for folder in both),
        *(folder.glob(ASIDE_PATTERN.replace("*", CLAIM)) for folder in both),
        folders.quarantine.glob(ASIDE_PATTERN.replace("*", folders.report.name)),
        folders.records.glob(ASIDE_PATTERN),
    ]
    for left in chain.from_iterable(remains):
        left.unlink(missing_ok=True)


def _all(places: Places) -> tuple[Path, Path, Path]:
    return places.kept, places.flagged, places.skipped


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _files(shard: Shard) -> list[str]:
    if isinstance(shard, FolderShard):
        return [str(Path(shard.root, path)) for path, _ in shard.files]
    path = getattr(shard, "path", None)
    return [path] if isinstance(path, str) else []


def _size(path: str) -> int:
    try:
        if not is_url(path):
            return Path(path).stat().st_size
        import fsspec  # type: ignore[import-untyped]  # ships no annotations

        filesystem, inner = fsspec.core.url_to_fs(path)
        return int(filesystem.size(inner) or 0)
    except (OSError, ImportError, ValueError):
        return 0


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
