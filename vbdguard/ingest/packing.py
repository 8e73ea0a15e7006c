"""Segments on their way: from a node that does not see the store, or out of a file, into the store.

What arrives is believed for its checksums only, under its own name, as what stands in the store already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vbdguard.ingest.segments import DamagedSegmentError, load_segment, move, remove_segment, sync, writing

SEGMENT_FILES = ("pixels.npy", "digests.npy", "samples.json")
_NAME = re.compile(r"([0-9a-f]{1,16}-)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, eq=False)
class PackedSegment:
    """The files of a segment, in memory."""

    name: str
    files: Mapping[str, NDArray[np.uint8]]
    """The bytes of each of `SEGMENT_FILES`; as arrays, which Ray hands over without a copy."""


def pack_segment(path: Path) -> PackedSegment:
    """Return the segment in a folder.

    Raises:
        OSError: if it cannot be read.
    """
    return PackedSegment(path.name, {name: np.fromfile(path / name, np.uint8) for name in SEGMENT_FILES})


def link_segment(source: Path, target: Path, *, staging: Path, image_size: tuple[int, int]) -> bool:
    """Let a segment of one store stand in another as well, its files shared; return whether it stands there.

    Args:
        source: the segment; one that is missing or damaged is left alone.
        target: its place in the other store.
        staging: a folder beside that store's segments.
        image_size: canonical height and width that it was made for.

    Raises:
        CacheError: if the other store cannot be written.
    """
    folder = staging / uuid4().hex / source.name
    try:
        if not source.is_dir():
            return False
        folder.mkdir(parents=True)
        for name in SEGMENT_FILES:
            (folder / name).hardlink_to(source / name)
        if load_segment(folder, image_size) is None:
            return False
        remove_segment(target)
    except (OSError, NotImplementedError, DamagedSegmentError):  # another file system, or nothing that can be used
        return False
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        move(folder, target)
    return True


def is_segment_name(name: str) -> bool:
    """Return whether `segment_key` may have made this name: one that leads nowhere else."""
    return _NAME.fullmatch(name) is not None


def place_segment(
    name: str,
    files: Mapping[str, Iterable[NDArray[np.uint8]]],
    *,
    store_dir: Path,
    staging: Path,
    image_size: tuple[int, int],
) -> Path:
    """Put a segment in its place in the store and return that; if it stands there already, that one stays.

    Args:
        name: of the segment.
        files: the bytes of each of `SEGMENT_FILES`, in pieces.
        store_dir: the store.
        staging: a folder beside its segments, for what is not whole.
        image_size: canonical height and width that it was made for.

    Raises:
        DamagedSegmentError: if it is not what was written.
        CacheError: if the store cannot be written.
    """
    target = store_dir / "segments" / name
    if not is_segment_name(name):
        raise DamagedSegmentError(f"expected the name of a segment, got {name!r}")
    folder = staging / uuid4().hex / name  # under its own name, which its checksum covers
    with writing(target):
        folder.mkdir(parents=True)
        for file_name in SEGMENT_FILES:
            with (folder / file_name).open("wb") as file:
                for piece in files[file_name]:
                    file.write(piece.data)
                sync(file)
    if load_segment(folder, image_size) is None:
        raise DamagedSegmentError("it is gone before it was in its place")
    with writing(target):
        move(folder, target)
    return target
