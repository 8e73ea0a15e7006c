"""Files that stand for others: named as such, never scanned as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vbdguard.errors import ReadError
from vbdguard.ingest.decode import decode_image
from vbdguard.sources.opening import open_source
from vbdguard.sources.pointers import missing_outputs

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
ANNEX = b"/annex/objects/MD5E-s12--0123456789abcdef\n"

WriteTar = Callable[..., Path]


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.npz", "a.arrow", "data", "a.csv"])
@pytest.mark.parametrize(("content", "reason"), [(LFS, "git-lfs-pointer"), (ANNEX, "git-annex-pointer")])
def test_pointer_is_named_whatever_it_stands_for(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    [shard] = open_source(tmp_path / name).shards
    assert shard.name == name
    assert shard.digest()
    with pytest.raises(ReadError, match=f"{reason}: .*; run `git"):
        list(shard.read())


def test_pointer_in_the_place_of_an_image_is_named() -> None:
    with pytest.raises(ReadError, match="git lfs pull"):
        decode_image(LFS)
    with pytest.raises(ReadError, match="git annex get"):
        decode_image(ANNEX)


def test_shard_that_dvc_has_not_fetched_is_missing_and_named(tmp_path: Path, write_tar: WriteTar) -> None:
    write_tar([("a.jpg", b"1"), ("a.cls", b"1")], "train-0.tar")
    (tmp_path / "train-0.tar.dvc").write_text("outs:\n- md5: 00\n  size: 3\n  path: train-0.tar\n")
    (tmp_path / "train-1.tar.dvc").write_text("outs:\n- md5: 00\n  hash: md5\n  path: train-1.tar\n")
    shards = open_source(tmp_path).shards
    assert [shard.name for shard in shards] == ["train-0.tar", "train-1.tar"]
    with pytest.raises(ReadError, match=r"dvc-pointer: expected train-1\.tar, .*dvc pull"):
        list(shards[1].read())


def test_folder_that_dvc_has_not_fetched_at_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards.dvc").write_text("outs:\n- md5: 00.dir\n  nfiles: 3\n  path: 'shards'\n")
    [shard] = open_source(tmp_path).shards
    with pytest.raises(ReadError, match="dvc-pointer"):
        list(shard.read())


def test_class_that_dvc_has_not_fetched_is_named(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(png(0))
    (tmp_path / "dog.dvc").write_text("")
    assert [shard.name for shard in open_source(tmp_path).shards][1:] == ["dog"]
    assert [one.name for one in missing_outputs(str(tmp_path))] == ["dog"]
