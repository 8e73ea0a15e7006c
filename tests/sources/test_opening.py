"""What the user names becomes a source, or an error that says what to do."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vbdguard.errors import NothingToScanError, ReadError, SourceError
from vbdguard.sources.folder import FolderShard
from vbdguard.sources.opening import open_source
from vbdguard.sources.parquet import ParquetShard
from vbdguard.sources.tar import TarShard

WriteTar = Callable[..., Path]
Png = Callable[..., bytes]


@pytest.fixture
def tar(write_tar: WriteTar, png: Png) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        return write_tar([("a.png", png(0)), ("a.cls", b"0"), ("b.png", png(1)), ("b.cls", b"1")], name)

    return write


@pytest.fixture
def parquet(tmp_path: Path, png: Png) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [png(0)], "label": [0]}), tmp_path / name)
        return tmp_path / name

    return write


def names(source: object) -> list[str]:
    return [shard.name for shard in open_source(source).shards]


def test_file_folder_pattern_glob_and_list_name_the_same_shards(tar: Callable[[str], Path], tmp_path: Path) -> None:
    paths = [tar(f"train-{number:03d}.tar") for number in range(3)]
    expected = ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert names(paths[0]) == expected[:1]
    assert names(tmp_path) == expected
    assert names(f"{tmp_path}/train-{{000..002}}.tar") == expected
    assert names(f"{tmp_path}/*.tar") == expected
    assert names(f"{paths[0]}::{tmp_path}/train-{{001,002}}.tar") == expected
    assert names([paths[0], f"{tmp_path}/train-00[12].tar"]) == expected
    assert names(f"file://{paths[0]}") == expected[:1]


def test_sources_are_named_as_the_user_named_them(tar: Callable[[str], Path], tmp_path: Path) -> None:
    tar("a.tar")
    assert open_source(tmp_path).names == (str(tmp_path),)
    assert open_source([tmp_path / "a.tar"]).names == (str(tmp_path / "a.tar"),)


def test_kind_is_told_by_content(tar: Callable[[str], Path], parquet: Callable[[str], Path], tmp_path: Path) -> None:
    tar("a.tar").rename(tmp_path / "shard-0001")
    parquet("a.parquet").rename(tmp_path / "rows.tar")
    (tmp_path / "packed.bin").write_bytes(gzip.compress((tmp_path / "shard-0001").read_bytes()))
    assert isinstance(open_source(tmp_path / "shard-0001").shards[0], TarShard)
    assert isinstance(open_source(tmp_path / "packed.bin").shards[0], TarShard)
    assert isinstance(open_source(tmp_path / "rows.tar").shards[0], ParquetShard)


def test_broken_shard_among_whole_ones_stays_a_shard(tar: Callable[[str], Path], tmp_path: Path) -> None:
    tar("a.tar")
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "d.tar").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["a.tar", "b.tar", "c.tar", "d.tar"]


def test_lfs_pointer_without_a_telling_name_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ReadError, match="Git LFS pointer"):
        list(open_source(path).shards[0].read())


def test_folder_of_classes_is_an_image_folder(tmp_path: Path, png: Png) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(0))
    source = open_source(tmp_path)
    assert isinstance(source.shards[0], FolderShard)
    assert source.names == (str(tmp_path),)
    assert source.class_names == {0: "cat", 1: "dog"}
    with pytest.raises(SourceError, match="scan a folder of images alone"):
        open_source([tmp_path, tmp_path])


def test_sidecar_files_beside_shards_are_passed_over(tar: Callable[[str], Path], tmp_path: Path) -> None:
    tar("a.tar")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "sizes.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    assert names(tmp_path) == ["a.tar"]


def test_hugging_face_folder_with_one_split_is_found_below_data(parquet: Callable[[str], Path], tmp_path: Path) -> None:
    parquet("set/data/train-00000-of-00002.parquet")
    parquet("set/data/train-00001-of-00002.parquet")
    assert names(tmp_path / "set") == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    parquet("set/data/test-00000-of-00001.parquet")
    with pytest.raises(SourceError, match=r"splits test, train; .*set/data/train-\*\.parquet"):
        open_source(tmp_path / "set")
    assert len(names(f"{tmp_path}/set/data/train-*.parquet")) == 2


def test_folder_that_mixes_kinds_says_what_to_do(
    tar: Callable[[str], Path], parquet: Callable[[str], Path], tmp_path: Path, png: Png
) -> None:
    tar("m/a.tar")
    (tmp_path / "m" / "cat").mkdir()
    (tmp_path / "m" / "cat" / "1.png").write_bytes(png(0))
    with pytest.raises(SourceError, match=r"mixes tar shards and images \(cat\); pass a pattern such as"):
        open_source(tmp_path / "m")
    parquet("m/b.parquet")
    with pytest.raises(SourceError, match="holds parquet and tar files"):
        open_source(tmp_path / "m")
    with pytest.raises(SourceError, match="parquet and tar files in one scan"):
        open_source([tmp_path / "m" / "a.tar", tmp_path / "m" / "b.parquet"])


def test_shards_in_several_folders_below_are_pointed_out(tar: Callable[[str], Path], tmp_path: Path) -> None:
    tar("train/a.tar")
    tar("val/a.tar")
    with pytest.raises(SourceError, match="pass one of them"):
        open_source(tmp_path)
    assert names([tmp_path / "train", tmp_path / "val"]) == ["train/a.tar", "val/a.tar"]


@pytest.mark.parametrize("source", ["pipe:cat x.tar", "a.tar::pipe:curl http://x"])
def test_commands_are_refused(source: str) -> None:
    with pytest.raises(SourceError, match="commands are not run"):
        open_source(source)


def test_commands_run_only_when_told_so(tmp_path: Path, tar: Callable[[str], Path]) -> None:
    path, canary = tar("a.tar"), tmp_path / "canary"
    source = open_source(f"pipe:touch {canary}; cat {path}", run_commands=True)
    assert not canary.exists()
    [shard] = source.shards
    assert shard.digest() == TarShard(str(path), "a").digest()
    assert [entry.key for entry in shard.read()] == ["command-000000/a", "command-000000/b"]
    assert canary.exists()
    with pytest.raises(ReadError, match="command-failed"):
        list(open_source(f"pipe:cat {path}; exit 3", run_commands=True).shards[0].read())
    with pytest.raises(SourceError, match="commands are not run"):
        open_source([str(path), "pipe:cat x"], run_commands=True)


@pytest.mark.parametrize(
    "url", ["reference://x.json", "zip://a.tar", "ssh://host/a.tar", "simplecache://a", "dask://a", "github://a:b@c/d"]
)
def test_kinds_of_urls_that_do_more_than_fetch_bytes_are_refused(url: str) -> None:
    with pytest.raises(SourceError, match="cannot open this kind of URL; expected one of .*s3"):
        open_source(url)


def test_url_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_aiohttp(*_: object) -> None:
        raise ImportError("HTTPFileSystem requires aiohttp to be installed")

    monkeypatch.setattr("fsspec.core.url_to_fs", without_aiohttp)
    with pytest.raises(SourceError, match=r"pip install 'vbdguard\[http\]'"):
        open_source("https://example.invalid/shards/")


def test_folder_says_what_it_took_and_what_it_left(
    tar: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar("a.tar")
    (tmp_path / "README.md").write_text("hello")
    with caplog.at_level("WARNING"):
        open_source(tmp_path)
        assert not caplog.messages
        (tmp_path / "more.zip").write_bytes(b"PK")
        open_source(tmp_path)
    [message] = caplog.messages
    assert message.endswith("took 1 file, left README.md, more.zip")


def test_a_class_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scandir = str(tmp_path / "dog"), os.scandir

    def guarded_scandir(path: str) -> object:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scandir(path)

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    monkeypatch.setattr(os, "scandir", guarded_scandir)  # whoever runs as root may read everything
    with pytest.raises(SourceError, match="dog: cannot be read: Permission denied; grant access or move it away"):
        open_source(tmp_path)


def test_missing_things_are_named(tmp_path: Path, tar: Callable[[str], Path]) -> None:
    tar("train-0.tar")
    with pytest.raises(SourceError, match=r"gone\.tar does not exist.*holds train-0\.tar"):
        open_source(tmp_path / "gone.tar")
    with pytest.raises(SourceError, match="there is no folder"):
        open_source(tmp_path / "no" / "gone.tar")
    with pytest.raises(SourceError, match=r"train-1\.tar does not exist"):
        open_source(f"{tmp_path}/train-{{0..1}}.tar")
    with pytest.raises(NothingToScanError, match="matches no file"):
        open_source(f"{tmp_path}/val-*.tar")


def test_range_is_refused_before_it_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import braceexpand

    monkeypatch.setattr(braceexpand, "braceexpand", lambda _: pytest.fail("expanded"))
    with pytest.raises(SourceError, match="more than 100000 shards"):
        open_source("train-{0..99999999999999}.tar")


def test_pattern_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.sources.braces.MAX_PATHS", 1000)
    with pytest.raises(SourceError, match="more than 1000 shards"):
        open_source("train-{0..1001}.tar")
    with pytest.raises(SourceError, match="more than 1000 shards"):
        open_source("train-{0..99}{0..99}.tar")


def test_nothing_to_scan_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NothingToScanError, match="holds nothing to scan"):
        open_source(tmp_path)
    with pytest.raises(NothingToScanError, match="empty list"):
        open_source([])


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="neither a tar nor a parquet file"):
        open_source(tmp_path / "notes.txt")


def test_named_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(SourceError, match="neither a tar nor a parquet file"):
        open_source(tmp_path / "p")


def test_shards_behind_a_url_are_read_through_fsspec(tar: Callable[[str], Path], png: Png) -> None:
    for name in ("u-0.tar", "u-1.tar"):
        with fsspec.open(f"memory://bucket/{name}", "wb") as file:
            file.write(tar(name).read_bytes())
    expected = ["u-0.tar", "u-1.tar"]
    for given in ("memory://bucket", "memory://bucket/u-{0..1}.tar", "memory://bucket/u-*.tar"):
        source = open_source(given)
        assert [shard.name for shard in source.shards] == expected
        assert not source.is_picklable
    first = next(iter(open_source("memory://bucket/u-0.tar").shards[0].read()))
    assert (first.key, getattr(first, "image", None)) == ("u-0.tar/a", png(0))


def test_unreachable_url_is_an_unreadable_shard() -> None:
    [shard] = open_source("memory://bucket/gone.tar").shards
    with pytest.raises(ReadError, match="io-error"):
        list(shard.read())


def test_dataset_in_memory_becomes_a_source() -> None:
    class Pairs:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            if index >= 4:
                raise IndexError
            return np.full((8, 8, 3), index, np.uint8), index % 2

    source = open_source(Pairs())
    assert not source.is_picklable
    assert sum(1 for shard in source.shards for _ in shard.read()) == 4
    assert open_source(source) is source


def test_what_cannot_be_opened_says_what_was_expected() -> None:
    with pytest.raises(SourceError, match="expected a path, a pattern"):
        open_source(42)


def test_opening_and_reading_shards_loads_no_torch(tar: Callable[[str], Path]) -> None:
    code = (
        "import sys; from vbdguard.sources.opening import open_source; import vbdguard.ingest.reader;"
        f"n = sum(1 for s in open_source({str(tar('a.tar'))!r}).shards for _ in s.read());"
        "print(n, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_shards_below_shards_are_refused_and_not_left_out(parquet: Callable[[str], Path], tmp_path: Path) -> None:
    parquet("set/a.parquet")
    parquet("set/more/deep/b.parquet")
    with pytest.raises(SourceError, match=r"deep does too; name what you train on, such as .*/\*\.parquet"):
        open_source(tmp_path / "set")
    parquet("other/a.parquet")
    parquet("other/.cache/b.parquet")
    assert [shard.name for shard in open_source(tmp_path / "other").shards] == ["a.parquet"]


def test_of_a_saved_data_set_all_that_its_state_names_is_read(tmp_path: Path, png: Png) -> None:
    """Hugging Face names what it caches alike, and so may an attacker name what is to be loaded."""
    table = pa.table({"image": [png(0), png(1)], "label": [0, 1]})
    (tmp_path / "set").mkdir()
    for name in ("data-00000.arrow", "cache-1.arrow", "cache-2.arrow"):
        with pa.OSFile(str(tmp_path / "set" / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    assert [shard.name for shard in open_source(tmp_path / "set").shards] == ["data-00000.arrow"]
    state = tmp_path / "set" / "state.json"
    state.write_text('{"_data_files": [{"filename": "data-00000.arrow"}, {"filename": "cache-1.arrow"}]}')
    assert [shard.name for shard in open_source(tmp_path / "set").shards] == ["cache-1.arrow", "data-00000.arrow"]
    for name in ("../x.arrow", ".hidden.arrow", "gone.arrow"):
        state.write_text(f'{{"_data_files": [{{"filename": "{name}"}}]}}')
        with pytest.raises(SourceError, match="its state.json names"):
            open_source(tmp_path / "set")


def test_metadata_in_class_folders_decide_by_one_rule_only(tmp_path: Path, png: Png) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "0.png").write_bytes(png(0))
        (tmp_path / "set" / label / "metadata.csv").write_text("file_name,label\n0.png,7\n")
    for rule in (None, "huggingface"):
        with pytest.raises(SourceError, match="--folder-rule torchvision if you train with that"):
            open_source(tmp_path / "set", folder_rule=rule)
    source = open_source(tmp_path / "set", folder_rule="torchvision")
    assert [getattr(entry, "label", None) for shard in source.shards for entry in shard.read()] == ["cat", "dog"]
