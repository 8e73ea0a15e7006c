"""Whether a folder to write to lies apart from the source that is read."""

from __future__ import annotations

from pathlib import Path

from vbdguard.errors import SourceError
from vbdguard.sources.base import Source
from vbdguard.sources.files import is_url


def check_apart(folder: Path, source: Source) -> None:
    """Make sure that nothing is written into the source.

    Args:
        folder: where to write; a full path.
        source: what is read.

    Raises:
        SourceError: if the folder and one that the source names lie in each other, or shards of the source lie in it.
    """
    for given in sorted({Path(name).resolve() for name in source.names if not is_url(name) and Path(name).is_dir()}):
        if overlap(folder, given):
            raise SourceError(f"{folder}: expected a folder apart from the source {given}; choose another")
    for home in _homes(source):
        if folder == home or folder in home.parents:
            raise SourceError(f"{folder}: holds shards of the source; choose another folder")


def overlap(one: Path, other: Path) -> bool:
    """Return whether two folders are the same or one lies in the other."""
    return one == other or one in other.parents or other in one.parents


def _homes(source: Source) -> set[Path]:
    """Return the folders of the shards that are files on this machine; a folder of images is known by its own name."""
    paths = (getattr(shard, "path", None) for shard in source.shards)
    return {Path(path).resolve().parent for path in paths if isinstance(path, str) and not is_url(path)}
