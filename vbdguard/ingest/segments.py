"""Segments: what one shard became, on disk.

`<store_dir>/segments/<name>/` holds `pixels.npy` uint8 (n, H, W, 3), `digests.npy` uint8 (n, 32) and
`samples.json` (keys, labels, what was left out, checksums). The name covers everything that the content follows
from, so a segment is written once and never changed: written aside, synced, renamed. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbdguard.errors import PASSING_REASONS, CacheError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.digest import DIGEST_BYTES, sequence_digest
from vbdguard.ingest.keys import PackedKeys
from vbdguard.ingest.staging import PREFIX, staging_name
from vbdguard.sealing import seal, unseal
from vbdguard.sources.base import ExifRule
from vbdguard.sources.files import BLOCK, file_digest

SEGMENT_VERSION = 4
"""Goes up whenever a source reads the same bytes otherwise, or the files change their form."""
_SIZE_END = "-"
_HEX = re.compile("[0-9a-f]{1,16}")
_IDENTITY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """What a shard held and nobody could read."""

    key: str
    reason: str
    detail: str
    identity: str
    """Hex of 32 bytes: `sample_digest` where the bytes and the label were read, else `skipped_digest`."""
    was_read: bool
    is_shard: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """The small part of a segment; the pixels stay on disk."""

    path: Path
    digests: NDArray[np.uint8]
    """(n, 32), in the shard's own order."""
    keys: Sequence[str]
    """As the source gives them, less the shard's name where they begin with it."""
    labels: tuple[int | str, ...]
    skipped: tuple[SkippedEntry, ...]
    turned: int = 0
    """How many images are seen otherwise than they are stored, turned by their EXIF orientation."""

    @property
    def is_final(self) -> bool:
        """Whether reading the shard again would find the same: nothing was left out for want of memory or a disk.

        Loose files that could not be read are part of the segment's name: once they can be, it is another segment.
        """
        return not any(entry.reason in PASSING_REASONS and (entry.was_read or entry.is_shard) for entry in self.skipped)


class DamagedSegmentError(Exception):
    """A segment that is there but is not what was written."""


def segment_key(
    content: str,
    *,
    size: int | None,
    image_size: tuple[int, int],
    label_key: str | None,
    exif: ExifRule = "stored",
) -> str:
    """Return the name of the segment that a shard's content becomes: a digest, behind the size of a shard's file.

    Args:
        content: hex digest of the shard's bytes, or over its samples.
        size: bytes of the file, as `known_sizes` is to tell them; None where the shard is none.
        image_size: canonical height and width.
        label_key: where the labels were looked for.
        exif: whether images were turned by their EXIF orientation.
    """
    parts = (SEGMENT_VERSION, content, list(image_size), decoder_id(), label_key, exif)
    name = sequence_digest([json.dumps(part).encode() for part in parts])
    return name if size is None else f"{size:x}{_SIZE_END}{name}"


def known_sizes(store_dir: Path) -> frozenset[int | None]:
    """Return the sizes in bytes of the files whose segments stand in a store; none where there is no store.

    None is among them where there are segments of samples that are loose.
    """
    try:
        names = [path.name for path in (store_dir / "segments").iterdir()]
    except OSError:
        return frozenset()
    sizes = (name.partition(_SIZE_END) for name in names if not name.startswith(PREFIX))
    return frozenset(int(size, 16) if end else None for size, end, _ in sizes if not end or _HEX.fullmatch(size))


def load_segment(path: Path, image_size: tuple[int, int], *, check_pixels: bool = True) -> Segment | None:
    """Return a segment, its checksums verified; None if there is none.

    Args:
        path: the segment's folder.
        image_size: canonical height and width that it was made for.
        check_pixels: whether to read the pixels too; who has just done so, or wants none of them, need not.

    Raises:
        DamagedSegmentError: if it is not what was written.
    """
    if not path.is_dir():
        return None
    with _naming_damage():
        body = _body(path)
        for name in ("pixels.npy", "digests.npy") if check_pixels else ("digests.npy",):
            _check_file(path, name, body)
        digests: NDArray[np.uint8] = np.load(path / "digests.npy", allow_pickle=False)
        count = len(body["keys"])
        pixels = open_pixels(path)
        if pixels.shape != (count, *image_size, 3) or digests.shape != (count, DIGEST_BYTES):
            raise DamagedSegmentError(f"expected {count} images of {image_size} and as many digests")
        if not pixels.dtype == digests.dtype == np.uint8:
            raise DamagedSegmentError(f"expected pixels and digests of uint8, got {pixels.dtype} and {digests.dtype}")
        if len(body["labels"]) != count or not all(map(_is_label, set(body["labels"]))):
            raise DamagedSegmentError(f"expected {count} labels, class numbers of 0 or more or class names")
        skipped = tuple(SkippedEntry(**entry) for entry in body["skipped"])
        if not all(_IDENTITY.fullmatch(entry.identity) for entry in skipped):
            raise DamagedSegmentError("expected an identity in hex digits for each entry that was left out")
        shared: dict[int | str, int | str] = {}
        labels = tuple(shared.setdefault(label, label) for label in body["labels"])  # a name is held once
        return Segment(path, digests, PackedKeys(body["keys"]), labels, skipped, int(body["turned"]))


