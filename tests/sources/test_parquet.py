"""Parquet shards in the Hugging Face layout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.opening import open_source
from vbdguard.sources.parquet import ParquetShard, parquet_class_names

Png = Callable[..., bytes]


def write(path: Path, columns: dict[str, Any], names: list[str] | None = None, **options: Any) -> Path:
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def read(path: Path, label_key: str | None = None) -> list[RawSample | Unreadable]:
    return list(ParquetShard(str(path), path.name, label_key).read())


def reasons(path: Path) -> list[str]:
    return [entry.reason if isinstance(entry, Unreadable) else "read" for entry in read(path)]


def test_rows_of_the_hugging_face_layout_are_samples(tmp_path: Path, png: Png) -> None:
    images = [{"bytes": png(n), "path": f"{n}.png"} for n in range(600)]
    path = write(tmp_path / "t.parquet", {"image": images, "label": list(range(600))}, row_group_size=100)
    assert read(path) == [RawSample(f"t.parquet/{n}", png(n), n) for n in range(600)]


def test_binary_columns_names_and_keys_are_taken(tmp_path: Path, png: Png) -> None:
    columns = {"__key__": ["a/1", None], "img": [png(0), png(1)], "label": ["cat", "dog"]}
    assert read(write(tmp_path / "t.parquet", columns)) == [
        RawSample("t.parquet/a/1", png(0), "cat"),
        RawSample("t.parquet/1", png(1), "dog"),
    ]


def test_label_key_names_the_column(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(0)], "coarse": [4], "fine": [17]})
    assert read(path, "fine") == [RawSample("t.parquet/0", png(0), 17)]
    with pytest.raises(ReadError, match=r"coarse, fine; name it with --label-key"):
        read(path)


def test_rows_that_hold_too_little_are_named(tmp_path: Path, png: Png) -> None:
    images = [
        None,
        {"bytes": None, "path": "/elsewhere.png"},
        {"bytes": png(0), "path": None},
        {"bytes": png(0), "path": ""},
    ]
    path = write(tmp_path / "t.parquet", {"image": images, "label": [1, 1, None, -1]})
    assert reasons(path) == ["no-image", "no-image", "no-label", "bad-label"]


def test_file_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="the columns text, label"):
        read(write(tmp_path / "t.parquet", {"text": ["a"], "label": [1]}))
    with pytest.raises(ReadError, match="several: left, right"):
        read(write(tmp_path / "u.parquet", {"left": [b"a"], "right": [b"b"], "label": [1]}))


def test_cut_file_is_corrupt(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(n) for n in range(50)], "label": [0] * 50})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ReadError, match="corrupt"):
        read(path)


def test_damage_inside_is_reported_after_the_rows_before_it(tmp_path: Path, png: Png) -> None:
    columns = {"image": [png(n) for n in range(512)], "label": [0] * 512}
    path = write(tmp_path / "t.parquet", columns, row_group_size=256, write_page_checksum=True, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 2000] ^= 0xFF
    path.write_bytes(data)
    entries = read(path)
    assert len(entries) == 257
    assert isinstance(entries[-1], Unreadable)
    assert (entries[-1].reason, entries[-1].is_shard) == ("corrupt", True)


def test_class_names_come_from_the_schema(tmp_path: Path, png: Png) -> None:
    columns = {"image": [png(0)], "label": [0]}
    one = write(tmp_path / "1.parquet", columns, ["cat", "dog"])
    two = write(tmp_path / "2.parquet", columns, ["dog", "cat"])
    bare = write(tmp_path / "3.parquet", columns)
    assert parquet_class_names([str(bare), str(one)], None) == {0: "cat", 1: "dog"}
    assert parquet_class_names([str(bare)], None) is None
    with pytest.raises(SourceError, match="numbers its classes otherwise"):
        parquet_class_names([str(one), str(two)], None)


def test_file_that_changes_between_hashing_and_reading_is_refused(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(0)], "label": [0]})
    shard = ParquetShard(str(path), "t")
    shard.digest()
    assert len(list(shard.read())) == 1
    write(path, {"image": [png(1)], "label": [0]})
    with pytest.raises(ReadError, match="changed"):
        list(shard.read())


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(0)], "label": [0]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"pip install 'vbdguard\[parquet\]'"):
        read(path)


def test_the_pass_that_reads_tells_the_digest_of_the_file(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(0), png(1), None], "label": [0, 1, 1]})
    heard: list[str] = []
    shard = ParquetShard(str(path), path.name)
    assert list(shard.read_and_hash(heard.append)) == read(path)
    assert heard == [shard.digest()]
    assert shard.size() == path.stat().st_size


def test_a_file_that_is_too_large_to_be_held_is_hashed_in_a_pass_of_its_own(
    tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.parquet", {"image": [png(0)], "label": [0]})
    monkeypatch.setattr("vbdguard.sources.parquet.MAX_HELD", path.stat().st_size - 1)
    assert ParquetShard(str(path), path.name).size() is None


def test_column_whose_name_is_no_text_is_corrupt(tmp_path: Path, png: Png) -> None:
    """Found by fuzzing: pyarrow raises UnicodeDecodeError where names are asked for."""
    path = write(tmp_path / "a.parquet", {"image": [png(0)], "label": [0], "column_x": [0]})
    path.write_bytes(path.read_bytes().replace(b"column_x", b"column_\xf8"))
    with pytest.raises(ReadError, match="corrupt"):
        read(path)
    with pytest.raises(ReadError, match="corrupt"):
        list(open_source(path).shards[0].read())
