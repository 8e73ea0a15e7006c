"""What kind of data a file holds: told by its content, by its name only where the content says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.arrow import FILE_MAGIC, STREAM_MAGIC
from vbdguard.sources.compression import compression_of
from vbdguard.sources.files import head, is_url, local_path
from vbdguard.sources.manifest import is_manifest
from vbdguard.sources.npz import ZIP_MAGIC
from vbdguard.sources.parquet import PARQUET_MAGIC
from vbdguard.sources.pointers import pointer_error
from vbdguard.sources.secrets import without_query
from vbdguard.sources.tar_members import BLOCK, looks_like_tar

Kind = Literal["tar", "parquet", "arrow", "npz", "manifest", "pointer", "other"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "npz": (".npz",),
    "manifest": (".csv", ".tsv", ".jsonl", ".ndjson"),
}
SHARD_SUFFIXES = tuple(suffix for kind, suffixes in SUFFIXES.items() if kind != "manifest" for suffix in suffixes)

_MANIFEST_HEAD = 4096
_ZIP_NAME = slice(30, 30 + 200)


def kind_of(path: str) -> Kind:
    """Return the kind of a file; a broken shard is still the shard that its name says.

    A URL whose name tells is not opened: one request for each of a thousand shards would take minutes.
    """
    by_name = kind_by_name(path)
    if is_url(path) and by_name not in ("other", "manifest"):
        return by_name
    try:
        if not is_url(path) and Path(path).exists() and not Path(path).is_file():
            return "other"  # a named pipe would be waited for
        start = head(path, _MANIFEST_HEAD)
    except (ReadError, OSError):
        # Reading it fails again in the scan, which then names it as unreadable.
        return by_name
    return kind_by_content(start) or by_name


def kind_by_name(path: str) -> Kind:
    """Return the kind that a file's name says it is of."""
    name = local_path(without_query(path)).lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if name.endswith(suffixes)), "other")


def kind_by_content(start: bytes) -> Kind | None:
    """Return the kind of a file that begins with `start`, None where that says nothing."""
    if pointer_error(start, "data"):
        return "pointer"
    if start.startswith(PARQUET_MAGIC):
        return "parquet"
    if looks_like_tar(start[:BLOCK]) or _holds_tar(start):
        return "tar"
    if start.startswith(FILE_MAGIC) or _begins_arrow_stream(start):
        return "arrow"
    if start.startswith(ZIP_MAGIC) and b".npy" in start[_ZIP_NAME]:
        return "npz"
    return "manifest" if is_manifest(start) else None


def _begins_arrow_stream(start: bytes) -> bool:
    # The first message is the schema, never longer than this.
    return start.startswith(STREAM_MAGIC) and 0 < int.from_bytes(start[4:8], "little", signed=True) < 1 << 24


def _holds_tar(start: bytes) -> bool:
    """Return whether a compressed file begins with a tar header, as far as its own beginning shows."""
    compression = compression_of(start)
    if compression is None:
        return False
    try:
        block = compression.unpacker().decompress(start, BLOCK)
    except SourceError:  # without the package nobody can tell; reading it says which one is missing
        return True
    except Exception:  # each library has an error of its own
        return False
    return block[257:262] == b"ustar"