def require_sound_pixels(path: Path) -> None:
    """Read the pixels of a segment that was loaded without.

    Raises:
        DamagedSegmentError: if they are not what was written.
    """
    with _naming_damage():
        _check_file(path, "pixels.npy", _body(path))


@contextmanager
def _naming_damage() -> Iterator[None]:
    """Let whatever a damaged file makes json, numpy or a lookup raise be a DamagedSegmentError."""
    try:
        yield
    except DamagedSegmentError:
        raise
    except Exception as error:
        raise DamagedSegmentError(f"{type(error).__name__}: {error}") from error


def _body(path: Path) -> Any:
    try:
        return json.loads(unseal(path.name, (path / "samples.json").read_text("ascii")))
    except ValueError as error:
        raise DamagedSegmentError(f"samples.json is damaged, or that of another segment: {error}") from error


def _check_file(path: Path, name: str, body: Any) -> None:
    if file_digest(str(path / name)) != body["checksums"][name]:
        raise DamagedSegmentError(f"{name} does not match its checksum")


def _is_label(value: object) -> bool:
    return isinstance(value, str) or (type(value) is int and value >= 0)


def open_pixels(path: Path) -> NDArray[np.uint8]:
    """Return the read-only memory map uint8 (n, H, W, 3) of a segment's pixels."""
    pixels: NDArray[np.uint8] = np.load(path / "pixels.npy", mmap_mode="r", allow_pickle=False)
    return pixels


class SegmentWriter:
    """Collects the samples of one shard in the staging area; the pixels go to the disk as they come.

    Args:
        folder: a folder to write in, made here.
        image_size: canonical height and width.

    Raises:
        CacheError: if anything cannot be written.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int]) -> None:
        self._folder = folder
        self._image_shape = (*image_size, 3)
        self._digests: list[bytes] = []
        self._keys: list[str] = []
        self._labels: list[int | str] = []
        with writing(folder):
            folder.mkdir()
            self._file = (folder / "pixels.npy").open("wb", buffering=BLOCK)
            self._write_header(0)

    def add(self, key: str, label: int | str, digest: bytes, pixels: NDArray[np.uint8]) -> None:
        """Append one sample; pixels are uint8 (H, W, 3), C-contiguous.

        Raises:
            ValueError: if they are of another shape.
        """
        if pixels.shape != self._image_shape:
            raise ValueError(f"expected pixels of shape {self._image_shape}, got {pixels.shape}")
        try:  # not `writing`: a context manager costs more here than all the rest
            self._file.write(pixels.data)
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        self._keys.append(key)
        self._labels.append(label)
        self._digests.append(digest)

    def commit(self, target: Path, skipped: Sequence[SkippedEntry], *, turned: int = 0) -> None:
        """Finish the files and move them to `target`; if somebody else was first, theirs stays."""
        with writing(target):
            self._finish_pixels()
            self._write_digests()
            self._write_samples(target.name, skipped, turned)
            move(self._folder, target)

    def close(self) -> None:
        """Close the file; what was not committed goes with the staging area."""
        with suppress(OSError):  # the buffer of a full disk, which an error above already speaks of
            self._file.close()

    def _finish_pixels(self) -> None:
        self._file.seek(0)
        self._write_header(len(self._keys))
        sync(self._file)

    def _write_digests(self) -> None:
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, DIGEST_BYTES)
        with (self._folder / "digests.npy").open("wb") as file:
            np.save(file, digests, allow_pickle=False)
            sync(file)

    def _write_samples(self, name: str, skipped: Sequence[SkippedEntry], turned: int) -> None:
        body = {
            "keys": self._keys,
            "labels": self._labels,
            "skipped": [asdict(entry) for entry in skipped],
            "turned": turned,
            "checksums": {name: file_digest(str(self._folder / name)) for name in ("pixels.npy", "digests.npy")},
        }
        with (self._folder / "samples.json").open("w", encoding="ascii") as file:
            file.write(seal(name, json.dumps(body)))  # `dump` encodes in Python
            sync(file)

    def _write_header(self, count: int) -> None:
        # numpy pads the header so that the first axis may grow in place: the length is the same for any count.
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._image_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def remove_segment(path: Path) -> None:
    """Remove a damaged segment, in one step for whoever else looks at it."""
    aside = staging_name(path.parent)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let what cannot be written for `path` be a CacheError that says so."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path}: cannot write: {error}; free space, or pass another --cache-dir")


def move(folder: Path, target: Path) -> None:
    """Give a folder its name for good; if there is one of that name already, that one stays.

    Raises:
        OSError: if it cannot be moved.
    """
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(folder)
    if os.name == "posix":  # the rename itself must outlive a power cut
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync(file: Any) -> None:
    """Wait until a file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())
