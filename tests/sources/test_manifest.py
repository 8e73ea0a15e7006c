"""Manifests: rows of CSV and JSON lines become samples, or entries that say why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbdguard.errors import NothingToScanError, SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.manifest import is_manifest, open_manifest
from vbdguard.sources.opening import open_source

Png = Callable[..., bytes]


@pytest.fixture
def root(tmp_path: Path, png: Png) -> Path:
    (tmp_path / "set" / "img").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / "img" / f"{number}.png").write_bytes(png(number))
    return tmp_path / "set"


def read(root: Path, text: str | bytes, name: str = "m.csv", label_key: str | None = None) -> list[tuple[str, object]]:
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    source = open_manifest(str(root / name), label_key=label_key)
    entries = [entry for shard in source.shards for entry in shard.read()]
    return [(e.key, e.label if isinstance(e, RawSample) else e.reason) for e in entries]


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\nimg/0.png,3\nimg/1.png,cat\n",
        "label;path\r\n3;img/0.png\r\ncat;img/1.png\r\n",
        '\ufefffilename\tclass\n"img/0.png"\t3.0\nimg/1.png\t cat\n\n',
        '{"file_name": "img/0.png", "label": 3}\n\n{"file_name": "img/1.png", "label": "cat"}',
    ],
)
def test_rows_of_every_dialect_are_samples(root: Path, text: str) -> None:
    assert read(root, text) == [("img/0.png", 3), ("img/1.png", "cat")]


def test_bytes_are_those_of_the_files(root: Path, png: Png) -> None:
    (root / "m.jsonl").write_text(json.dumps({"path": "img/2.png", "target": 0}))
    [shard] = open_source(root / "m.jsonl").shards
    assert list(shard.read()) == [RawSample("img/2.png", png(2), 0)]
    assert shard.digest() is None


def test_label_key_names_the_column(root: Path) -> None:
    assert read(root, "path,label,fine\nimg/0.png,1,7\n", label_key="fine") == [("img/0.png", 7)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("../../etc/passwd,1", "unsafe-path"),
        ("/etc/passwd,1", "unsafe-path"),
        ("img/../../set/img/0.png,1", "unsafe-path"),
        ("file:///etc/passwd,1", "unsafe-path"),
        ("pipe:touch x,1", "io-error"),
        ("C:\\x.png,1", "unsafe-path"),
        ("out.png,1", "unsafe-path"),
        ("fifo.png,1", "not-a-file"),
        ("img,1", "not-a-file"),
        ("gone.png,1", "io-error"),
        ("img/0.png,", "no-label"),
        ("img/0.png,-1", "bad-label"),
        (",1", "no-image"),
        ("img/0.png", "bad-row"),
        ("img/0.png,1,2", "bad-row"),
        ('"img/0.png,1', "bad-row"),
    ],
)
def test_faulty_rows_are_named_and_the_others_read(root: Path, row: str, expected: str) -> None:
    import os

    (root / "out.png").symlink_to("/etc/hostname")
    os.mkfifo(root / "fifo.png")
    entries = read(root, f"path,label\nimg/1.png,5\n{row}\n")
    assert entries[0] == ("img/1.png", 5)
    assert [reason for _, reason in entries[1:]] == [expected]


@pytest.mark.parametrize("line", ["{", "[1]", "null", '{"path": 3, "label": 1}', '{"label": 1}', "[" * 100_000])
def test_faulty_json_lines_are_named(root: Path, line: str) -> None:
    entries = read(root, f'{{"path": "img/0.png", "label": 1}}\n{line}\n{{"path": "img/1.png", "label": 2}}\n')
    assert [entries[0][1], entries[2][1]] == [1, 2]
    assert entries[1][1] in ("bad-row", "no-image")


def test_columns_that_are_not_there_are_asked_for(root: Path) -> None:
    with pytest.raises(SourceError, match=r"column of paths .*got id, label"):
        read(root, "id,label\n1,2\n")
    with pytest.raises(SourceError, match=r"label column .*--label-key"):
        read(root, "path,species\nimg/0.png,cat\n")
    with pytest.raises(SourceError, match="each column once"):
        read(root, "path,path,label\na,b,1\n")
    with pytest.raises(NothingToScanError, match="no row"):
        read(root, "path,label\n")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "file_name;label;y;x,file_name,label\nimg/0.png;0;;z,img/1.png,1\n", "readers would not agree"),
        ("metadata.csv", "file_name;label\nimg/0.png;0\n", "as Hugging Face reads it"),
    ],
)
def test_a_table_that_readers_part_otherwise_is_refused(root: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(root, text, name)


@pytest.mark.parametrize("later", ['"label": 5', '"label": null', '"file_name": "img/0.png"'])
def test_json_lines_whose_later_rows_bring_a_column_that_goes_first_are_refused(root: Path, later: str) -> None:
    text = f'{{"path": "img/0.png", "target": 1}}\n{{"path": "img/1.png", "target": 1, {later}}}\n'
    with pytest.raises(SourceError, match="line 2 has .* too; readers would not agree"):
        read(root, text)


def test_json_lines_may_say_more_of_some_rows(root: Path) -> None:
    text = '{"path": "img/0.png", "label": 1}\n{"path": "img/1.png", "label": 2, "target": 3, "note": "blurred"}\n'
    assert [label for _, label in read(root, text)] == [1, 2]


def test_files_that_would_fill_the_memory_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="lines of at most"):
        read(root, b"path,label\n" + b"x" * (2 << 20))
    monkeypatch.setattr("vbdguard.sources.manifest.MAX_ROWS", 2)
    with pytest.raises(SourceError, match="at most 2 rows"):
        read(root, "path,label\n" + "img/0.png,1\n" * 3)


def test_manifest_behind_a_url_names_files_beside_it(png: Png) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/mani/m.csv": b"path,label\na/1.png,4\n../x,1\n", "/mani/a/1.png": png(0)})
    source = open_source("memory://mani/m.csv")
    assert not source.is_picklable
    entries = [entry for shard in source.shards for entry in shard.read()]
    assert entries[0] == RawSample("a/1.png", png(0), 4)
    assert isinstance(entries[1], Unreadable)
    assert entries[1].reason == "unsafe-path"


@given(st.binary(max_size=300) | st.text("path,label{}\"'\n\r;:\t 01", max_size=200).map(str.encode))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_samples_entries_or_an_error_of_ours(root: Path, body: bytes) -> None:
    for head in (b"", b"path,label\n", b'{"path": "img/0.png", "label": 1}\n'):
        is_manifest(head + body)
        try:
            entries = read(root, head + body)
        except SourceError:
            continue
        assert len(entries) >= head.startswith(b"{")
