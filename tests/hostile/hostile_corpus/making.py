"""What the cases are made of: whole samples, archives, and shards beside which a broken one lies."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = 512
Members = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Case:
    """One input."""

    name: str
    write: Callable[[Path], str]
    """Writes it into an empty folder and returns what to scan. Without what is hostile in it, it would be clean."""
    expected: frozenset[str]
    """Reasons that must be in the report, or the name of the error that opening it ends with."""


def case(name: str, write: Callable[[Path], str], *expected: str) -> Case:
    assert expected
    return Case(name, write, frozenset(expected))


@cache
def png(seed: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def sample(key: str, seed: int = 0, label: int = 0) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(seed)), (f"{key}.cls", b"%d" % label)]


def tar(members: Members, form: int = tarfile.PAX_FORMAT, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def whole() -> list[tuple[str, bytes]]:
    """Samples of two classes, more than a scan needs to judge."""
    return [member for n in range(24) for member in sample(f"whole{n}", n, n % 2)]


def shard(content: bytes, name: str = "bad.tar") -> Callable[[Path], str]:
    """A folder with a whole shard and this one."""

    def write(folder: Path) -> str:
        (folder / "good.tar").write_bytes(tar(whole()))
        (folder / name).write_bytes(content)
        return str(folder)

    return write


def members(*extra: tuple[str, bytes]) -> Callable[[Path], str]:
    """A folder with a whole shard, and one that holds these members too."""
    return shard(tar([*sample("a", 1), *extra, *sample("z", 2)]))


def edited(data: bytes, change: Callable[[bytearray], None], at: int = 0) -> bytes:
    """Change a header and give it a right checksum again."""
    block = bytearray(data[at : at + BLOCK])
    change(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + BLOCK :]


def put(place: int, content: bytes) -> Callable[[bytearray], None]:
    def change(block: bytearray) -> None:
        block[place : place + len(content)] = content

    return change
