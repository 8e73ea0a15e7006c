"""Where segments are written before they are whole.

A scan that is killed leaves its staging area behind; the next scan removes it. Whether its owner lives, a lock on the
folder tells, which ends with the process. Where locks do nothing (some network file systems), its age must do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from vbdguard.errors import CacheError

PREFIX = ".staging-"
"""What names in a store begin with that are no segments."""
_STALE_SECONDS = 24 * 3600
_FRESH_SECONDS = 10
"""So long after it was made a folder may not be locked yet."""


@contextmanager
def staging_area(store_dir: Path) -> Iterator[Path]:
    """Yield a folder for half-written segments, beside the whole ones; it is gone afterwards, whatever happened.

    Raises:
        CacheError: if the store's folder cannot be written.
    """
    segments = store_dir / "segments"
    staging = staging_name(segments)
    lock: int | None = None
    try:
        try:
            segments.mkdir(parents=True, exist_ok=True)
            staging.mkdir()
        except OSError as error:
            raise CacheError(f"{segments} cannot be written: {error}; pass another --cache-dir") from error
        lock = _lock(staging)
        _sweep(segments, staging)
        yield staging
    finally:
        _remove(staging)
        if lock is not None:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, even if Ctrl-C comes in between."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def staging_name(segments: Path) -> Path:
    """Return a new name beside the segments that nobody takes for one."""
    return segments / f"{PREFIX}{uuid4().hex}"


def _sweep(segments: Path, own: Path) -> None:
    """Remove what scans that were killed have left half-written."""
    limit = _FRESH_SECONDS if _is_locked(own) else _STALE_SECONDS
    for leftover in segments.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it may have gone meanwhile
            age = time.time() - leftover.stat().st_mtime
            if age > limit and not _is_locked(leftover):
                shutil.rmtree(leftover, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    """Return whether somebody holds the lock; False also where there are no locks."""
    lock: int | None = None
    try:
        import fcntl

        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; a file system that knows no locks; a folder that has gone
        return False
    finally:
        if lock is not None:
            os.close(lock)
    return False


def _lock(folder: Path) -> int | None:
    """Return the descriptor that holds the lock on a folder for as long as it is open; None without locks."""
    with suppress(ImportError, OSError):
        import fcntl

        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock
    return None
