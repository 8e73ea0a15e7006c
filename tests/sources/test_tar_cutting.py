"""Cutting compressed shards; the rest of what cutting must keep stands in tests/cleaning."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.compression import compression_of
from vbdguard.sources.cutting import Fate, Places, Ruling
from vbdguard.sources.tar import TarShard
from vbdguard.sources.tar_cutting import plan_tar

Png = Callable[..., bytes]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_cut_shard_stays_compressed_as_it_was(tmp_path: Path, pack: Callable[[bytes], bytes], png: Png) -> None:
    members = [(f"{n}.{suffix}", png(n) if suffix == "png" else b"1") for n in range(3) for suffix in ("png", "cls")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path = tmp_path / "s.tar"
    path.write_bytes(pack(buffer.getvalue()))
    places = Places(*(tmp_path / name for name in ("kept", "flagged", "skipped")))
    for folder in (places.kept, places.flagged, places.skipped):
        folder.mkdir()

    def rule(entry: RawSample | Unreadable) -> Ruling:
        return Ruling(entry.key, Fate.FLAGGED if entry.key == "s.tar/1" else Fate.KEPT)

    written = plan_tar(TarShard(str(path), "s.tar"), rule).write(places, link=False)
    assert {part.fate: [entry.key for entry in part.shard.read()] for part in written} == {
        Fate.KEPT: ["s.tar/0", "s.tar/2"],
        Fate.FLAGGED: ["s.tar/1"],
    }
    start = path.read_bytes()[:8]
    assert all(compression_of(part.files[0].read_bytes()) == compression_of(start) for part in written)
