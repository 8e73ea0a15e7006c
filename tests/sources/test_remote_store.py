"""Whole sources behind a web server or an S3-compatible store that fails: read like local files, or named as lost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_store import Faults, FaultyStore, serving
from small_scans import ACCUSING

from vbdguard.errors import SourceError
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.scanner import scan
from vbdguard.sources.opening import open_source

WriteTar = Callable[..., Path]
Png = Callable[..., bytes]
SHARDS = 8


@pytest.fixture
def root(write_tar: WriteTar, png: Png, tmp_path: Path) -> Path:
    """Shards of some hundred kilobytes, so that connections break inside of them too."""
    for shard in range(SHARDS):
        members = []
        for number in range(shard * 20, shard * 20 + 20):
            members += [(f"s{number:03d}.png", png(number, (40, 40))), (f"s{number:03d}.cls", str(number % 3).encode())]
        write_tar(members, f"store/bucket/train-{shard}.tar")
    return tmp_path / "store"


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Read a source anew and return all that a report says about the reading, without the names of the source."""

    def read(source: Any, **options: Any) -> dict[str, Any]:
        stores = sum(1 for _ in tmp_path.glob("cache-*"))
        read: Ingested = ingest(source, store_dir=tmp_path / f"cache-{stores}", **options)
        return {
            "digest": read.dataset_digest,
            "judged": read.judged,
            "status": read.status,
            "shards": [dataclasses.asdict(shard) for shard in read.shards],
            "skipped": [dataclasses.asdict(entry) for entry in read.skipped],
            "keys": list(read.store.keys),
        }

    return read


def urls(store: FaultyStore) -> str:
    return f"{store.url}/bucket/train-{{0..{SHARDS - 1}}}.tar"


def test_a_scan_of_a_failing_store_gives_the_same_report(root: Path, tmp_path: Path) -> None:
    def told(source: str, cache: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(scan(source, ACCUSING, cache_dir=tmp_path / cache).to_json())
        del body["timings"], body["dataset"]["sources"]
        return body

    local = told(str(root / "bucket"), "local")
    with serving(root, Faults(drop=0.05, throttle=0.002)) as store:
        assert told(urls(store), "remote") == local
        assert store.seen["drops"] > 0
    assert local["flagged"]


@pytest.mark.parametrize("drop", [0.05, 0.3])
def test_a_store_that_drops_connections_and_throttles_reads_like_local_files(
    root: Path, told: Callable[..., dict[str, Any]], drop: float
) -> None:
    local = told(root / "bucket")
    with serving(root, Faults(drop=drop, throttle=0.002)) as store:
        assert told(urls(store)) == local
        assert store.seen["drops"] > 0
    assert local["status"] == "complete"


def test_two_processes_read_a_failing_store_alike(root: Path, told: Callable[..., dict[str, Any]]) -> None:
    local = told(root / "bucket")
    with serving(root, Faults(drop=0.2)) as store:
        assert told(urls(store), jobs=2) == local


def test_a_page_of_links_and_a_pattern_name_the_same_shards(root: Path) -> None:
    with serving(root, Faults(statuses=[503, 503])) as store:
        for named in (f"{store.url}/bucket/", f"{store.url}/bucket/train-*.tar"):
            assert [shard.name for shard in open_source(named).shards] == [f"train-{n}.tar" for n in range(SHARDS)]


def test_parquet_and_compressed_shards_come_through(
    root: Path, png: Png, told: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    table = pa.table({"image": [png(n, (40, 40)) for n in range(60)], "label": [n % 3 for n in range(60)]})
    pq.write_table(table, root / "rows.parquet")
    local = told(root / "rows.parquet")
    with serving(root, Faults(drop=0.3)) as store:
        assert told(f"{store.url}/rows.parquet") == local


def test_folder_of_images_comes_through(root: Path, png: Png, told: Callable[..., dict[str, Any]]) -> None:
    for number in range(12):
        path = root / "images" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    local = told(root / "images")
    with serving(root, Faults(drop=0.2)) as store:
        manifest = "".join(json.dumps({"file_name": key, "label": "abc".index(key[0])}) + "\n" for key in local["keys"])
        (root / "images" / "list.jsonl").write_text(manifest)
        remote = told(f"{store.url}/images/list.jsonl")
    assert sorted(remote["keys"]) == sorted(local["keys"])
    assert remote["status"] == "complete"


def test_a_lost_shard_costs_itself_and_is_named(root: Path, told: Callable[..., dict[str, Any]]) -> None:
    (root / "bucket" / "train-3.tar").unlink()
    with serving(root, Faults(drop=0.05)) as store:
        found = told(urls(store))
    assert found["status"] == "incomplete"
    assert [(entry["key"], entry["reason"]) for entry in found["skipped"]] == [("train-3.tar", "io-error")]
    assert "answered 404" in found["skipped"][0]["detail"]
    assert [s["status"] for s in found["shards"] if s["name"] == "train-3.tar"] == ["unreadable"]
    assert len(found["keys"]) == 20 * (SHARDS - 1)


def test_bytes_of_new_shards_are_fetched_once(root: Path, told: Callable[..., dict[str, Any]]) -> None:
    size = sum(path.stat().st_size for path in (root / "bucket").iterdir())
    with serving(root, Faults(throttle=0.001)) as store:
        told(urls(store), image_size=(40, 40))
        # Once, and what lay in the sockets when the size had been told.
        assert store.seen["requests"] == 2 * SHARDS
        assert store.sent <= 2 * size


def test_a_signed_url_is_nowhere_in_what_is_told(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(root, Faults(token="5ecre7")) as store:
        signed = [f"{store.url}/bucket/train-{n}.tar?token={'5ecre7' if n else 'bad5ecre7'}" for n in range(3)]
        with caplog.at_level("DEBUG", logger="vbdguard"):
            read = ingest(signed, store_dir=tmp_path / "cache")
    told = f"{read.sources} {read.shards} {read.skipped} {read.store.keys} {caplog.text}"
    assert "5ecre7" not in told
    assert read.sources[0].endswith("/bucket/train-0.tar")
    assert [entry.key for entry in read.skipped] == ["train-0.tar"]
    assert "answered 403" in read.skipped[0].detail


def test_errors_of_opening_hold_no_secrets(root: Path) -> None:
    with serving(root, Faults(token="x")) as store:
        for url in (f"{store.url}/bucket/?sig=5ecre7", f"{store.url}/bucket/*.tar?sig=5ecre7"):
            with pytest.raises(SourceError, match="answered 403") as failure:
                open_source(url)
            assert "5ecre7" not in str(failure.value)


@pytest.fixture
def s3(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """An S3-compatible store, and s3fs configured for it as a user would."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs pins a botocore that other test packages do not share")
    import fsspec

    with serving(root) as store:
        for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": store.url})
        yield store
        s3fs.S3FileSystem.clear_instance_cache()


def test_an_s3_store_that_drops_connections_reads_like_local_files(
    root: Path, s3: FaultyStore, told: Callable[..., dict[str, Any]]
) -> None:
    local = told(root / "bucket")
    s3.faults.drop, s3.faults.throttle = 0.1, 0.002
    assert told("s3://bucket/train-*.tar") == local
    assert s3.seen["drops"] > 0
