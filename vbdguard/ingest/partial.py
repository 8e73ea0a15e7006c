"""A partial scan in a file: what one job has read of a data set, whole enough to be judged elsewhere.

It is a safetensors file. The tensor `manifest` holds JSON (what was read, how, and what became of each shard), and
`<segment>/<file>` the files of each segment as they stand in a store (`vbdguard.ingest.segments`). The manifest has a
checksum, each segment has its own. Nothing is pickled, and nothing is believed before its checksum.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import pack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vbdguard.atomic import replacing
from vbdguard.errors import PartialError
from vbdguard.ingest.digest import sequence_digest
from vbdguard.ingest.packing import SEGMENT_FILES, is_segment_name, link_segment, place_segment
from vbdguard.ingest.segments import DamagedSegmentError, load_segment, remove_segment
from vbdguard.ingest.shard_pass import ReadShard, ReadSource
from vbdguard.ingest.shards import ShardOutcome
from vbdguard.ingest.shares import Share
from vbdguard.sealing import seal, unseal
from vbdguard.sources.base import ExifRule
from vbdguard.typed_json import MismatchError, rebuild

FORMAT, FORMAT_VERSION = "vbdguard partial scan", "1"
_MANIFEST = "manifest"
_CHECKSUMS = "samples.json"
"""The file of a segment that has the checksums of the others in it."""
_PIECE = 8 << 20
_MAX_HEADER = 100_000_000
"""Bytes that readers of safetensors take for the header: about 150,000 shards."""


@dataclass(frozen=True, slots=True)
class PartialShard:
    """One shard and what became of it."""

    name: str
    exif: ExifRule
    digest: str
    """Hex digest of its bytes or samples; empty where it could not be taken."""
    segment: str | None
    """Name of its segment, None where the shard failed as a whole."""
    key_prefix: str
    failure: tuple[str, str]
    """Reason and detail of the failure, empty where there is none."""
    votes: tuple[tuple[int, int, int], ...]
    """Height, width and how many of its first images have them; none where the canonical size was named."""

    def __post_init__(self) -> None:
        if self.segment is not None and not is_segment_name(self.segment):
            raise ValueError(f"expected the name of a segment, got {self.segment!r}")
        bytes.fromhex(self.digest)
        for vote in self.votes:
            if any(type(number) is not int or number < 1 for number in vote):
                raise ValueError(f"expected height, width and a count of 1 or more each, got {vote}")


@dataclass(frozen=True, slots=True)
class Partial:
    """What one job has read."""

    version: str
    """Of vbdguard."""
    decoder: str
    """`decoder_id()`: two decoders may see one image differently."""
    config: Mapping[str, Any]
    """`ScanConfig.result_settings()`."""
    seed: int
    share: Share
    sources: tuple[str, ...]
    """What the user named."""
    class_names: Mapping[str, str] | None
    """By class number, as text."""
    listing: tuple[str, ...]
    """Names of all shards of the data set, as the job saw it, in its order."""
    image_size: tuple[int, int]
    """Canonical height and width."""
    shards: tuple[PartialShard, ...]
    """Those of the share."""

    def __post_init__(self) -> None:
        known, held = set(self.listing), [shard.name for shard in self.shards]
        if len(known) != len(self.listing) or len(set(held)) != len(held) or not known.issuperset(held):
            raise ValueError("expected each of its shards once, and in the listing once")
        for number in self.class_names or ():
            int(number)

    def read_source(self, store_dir: Path) -> ReadSource:
        """Return what the job had, its segments taken to stand in a store."""
        names = None if self.class_names is None else {int(number): name for number, name in self.class_names.items()}
        shards = tuple(
            ReadShard(
                one.name,
                one.exif,
                ShardOutcome(
                    one.digest,
                    None if one.segment is None else store_dir / "segments" / one.segment,
                    one.key_prefix,
                    one.failure,
                ),
                {(height, width): count for height, width, count in one.votes},
            )
            for one in self.shards
        )
        return ReadSource(self.sources, names, self.image_size, shards)


def partial_shards(read: ReadSource) -> tuple[PartialShard, ...]:
    """Return the shards of a share in the form of the file."""
    return tuple(
        PartialShard(
            shard.name,
            shard.exif,
            shard.outcome.digest,
            None if shard.outcome.segment is None else shard.outcome.segment.name,
            shard.outcome.key_prefix,
            shard.outcome.failure,
            tuple((*size, count) for size, count in sorted(shard.votes.items())),
        )
        for shard in read.shards
    )


def write_partial(path: Path, partial: Partial, store_dir: Path) -> None:
    """Write a partial scan with its segments, which stand in a store; the file is there whole or not at all.

    Raises:
        PartialError: if it names more shards than such a file may.
        OSError: if it cannot be written, or a segment has gone.
    """
    body = asdict(partial)
    manifest = seal(FORMAT, json.dumps(body)).encode("ascii")
    names = dict.fromkeys(shard.segment for shard in partial.shards if shard.segment is not None)
    files = {f"{name}/{inner}": store_dir / "segments" / name / inner for name in names for inner in SEGMENT_FILES}
    sizes = {_MANIFEST: len(manifest)} | {name: file.stat().st_size for name, file in files.items()}
    header = _header(sizes)
    if len(header) > _MAX_HEADER:
        raise PartialError(
            f"expected at most some 150,000 shards in one partial scan, got {len(names)}; take more shares"
        )
    with replacing(path) as file:
        file.write(pack("<Q", len(header)) + header + manifest)
        for name, inner in files.items():
            _append(file, inner, sizes[name])


def _header(sizes: Mapping[str, int]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT, "version": FORMAT_VERSION}}
    start = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    return text + b" " * (-len(text) % 8)


def _append(target: BinaryIO, path: Path, size: int) -> None:
    with path.open("rb") as file:
        before = target.tell()
        shutil.copyfileobj(file, target, _PIECE)
        if target.tell() - before != size:
            raise OSError(f"{path} changed while it was copied; run it again")


def read_partial(path: Path) -> Partial:
    """Return the manifest of a partial scan.

    Raises:
        PartialError: if the file cannot be read, is none, is damaged, or of another form.
    """
    with _opened(path) as file:
        if (found := file.metadata().get("version")) != FORMAT_VERSION:
            raise PartialError(f"{path}: expected a partial scan of form {FORMAT_VERSION}, got {found}; make it anew")
        try:
            body = unseal(FORMAT, file.get_tensor(_MANIFEST).tobytes().decode("ascii"))
            return rebuild(Partial, json.loads(body))
        except (ValueError, KeyError, TypeError, RecursionError, MismatchError) as error:
            raise PartialError(f"{path}: expected the manifest of a partial scan: {error}; make it anew") from error


def place_segments(
    path: Path, partial: Partial, *, store_dir: Path, staging: Path, own_store: Path | None = None
) -> Iterator[str]:
    """Put the segments of a partial scan into a store, and yield the name of each shard as it is done.

    Those that stand there already, sound and the same, stay.

    Args:
        path: the file.
        partial: its manifest.
        store_dir: the store, of nothing but partial scans.
        staging: its staging area.
        own_store: a store of segments that were read from the data themselves; those count for more than the file's.

    Raises:
        PartialError: if the file is damaged.
        CacheError: if the store cannot be written.
    """
    with _opened(path) as file:
        for shard in partial.shards:
            if shard.segment is not None:
                try:
                    _place(shard.segment, file, partial.image_size, store_dir, staging, own_store)
                except DamagedSegmentError as error:
                    raise PartialError(f"{path}: {shard.name} is damaged: {error}; make it anew") from error
            yield shard.name


def _place(
    name: str, file: Any, image_size: tuple[int, int], store_dir: Path, staging: Path, own_store: Path | None
) -> None:
    target = store_dir / "segments" / name
    own = None if own_store is None else own_store / "segments" / name
    if own is not None and link_segment(own, target, staging=staging, image_size=image_size):
        return
    files = {inner: _Piecewise(file, f"{name}/{inner}") for inner in SEGMENT_FILES}
    if not _stands(target, files, image_size):
        place_segment(name, files, store_dir=store_dir, staging=staging, image_size=image_size)


def believed_digest(partials: Sequence[Partial], store_dir: Path) -> str:
    """Return the hex digest of what the segments of partial scans say, pixels included, in the order of their names.

    Raises:
        OSError: if one has gone from the store.
    """
    names = sorted({shard.segment for partial in partials for shard in partial.shards if shard.segment is not None})
    return sequence_digest((store_dir / "segments" / name / _CHECKSUMS).read_bytes() for name in names)


def _stands(segment: Path, files: Mapping[str, Iterable[NDArray[np.uint8]]], image_size: tuple[int, int]) -> bool:
    """Return whether a segment stands in the store, sound and the same; what is neither is removed."""
    try:
        if load_segment(segment, image_size) is None:
            return False
        if (segment / _CHECKSUMS).read_bytes() == b"".join(piece.tobytes() for piece in files[_CHECKSUMS]):
            return True
    except DamagedSegmentError:
        pass
    remove_segment(segment)
    return False


@dataclass(frozen=True, slots=True)
class _Piecewise:
    """A tensor of the file, read anew and piece by piece whenever it is gone through."""

    file: Any
    name: str

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return _pieces(self.file, self.name)


def _pieces(file: Any, name: str) -> Iterator[NDArray[np.uint8]]:
    view = file.get_slice(name)
    (size,) = view.get_shape()
    for start in range(0, size, _PIECE):
        yield view[start : min(start + _PIECE, size)]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield the file for `safetensors` to read; what that cannot read is a PartialError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise PartialError(f"{path}: expected a partial scan, as `vbdguard scan --partial` writes it")
            yield file
    except (SafetensorError, OSError) as error:
        raise PartialError(
            f"{path}: expected a partial scan, as `vbdguard scan --partial` writes it: {error}; make it anew"
        ) from error


def names_shown(names: Sequence[str], at_most: int = 3) -> str:
    """Return the first few of some names and how many more there are."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
