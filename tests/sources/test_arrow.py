"""Arrow files: the stream that save_to_disk of Hugging Face writes, and the file format."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources import arrow
from vbdguard.sources.arrow import ArrowShard
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.opening import open_source

Png = Callable[..., bytes]


def write(path: Path, columns: dict[str, Any], *, is_file: bool = False, batch: int = 4) -> Path:
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink:
        writer = (pa.ipc.new_file if is_file else pa.ipc.new_stream)(sink, table.schema)
        with writer:
            writer.write_table(table, max_chunksize=batch)
    return path


def read(path: Path, label_key: str | None = None) -> list[RawSample | Unreadable]:
    return list(ArrowShard(str(path), path.name, label_key).read())


def reason(path: Path) -> str:
    """Return why a file cannot be read, as a whole or from some row on."""
    try:
        last = read(path)[-1]
    except ReadError as error:
        return error.reason
    assert isinstance(last, Unreadable)
    assert last.is_shard
    return last.reason


@pytest.mark.parametrize("is_file", [False, True])
def test_rows_are_samples(tmp_path: Path, png: Png, is_file: bool) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(n) for n in range(9)], "label": list(range(9))}, is_file=is_file)
    assert read(path) == [RawSample(f"a.arrow/{n}", png(n), n) for n in range(9)]


def test_what_hugging_face_saves_is_read_with_its_class_names(tmp_path: Path, png: Png) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(4)], "label": [0, 1, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    source = open_source(tmp_path / "set")
    assert [shard.name for shard in source.shards] == ["data-00000-of-00001.arrow"]
    assert source.class_names == {0: "cat", 1: "dog"}
    assert [(entry.image, entry.label) for entry in source.shards[0].read() if isinstance(entry, RawSample)] == [
        (png(n), label) for n, label in enumerate([0, 1, 1, 0])
    ]


@pytest.mark.parametrize("is_file", [False, True])
def test_no_cut_passes_for_a_whole_file(tmp_path: Path, png: Png, is_file: bool) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(n) for n in range(9)], "label": [0] * 9}, is_file=is_file)
    data = path.read_bytes()
    for cut in range(0, len(data), 61):
        path.write_bytes(data[:cut])
        assert reason(path) in ("corrupt", "truncated"), cut


def test_stream_without_its_end_mark_and_one_with_more_behind_it_are_named(tmp_path: Path, png: Png) -> None:
    """pyarrow takes the end of the file for the end of the stream, and a mark for the end of the file."""
    path = write(tmp_path / "a.arrow", {"image": [png(n) for n in range(9)], "label": [0] * 9})
    data = path.read_bytes()
    path.write_bytes(data[:-8])
    assert (len(read(path)), reason(path)) == (10, "truncated")
    path.write_bytes(data + data)
    assert (len(read(path)), reason(path)) == (10, "corrupt")


def test_offsets_that_lead_out_are_refused_before_they_are_followed(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(n) for n in range(4)], "label": [0] * 4})
    data = bytearray(path.read_bytes())
    offsets = b"".join((sum(len(png(n)) for n in range(count))).to_bytes(4, "little") for count in range(5))
    place = data.index(offsets)
    data[place + 8 : place + 12] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    [entry] = read(path)
    assert isinstance(entry, Unreadable)
    assert entry.reason == "corrupt"


def test_batch_that_would_fill_the_memory_is_refused(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(0)], "label": [0]})
    monkeypatch.setattr(arrow, "MAX_BATCH", 50)
    assert [getattr(entry, "reason", "") for entry in read(path)] == ["too-large"]


def test_file_that_changes_between_hashing_and_reading_is_refused(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(0)], "label": [0]})
    shard = ArrowShard(str(path), "a")
    shard.digest()
    assert len(list(shard.read())) == 1
    write(path, {"image": [png(1)], "label": [0]})
    with pytest.raises(ReadError, match="changed"):
        list(shard.read())


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.arrow", {"image": [png(0)], "label": [0]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"pip install 'vbdguard\[parquet\]'"):
        read(path)


def test_column_whose_name_is_no_text_is_corrupt(tmp_path: Path, png: Png) -> None:
    """Found by fuzzing: pyarrow raises UnicodeDecodeError where names are asked for."""
    path = write(tmp_path / "a.arrow", {"image": [png(0)], "label": [0], "column_x": [0]})
    path.write_bytes(path.read_bytes().replace(b"column_x", b"column_\xf8"))
    with pytest.raises(ReadError, match="corrupt"):
        read(path)
    with pytest.raises(ReadError, match="corrupt"):
        list(open_source(path).shards[0].read())
