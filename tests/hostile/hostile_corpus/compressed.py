"""Compressed archives: cut, damaged, more than one stream, bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator

import zstandard

from hostile_corpus.making import BLOCK, Case, case, sample, shard, tar

BODY = tar([member for n in range(30) for member in sample(f"s{n}", n, n % 2)])
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}
BOMB = 66 << 20


def bomb_of(pack: Callable[[bytes], bytes]) -> bytes:
    """An archive of one member of zeros that nobody wants, so that it is passed over at full speed."""
    info = tarfile.TarInfo("zeros.bin")
    info.size = BOMB
    return pack(info.tobuf() + bytes(BOMB) + bytes(2 * BLOCK))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _cases() -> Iterator[Case]:
    for name, pack in PACKERS.items():
        packed, suffix = pack(BODY), f"bad.tar.{name}"
        yield case(f"{name}-cut", shard(packed[: len(packed) // 2], suffix), "truncated", "corrupt")
        yield case(f"{name}-cut-at-its-end", shard(packed[:-3], suffix), "truncated")
        yield case(f"{name}-flipped", shard(flipped(packed), suffix), "corrupt", "truncated", "undecodable")
        yield case(f"{name}-garbage-behind", shard(packed + b"garbage", suffix), "several-streams")
        yield case(f"{name}-second-stream", shard(packed + packed, suffix), "several-streams")
        parts = pack(BODY[: 8 * BLOCK]) + pack(BODY[8 * BLOCK :])
        yield case(f"{name}-in-two-streams", shard(parts, suffix), "several-streams")
        yield case(
            f"{name}-bomb", lambda folder, pack=pack, suffix=suffix: shard(bomb_of(pack), suffix)(folder), "bomb"
        )
        yield case(f"{name}-of-garbage", shard(pack(b"no tar " * 1000), suffix), "corrupt")
        yield case(f"{name}-twice", shard(pack(packed), suffix), "corrupt", "truncated")
        yield case(f"{name}-of-cut-tar", shard(pack(BODY[: len(BODY) // 2]), suffix), "truncated")
        yield case(f"{name}-magic-alone", shard(packed[:6], suffix), "truncated", "corrupt")


def xz_that_wants_memory() -> bytes:
    """A stream whose header asks for a dictionary of 1.5 GiB."""
    packed = lzma.compress(BODY, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}])
    header = bytearray(packed[12:24])
    header[4] = 39  # the one byte that stands for the size of the dictionary
    header[-4:] = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
    return packed[:12] + bytes(header) + packed[24:]


def zstd_that_wants_memory() -> bytes:
    """A frame whose header asks for a window of 2 GiB; its one block is raw."""
    window = bytes([(31 - 10) << 3])
    block = struct.pack("<I", (len(BODY[:1000]) << 3) | 1)[:3] + BODY[:1000]
    return b"\x28\xb5\x2f\xfd\x00" + window + block


def gz_of_many_headers() -> bytes:
    """Headers only, as many as fit below the ratio: each one is a member that must be looked at."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(20_000):
            archive.addfile(tarfile.TarInfo(f"{number}.txt"))
    return gzip.compress(buffer.getvalue()[:-12_000], mtime=0)


CASES = (
    *_cases(),
    case("xz-that-wants-memory", shard(xz_that_wants_memory(), "bad.tar.xz"), "corrupt"),
    case("zst-that-wants-memory", shard(zstd_that_wants_memory(), "bad.tar.zst"), "corrupt"),
    case("gz-of-many-headers", lambda folder: shard(gz_of_many_headers(), "bad.tar.gz")(folder), "truncated"),
    case("lzma-cut", shard(lzma.compress(BODY, format=lzma.FORMAT_ALONE)[:500], "bad.tar.lzma"), "truncated"),
)
