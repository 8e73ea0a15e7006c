"""What a scan keeps on disk, so that the same data are never read or scanned twice.

    <directory>/
    ├── CACHEDIR.TAG        tells backup tools to leave it out, and us that the directory is ours
    ├── reports/<key>.<device>.json
    │                       one finished report; the key covers data, settings, seed and version, and the kind of
    │                       device that computed it stands beside the key
    ├── segments/<size>-<key>/
    │                       decoded pixels of one shard (written by `vbdguard.ingest.segments`)
    ├── tables/<digest>     which digests pass, for guarded streams (written by `vbdguard.guards.digest_table`)
    └── merged/             a cache of the same form, for what partial scans hold: no other scan believes those

Entries are named for their content, written once and put in place whole, so no lock is needed and any of
them may be removed at any time. A cached "clean" is a decision about security: each entry carries its key and
a checksum, and one that fails them is not believed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from blake3 import blake3

from vbdguard.atomic import write_atomically
from vbdguard.errors import CacheError, ReportError
from vbdguard.report import ScanReport
from vbdguard.sealing import seal, unseal

logger = logging.getLogger(__name__)

# https://bford.info/cachedir/
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# vbdguard's cache: safe to remove, or run `vbdguard cache clear`.\n"
)

DEVICE_KINDS = ("cpu", "cuda", "mps")
"""Whose reports are kept apart: the same on one kind of device, alike but for rounding on two."""
_WRITING_TIME = timedelta(days=1)
"""How long what is written aside (its name starts with a dot) may still be in work."""


def default_cache_dir() -> Path:
    """Return $VBDGUARD_CACHE, or the platform's place for caches where that is not set."""
    import platformdirs

    named = os.environ.get("VBDGUARD_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("vbdguard", appauthor=False))


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What lies in a cache directory."""

    directory: Path
    reports: int
    report_bytes: int
    segments: int
    segment_bytes: int
    tables: int
    table_bytes: int
    oldest: datetime | None
    """When the oldest entry was written, in UTC; None for an empty cache."""
    newest: datetime | None

    @property
    def entries(self) -> int:
        """How many entries of all kinds there are."""
        return self.reports + self.segments + self.tables

    @property
    def bytes(self) -> int:
        """How large they are together."""
        return self.report_bytes + self.segment_bytes + self.table_bytes


@dataclass(frozen=True, slots=True)
class Freed:
    """What `Cache.clear` removed."""

    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size: int
    written: datetime


class Cache:
    """The cache in one directory, which need not exist yet.

    Args:
        directory: where it lies; None takes `default_cache_dir()`.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory if directory is not None else default_cache_dir()

    @property
    def store_dir(self) -> Path:
        """The directory that ingest gets as its store; its segments lie in `segments/` below."""
        return self.directory

    @property
    def tables_dir(self) -> Path:
        """The directory of the guarded streams' digest tables; made by whoever writes the first."""
        return self._tables

    @property
    def merged(self) -> Cache:
        """The cache below this one for what came in the files of partial scans.

        Their checksums show damage, but whoever writes them can make them say of any data what he likes; a scan that
        reads the data itself must never find that in its place.
        """
        return Cache(self._merged)

    def prepare(self) -> None:
        """Create the directory with its tag, and find out now whether it can be written to.

        Raises:
            CacheError: if it cannot, or if it holds things that are not ours: tagged as a cache, backups would
                leave them out.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._is_ours():
                self._take_over()
            self._reports.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        if not os.access(self._reports, os.W_OK | os.X_OK):
            raise self._unusable("no permission to write there")

    def warn_of_strangers(self) -> None:
        """Warn where every user of the machine may write: checksums show damage, but anybody can compute them."""
        is_open = False
        for place in (self.directory, *self._all_folders):
            with contextlib.suppress(OSError):
                is_open |= bool(place.stat().st_mode & stat.S_IWOTH)
        if is_open and os.name == "posix":
            logger.warning(
                "%s: every user of this machine may write to this cache, and could put a clean verdict there; "
                "run `chmod -R o-w` on it, or pass another --cache-dir",
                self.directory,
            )

    @staticmethod
    def report_key(dataset_digest: str, judged: str, settings: Mapping[str, Any], seed: int, version: str) -> str:
        """Return the name of a report: hex BLAKE3 over all that its findings depend on, less the rounding of devices.

        Args:
            dataset_digest: hex digest of the data.
            judged: hex digest of the part of them that could be decoded, and how: `Ingested.judged`.
            settings: JSON-ready, as `ScanConfig.result_settings` returns them; the order of keys does not matter.
            seed: seed of the scan.
            version: version of vbdguard.
        """
        parts = {
            "dataset": dataset_digest,
            "judged": judged,
            "settings": dict(settings),
            "seed": seed,
            "version": version,
        }
        return _checksum(parts)

    def load_report(self, key: str, device: str | None = None) -> ScanReport | None:
        """Return the report saved under `key`, with `from_cache` set, or None where there is none.

        A damaged or edited entry counts as none and is logged as one warning.

        Args:
            key: from `report_key`.
            device: one of `DEVICE_KINDS`, the kind that must have computed it; None takes the newest of any kind.
        """
        kinds = self._kinds_by_age(key) if device is None else (device,)
        reports = (self._read_report(key, kind) for kind in kinds)
        return next((report for report in reports if report is not None), None)

    def _kinds_by_age(self, key: str) -> list[str]:
        """Return the kinds of device that have a report under `key`, the newest report's first."""
        written: list[tuple[int, str]] = []
        for kind in DEVICE_KINDS:
            with contextlib.suppress(OSError):
                written.append((self._report_path(key, kind).stat().st_mtime_ns, kind))
        return [kind for _, kind in sorted(written, reverse=True)]

    def _read_report(self, key: str, device: str) -> ScanReport | None:
        path = self._report_path(key, device)
        try:
            report = ScanReport.from_json(unseal(key, path.read_text("ascii")))
            if report.device != device:
                raise ValueError(f"it was computed on {report.device!r}")
            return replace(report, from_cache=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ReportError) as error:
            logger.warning("%s: this cached report is damaged and not used (%s); scanning again", path, error)
            return None

    def save_report(self, key: str, report: ScanReport) -> None:
        """Save a report under `key` and the kind of device that computed it.

        Raises:
            CacheError: if the cache cannot be written to.
        """
        self.prepare()
        body = json.dumps(report.to_dict(), allow_nan=False)
        try:
            write_atomically(self._report_path(key, report.device), seal(key, body))
        except OSError as error:
            raise self._unusable(error) from error

    @contextlib.contextmanager
    def computing(self, key: str) -> Iterator[None]:
        """Hold the right to compute the report under `key`; wait while another process on this machine holds it.

        The right ends with the process, so a killed scan blocks nobody. It saves work, nothing depends on it: on a
        file system without locks all compute.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._reports / f".{key}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            logger.info("another process scans the same data; waiting for its report")
            lock.acquire(timeout=-1)
        except (OSError, NotImplementedError) as error:
            logger.debug("no locks here, computing at once: %s", error)
        try:
            yield
        finally:
            lock.release()
            # Whoever waits on this file still wakes up; one who comes later makes a new one and finds the report.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()

    def info(self) -> CacheInfo:
        """Return what lies in the cache; all zero where there is none.

        Raises:
            CacheError: if the directory cannot be read.
        """
        reports, segments, tables = (
            [*self._entries(own), *self._entries(merged)]
            for own, merged in zip(self._folders, self._merged_folders, strict=True)
        )
        written = [entry.written for entry in (*reports, *segments, *tables)]
        return CacheInfo(
            directory=self.directory,
            reports=len(reports),
            report_bytes=sum(entry.size for entry in reports),
            segments=len(segments),
            segment_bytes=sum(entry.size for entry in segments),
            tables=len(tables),
            table_bytes=sum(entry.size for entry in tables),
            oldest=min(written, default=None),
            newest=max(written, default=None),
        )

    def clear(self, older_than: timedelta | None = None) -> Freed:
        """Remove reports, segments and tables, and return what that freed.

        Nothing but `reports/`, `segments/`, `tables/`, their like in `merged/` and the tags is touched, and only in a
        directory that bears our tag. A symbolic link goes as a link; what it points to stays. A training that runs on
        a table keeps it, but its new workers stop with an error.

        Args:
            older_than: remove only entries written longer ago than this; None removes all.

        Raises:
            CacheError: if the directory is not a cache of ours, or an entry cannot be removed.
        """
        if not self.directory.exists():
            return Freed(entries=0, bytes=0)
        if not self._is_ours():
            raise CacheError(
                f"{self.directory}: expected a vbdguard cache, found no CACHEDIR.TAG of one; nothing was removed. "
                "Check --cache-dir and VBDGUARD_CACHE, or remove the directory yourself"
            )
        limit = None if older_than is None else datetime.now(UTC) - older_than
        entries = [entry for folder in self._all_folders for entry in self._entries(folder)]
        doomed = [entry for entry in entries if limit is None or entry.written < limit]
        try:
            for entry in doomed:
                _remove(entry.path)
            if limit is None:
                self._remove_frame()
        except OSError as error:
            raise CacheError(f"{self.directory}: could not be cleared: {error}") from error
        return Freed(entries=len(doomed), bytes=sum(entry.size for entry in doomed))

    @property
    def _reports(self) -> Path:
        return self.directory / "reports"

    @property
    def _segments(self) -> Path:
        return self.directory / "segments"

    @property
    def _tables(self) -> Path:
        return self.directory / "tables"

    @property
    def _folders(self) -> tuple[Path, Path, Path]:
        return self._reports, self._segments, self._tables

    @property
    def _merged(self) -> Path:
        return self.directory / "merged"

    @property
    def _merged_folders(self) -> tuple[Path, Path, Path]:
        return self.merged._folders

    @property
    def _all_folders(self) -> tuple[Path, ...]:
        return (*self._folders, *self._merged_folders)

    @property
    def _tag(self) -> Path:
        return self.directory / "CACHEDIR.TAG"

    def _report_path(self, key: str, device: str) -> Path:
        return self._reports / f"{key}.{device}.json"

    def _is_ours(self) -> bool:
        try:
            return self._tag.read_text("utf-8", errors="replace") == _TAG
        except OSError:
            return False

    def _take_over(self) -> None:
        names = {path.name for path in self.directory.iterdir()} - {
            folder.name for folder in (*self._folders, self._merged)
        }
        foreign = sorted(name for name in names if not name.startswith(".CACHEDIR.TAG."))
        # asked again, since another process may have taken it over just now
        if foreign and not self._is_ours():
            raise self._unusable(f"expected an empty directory or a vbdguard cache, found {foreign[0]!r} in it")
        write_atomically(self._tag, _TAG)

    def _entries(self, folder: Path) -> list[_Entry]:
        """List what lies in one of our folders; one that is a link, or lies behind one, is somebody else's."""
        if folder.is_symlink() or (folder.parent == self._merged and self._merged.is_symlink()):
            return []
        try:
            return [entry for path in sorted(folder.iterdir()) if (entry := _entry(path)) is not None]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from error

    def _remove_frame(self) -> None:
        if self._merged.is_dir() and not self._merged.is_symlink() and self.merged._is_ours():
            self.merged._remove_frame()
            if not any(self._merged.iterdir()):
                self._merged.rmdir()
        for folder in self._folders:
            # a scan may have written meanwhile: an entry that is newer than our list stays
            if not folder.is_symlink() and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if not any(folder.exists() for folder in (*self._folders, self._merged)):
            self._tag.unlink(missing_ok=True)

    def _unusable(self, error: object) -> CacheError:
        return CacheError(
            f"{self.directory}: the cache cannot be used: {error}; "
            "pass --cache-dir DIR (or set VBDGUARD_CACHE) to put it elsewhere, or --no-cache to do without"
        )


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake3(text.encode("ascii")).hexdigest()


def _entry(path: Path) -> _Entry | None:
    """Measure one entry; None where another process is still writing it, or removed it meanwhile."""
    try:
        written = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
        size = sum(inner.lstat().st_size for inner in _files(path))
    except FileNotFoundError:
        return None
    is_being_written = path.name.startswith(".") and datetime.now(UTC) - written < _WRITING_TIME
    return None if is_being_written else _Entry(path, size, written)


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or every file below a directory, without following links."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path, followlinks=False):
        yield from (Path(folder) / name for name in names)


def _remove(path: Path) -> None:
    """Remove a file, a link or a directory with all below it; what is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        for inner in list(path.iterdir()):
            _remove(inner)
        path.rmdir()
