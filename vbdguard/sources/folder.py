"""ImageFolder: a root whose folders are the classes, read as torchvision reads it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vbdguard.errors import NothingToScanError, SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.shards import ShardSource
from vbdguard.sources.tar_members import MAX_MEMBER

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's own list: what has another suffix never reaches a trainer."""
FILES_PER_SHARD = 2000
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})


@dataclass(frozen=True, slots=True)
class FolderShard:
    """A slice of the files of an ImageFolder."""

    root: str
    name: str
    files: tuple[tuple[str, str], ...]
    """Path relative to the root, and class name."""

    def digest(self) -> None:
        """Return None: a slice is no file, its samples decide."""

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the slice's files; one that cannot be read comes as `Unreadable`."""
        for path, label in self.files:
            full = Path(self.root, path)
            try:
                status = full.stat()
                if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
                    yield Unreadable(path, "not-a-file", "expected an image file, got something else by that name")
                elif status.st_size > MAX_MEMBER:
                    yield Unreadable(path, "too-large", f"expected at most {MAX_MEMBER} bytes, got {status.st_size}")
                else:
                    yield RawSample(path, full.read_bytes(), label)
            except OSError as error:
                yield Unreadable(path, "io-error", f"cannot read it: {error.strerror}")


def open_folder(root: str) -> ShardSource:
    """Return the source over an ImageFolder root.

    First-level folders in sorted order are the classes, numbered from 0, and everything with an image suffix
    below them is a sample of that class, as in `torchvision.datasets.ImageFolder`.

    Raises:
        NothingToScanError: if there is no class folder, or no image in them.
        SourceError: if the first level holds splits, not classes.
    """
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    _refuse_splits(root, classes)
    files = [(path, name) for name in classes for path in _images_below(root, name)]
    if not files:
        raise NothingToScanError(
            f"{root} holds no labelled image: labels are taken from class folders, as in {root}/cat/1.jpg; "
            "sort the images into one folder per class, or pass tar shards with .cls labels"
        )
    slices = [tuple(files[start : start + FILES_PER_SHARD]) for start in range(0, len(files), FILES_PER_SHARD)]
    full = Path(root).resolve()
    shards = [FolderShard(str(full), f"{full.name}#{number:06d}", part) for number, part in enumerate(slices)]
    return ShardSource((root,), shards, dict(enumerate(classes)))


def _refuse_splits(root: str, classes: list[str]) -> None:
    if not classes or not {name.lower() for name in classes} <= _SPLITS:
        return
    if any(_has_image(Path(root, name)) for name in classes):
        return
    raise SourceError(
        f"{root} holds the splits {', '.join(classes)}, not classes; pass the one you train on: {root}/{classes[0]}"
    )


def _has_image(folder: Path) -> bool:
    return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in folder.iterdir())


def _images_below(root: str, name: str) -> Iterator[str]:
    """Yield the images of one class, in torchvision's order; links are followed, but never in a circle."""
    trails: dict[str, frozenset[str]] = {}
    found: list[tuple[str, list[str]]] = []
    for folder, folders, names in os.walk(Path(root, name), followlinks=True, onerror=_unlistable):
        above = trails.get(str(Path(folder).parent), frozenset())
        real = os.path.realpath(folder)
        if real in above:
            folders.clear()
            continue
        trails[folder] = above | {real}
        found.append((folder, [file for file in names if file.lower().endswith(IMAGE_SUFFIXES)]))
    for folder, names in sorted(found):
        for file in sorted(names):
            yield str(Path(folder, file).relative_to(root))


def _unlistable(error: OSError) -> None:
    # os.walk would pass over such a folder in silence.
    raise SourceError(f"{error.filename}: cannot list the folder: {error.strerror}; grant access or move it away")
