"""Notices at each access that an image's file is not the one that the scan has read.

What a file system says of a file (size, times, inode) is noted before the scan reads it. As long as it says the same,
the file is the same; that costs microseconds. Where it says something else, the image is read again without its
transforms and its digest decides: a file that was touched, copied back or moved to another disk passes.

Out of reach are datasets that do not tell their files (`vbdguard.sources.torch_files`), and somebody who exchanges a
file and puts it back within one access.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbdguard.guards.ledger import Ledger
from vbdguard.ingest.digest import sample_digest
from vbdguard.sources.base import Unreadable
from vbdguard.sources.torch_dataset import read_one
from vbdguard.sources.torch_files import file_of

_RESTING = 2_000_000_000
"""Nanoseconds that a file must have rested when its state is noted: a second write within one tick of a file system's
clock (two seconds on FAT) would not show."""
_UNKNOWN = (0, 0, 0, 0)

State = tuple[int, int, int, int]


class ScannedFiles:
    """The files of a dataset as they were when it was scanned; picklable, each process corrects its own copy.

    Args:
        dataset: is asked for paths; N items.
        states: int64 (N, 4), what `_noted` said of each file before the scan read it.
    """

    def __init__(self, dataset: Any, states: NDArray[np.int64]) -> None:
        self._dataset = dataset
        self._states = states
        self._ledger: Ledger | None = None

    def close(self, ledger: Ledger) -> None:
        """Take the digests that the scan has found."""
        self._ledger = ledger

    def is_known(self, index: int) -> bool:
        """Return whether the file behind an item, where there is one, is in the state that it was scanned in."""
        path = file_of(self._dataset, index)
        return path is None or _state(path) == tuple(self._states[index].tolist())

    def holds_scanned(self, index: int, fetch: Callable[[int], Any]) -> bool:
        """Read an item anew; return whether it is the sample that was scanned, and if so remember the file's state.

        Args:
            index: of the item.
            fetch: gives items of the dataset without its transforms.
        """
        if self._ledger is None or index in self._ledger.unscanned:
            return True  # the policy has decided on what could not be scanned
        now = _noted(self.path(index))
        entry = read_one(fetch, index)
        if isinstance(entry, Unreadable) or sample_digest(entry.image, entry.label) != self._ledger.digest_of(index):
            return False
        self._states[index] = now
        return True

    def path(self, index: int) -> str:
        """Return the path of an item's file, empty where the dataset does not tell it."""
        return file_of(self._dataset, index) or ""


def note_files(dataset: Any, length: int) -> ScannedFiles | None:
    """Return the files of a dataset as they are now, None where it does not tell them.

    Args:
        dataset: map-style, of `length` items.
        length: N.
    """
    paths = [file_of(dataset, index) for index in range(length)]
    if not any(path is not None for path in paths):
        return None
    states = [_UNKNOWN if path is None else _noted(path) for path in paths]
    return ScannedFiles(dataset, np.array(states, np.int64).reshape(-1, len(_UNKNOWN)))


def _noted(path: str) -> State:
    """Return a file's state to hold others against; one that no file has, where it may change and look the same."""
    state = _state(path)
    if state is None:
        return _UNKNOWN
    now = time.time_ns()
    _, modified, changed, _ = state
    # A time of modification can be set, also to one that has not come yet; that of the change of status cannot.
    is_resting = now - changed > _RESTING and not 0 <= now - modified <= _RESTING
    return state if is_resting else _UNKNOWN


def _state(path: str) -> State | None:
    """Return size, times of modification and of the last change, and inode; None where there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116  # Path() costs more than the call
    except (OSError, ValueError):
        return None
    inode = status.st_ino & 0x7FFF_FFFF_FFFF_FFFF
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode
