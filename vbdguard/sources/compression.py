"""Compressed shards: told by their magic, unpacked as a stream, within limits that a bomb meets.

A file holds one compressed stream and nothing behind it. `tarfile`, and so webdataset, reads the first stream only and
says nothing about others; `gzip` and `zcat` read them all. Such a file is refused rather than understood in one way.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

from vbdguard.errors import ReadError, SourceError

MAX_RATIO = 200
"""Unpacked bytes for each packed one. Images hardly shrink; headers and padding of tiny ones shrink six-fold."""
ALLOWANCE = 64 << 20
"""Unpacked bytes below which the ratio does not count."""
MAX_DICTIONARY = 256 << 20
"""Bytes of memory that a stream may ask for to be unpacked: `xz -9` wants 65 MiB."""

_CHUNK = 64 << 10
_SMALL_CHUNK = 1 << 10
"""For unpackers that cannot be told how much to give at most: 4 bytes of zstd can stand for 128 KiB."""
_LEVEL = 6


class _Unpacker(Protocol):
    """What `bz2`, `lzma` and the wrappers below have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes of what has been put in."""

    @property
    def unused_data(self) -> bytes:
        """What stood behind the stream's end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take more in, return what comes of it: at most `max_length` bytes, the rest later."""


@dataclass(frozen=True, slots=True)
class Compression:
    """One way to compress a shard."""

    name: str
    magics: tuple[bytes, ...]
    unpacker: Callable[[], _Unpacker]
    packed: Callable[[BinaryIO], BinaryIO]
    """Wraps a file into a stream that compresses what is written; the same content becomes the same bytes."""
    chunk: int = _CHUNK


def compression_of(start: bytes) -> Compression | None:
    """Return how a file that begins with `start` (8 bytes or more) is compressed, None where it is not."""
    return next((one for one in COMPRESSIONS if start.startswith(one.magics)), None)


class UnpackingReader(io.RawIOBase):
    """A raw stream of what a compressed one holds.

    Args:
        stream: the compressed stream, at its beginning; closed with this one.
        compression: how it is compressed.

    Reading raises ReadError: "truncated", "corrupt", "several-streams", or "bomb" beyond `MAX_RATIO`.
    """

    def __init__(self, stream: BinaryIO, compression: Compression) -> None:
        super().__init__()
        self._stream = stream
        self._compression = compression
        self._unpacker = compression.unpacker()
        self._packed = 0
        self.unpacked = 0
        """Bytes that have come out so far."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the stub asks for WriteableBuffer
        """Fill `buffer`; return how many bytes came, 0 at the end of the one stream that the file holds."""
        data = b""
        while not data:
            if self._unpacker.eof:
                self._check_end()
                return 0
            data = self._next(len(buffer))
        buffer[: len(data)] = data
        self.unpacked += len(data)
        if self.unpacked > ALLOWANCE and self.unpacked > MAX_RATIO * self._packed:
            raise ReadError(
                "bomb",
                f"expected at most {MAX_RATIO} times the bytes of a {self._compression.name} stream, {self._packed} "
                f"became {self.unpacked} and more; unpack the shard yourself if it is meant to be so",
            )
        return len(data)

    def _next(self, count: int) -> bytes:
        more = b""
        if self._unpacker.needs_input:
            more = self._stream.read(self._compression.chunk)
            if not more:
                raise ReadError("truncated", f"the {self._compression.name} stream ends early")
            self._packed += len(more)
        try:
            return self._unpacker.decompress(more, count)
        except Exception as error:  # each library has an error of its own; what it fails on is damage
            raise ReadError("corrupt", f"the {self._compression.name} stream is damaged: {error}") from error

    def _check_end(self) -> None:
        behind = self._unpacker.unused_data or self._stream.read(1)
        if behind:
            name = self._compression.name
            raise ReadError(
                "several-streams",
                f"expected one {name} stream, got more behind its end, which some readers see and others do not; "
                f"pack the shard anew as one stream",
            )

    def close(self) -> None:
        """Close the inner stream too."""
        self._stream.close()
        super().close()


class _GzipUnpacker:
    """zlib's way of keeping what it has not used, as `bz2` and `lzma` do it."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _ZstdUnpacker:
    """zstandard gives all that comes of the input at once; here it waits until it is asked for."""

    def __init__(self) -> None:
        self._inner = _zstandard().ZstdDecompressor(max_window_size=MAX_DICTIONARY).decompressobj()
        self._waiting = memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof) and not self._waiting

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._waiting = memoryview(self._inner.decompress(data))
        given, self._waiting = bytes(self._waiting[:max_length]), self._waiting[max_length:]
        return given


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise SourceError("a shard compressed with zstd needs zstandard; pip install 'vbdguard[zstd]'") from error
    return zstandard


def _gzip_writer(file: BinaryIO) -> BinaryIO:
    # No name and no time: the same samples are the same bytes.
    return cast(BinaryIO, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0))


def _bzip2_writer(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, bz2.BZ2File(file, "wb"))


def _xz_writer(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, lzma.LZMAFile(file, "wb"))


def _zstd_writer(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, _zstandard().ZstdCompressor().stream_writer(file, closefd=False))


COMPRESSIONS = (
    Compression("gzip", (b"\x1f\x8b",), _GzipUnpacker, _gzip_writer),
    Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor, _bzip2_writer),
    Compression(
        "xz",
        (b"\xfd7zXZ\0", b"\x5d\0\0\x80"),  # the second one of the older .lzma, as tarfile tells it
        lambda: lzma.LZMADecompressor(memlimit=MAX_DICTIONARY),
        _xz_writer,
    ),
    Compression("zstd", (b"\x28\xb5\x2f\xfd",), _ZstdUnpacker, _zstd_writer, _SMALL_CHUNK),
)
