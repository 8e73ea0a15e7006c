from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteTar = Callable[..., Path]


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Return an encoder: random pixels for a seed, in a size and a format."""

    def to_bytes(seed: int = 0, size: tuple[int, int] = (8, 8), suffix: str = "PNG") -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, suffix)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def write_tar(tmp_path: Path) -> WriteTar:
    """Write (key, image, label) samples to a shard."""

    def write(samples: Sequence[tuple[str, bytes, object]], name: str = "shard.tar") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for key, image, label in samples:
                for suffix, content in (("png", image), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def shards(write_tar: WriteTar, encode: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a folder of shards, ten samples each, classes 0 to 2; return the folder."""

    def write(folder: str = "shards", count: int = 3, prefix: str = "train") -> Path:
        for shard in range(count):
            numbers = range(shard * 10, shard * 10 + 10)
            samples = [(f"s{number:03d}", encode(number), number % 3) for number in numbers]
            path = write_tar(samples, f"{folder}/{prefix}-{shard:03d}.tar")
        return path.parent

    return write
