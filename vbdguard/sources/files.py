"""Opening, hashing and sniffing one file, local or behind an fsspec URL."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from blake3 import blake3

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.http_file import HttpFile, http_size
from vbdguard.sources.remote import filesystem
from vbdguard.sources.secrets import is_web, query_mark, shown_name, without_query, without_secrets

BLOCK = 1 << 20
"""Bytes per read: large enough that hashing, not the calls, sets the pace."""

REMOTE_BLOCK = 8 << 20
"""Bytes that are fetched at once, and again when that fails, from stores other than web servers."""


def is_url(path: str) -> bool:
    """Return whether the path goes through fsspec."""
    return "://" in path


def local_path(path: str) -> str:
    """Return `path` without a leading `file://`."""
    return path.removeprefix("file://")


def open_binary(path: str, *, buffering: int = BLOCK) -> BinaryIO:
    """Return a readable binary stream.

    Args:
        path: a local path or an fsspec URL.
        buffering: bytes to read ahead from a local file, 0 for none.

    Raises:
        ReadError: "io-error" if the file or URL cannot be opened.
        SourceError: if fsspec lacks the package for this kind of URL.
    """
    try:
        if not is_url(path):
            return Path(path).open("rb", buffering=buffering)
        if is_web(path):
            return cast(BinaryIO, _buffered(HttpFile(path), buffering))
        remote, inner = filesystem(path)
        return cast(BinaryIO, remote.open(inner, "rb", block_size=REMOTE_BLOCK))
    except (SourceError, ReadError):
        raise
    except ValueError as error:
        raise ReadError("io-error", f"cannot open it, the name is no path: {error}") from error
    except Exception as error:  # what the packages behind a URL raise is theirs: botocore's errors are no OSError
        words = without_secrets(str(error)) or type(error).__name__
        raise ReadError("io-error", f"cannot open it: {words}") from error


def _buffered(file: HttpFile, buffering: int) -> io.BufferedReader:
    # Even where nothing is to be read ahead: a raw stream may give less than was asked for.
    return io.BufferedReader(file, buffering or io.DEFAULT_BUFFER_SIZE)


def file_digest(path: str) -> str:
    """Return the hex BLAKE3 of a file's bytes.

    Raises:
        ReadError: "io-error" if it cannot be read.
    """
    hasher = blake3()
    try:
        # Not `update_mmap`: a file that shrinks while it is mapped would end the process with SIGBUS.
        with open_binary(path) as stream:
            while block := stream.read(BLOCK):
                hasher.update(block)
    except OSError as error:
        raise ReadError("io-error", f"cannot read it: {error}") from error
    return hasher.hexdigest()


def file_size(path: str) -> int | None:
    """Return a file's size in bytes, None where it cannot be told."""
    try:
        if not is_url(path):
            return Path(path).stat().st_size
        if is_web(path):
            return http_size(path)
        remote, inner = filesystem(path)
        return cast("int | None", remote.size(inner))
    except Exception:  # whatever it is, opening it says why
        return None


def file_bytes(path: str) -> bytes:
    """Return all bytes of a file.

    Raises:
        ReadError: "io-error" if it cannot be read.
    """
    try:
        with open_binary(path) as stream:
            return stream.read()
    except OSError as error:
        raise ReadError("io-error", f"cannot read it: {error}") from error


def head(path: str, count: int = 512) -> bytes:
    """Return the first `count` bytes, fewer where the file is shorter.

    Raises:
        ReadError: "io-error" if it cannot be read.
    """
    try:
        with open_binary(path, buffering=0) as stream:
            return stream.read(count)
    except OSError as error:
        raise ReadError("io-error", f"cannot read it: {error}") from error


class HashingReader(io.RawIOBase):
    """A raw stream that hashes what passes through it.

    Args:
        stream: the stream to read from; closed with this one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._hasher = blake3()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the stub asks for WriteableBuffer
        """Fill `buffer` from the stream; return how many bytes came."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._hasher.update(data)
        return len(data)

    def hexdigest(self) -> str:
        """Return the hex BLAKE3 of everything read so far."""
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Close the inner stream too."""
        self._stream.close()
        super().close()


def short_names(paths: list[str]) -> list[str]:
    """Return the shortest names that tell the paths apart: base names, else paths below the common folder.

    Raises:
        SourceError: if one path stands twice.
    """
    real = [path if is_url(path) else os.path.realpath(path) for path in paths]
    if len(set(real)) != len(real):
        twice = next(path for path, times in Counter(real).items() if times > 1)
        raise SourceError(f"{shown_name(twice)} is named twice; name each shard once")
    bases = [PurePath(without_query(path)).name for path in paths]
    if len(set(bases)) == len(bases):
        return bases
    full = [path if is_url(path) else os.path.abspath(path) for path in paths]  # noqa: PTH100 - a million, as strings
    parts = [PurePath(_shown(path)).parts for path in full]
    common = sum(1 for level in zip(*(one[:-1] for one in parts), strict=False) if len(set(level)) == 1)
    names = ["/".join(one[common:]) for one in parts]
    times = Counter(names)
    # Only a script that answers each query with another file leaves the query as the difference.
    return [name if times[name] == 1 else name + query_mark(path) for name, path in zip(names, full, strict=True)]


def _shown(path: str) -> str:
    return shown_name(path)
