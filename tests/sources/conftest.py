from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Test modules in folders without `__init__.py` cannot import what lies beside them.
sys.path.append(str(Path(__file__).parent))

WriteTar = Callable[..., Path]


def encoded(seed: int = 0, size: tuple[int, int] = (8, 8), suffix: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Return the bytes of a small PNG for a seed."""
    return encoded


@pytest.fixture
def write_tar(tmp_path: Path) -> WriteTar:
    """Write (name, content) members to a tar file with Python's own writer."""

    def write(
        members: Sequence[tuple[str, bytes]],
        name: str = "shard.tar",
        *,
        mode: str = "w",
        form: int = tarfile.PAX_FORMAT,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode, format=form) as tar:  # type: ignore[call-overload]
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write
