"""Partial scans: what is written comes back, what is damaged or does not fit is refused, what is known is not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from struct import pack, unpack
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from vbdguard.config import ScanConfig
from vbdguard.errors import PartialError, SourceError
from vbdguard.ingest import shards as ingest_shards
from vbdguard.ingest.fitting_together import require_fit
from vbdguard.ingest.partial import Partial, place_segments, read_partial, write_partial
from vbdguard.ingest.reader import Ingested, ingest, joined
from vbdguard.ingest.staging import staging_area
from vbdguard.partial_scans import merge, scan_share
from vbdguard.sources.opening import open_source

Shards = Callable[..., Path]
WriteTar = Callable[..., Path]


@pytest.fixture
def folder(shards: Shards) -> Path:
    return shards(count=5)


@pytest.fixture
def read(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Read a share into a file; with a cache of its own, unless one is named."""

    def scan(share: str, name: str = "", *, source: object = None, cache: str = "", **settings: Any) -> Path:
        path = tmp_path / (name or f"part-{share.replace('/', '-')}")
        scan_share(
            source or str(folder),
            share,
            path,
            ScanConfig(jobs=1, **settings),
            cache_dir=tmp_path / (cache or f"cache-{path.name}"),
        )
        return path

    return scan


def together(paths: list[Path], store: Path) -> Ingested:
    """What merging reads, before anything is judged."""
    partials = {path: read_partial(path) for path in paths}
    require_fit(partials)
    with staging_area(store) as staging:
        for path, partial in partials.items():
            assert list(place_segments(path, partial, store_dir=store, staging=staging)) == [
                shard.name for shard in partial.shards
            ]
    sources = [partial.read_source(store) for partial in partials.values()]
    return joined(replace(sources[0], shards=tuple(shard for source in sources for shard in source.shards)))


def same(one: Ingested, other: Ingested) -> bool:
    """Whether two readings hold the same samples, pixels included, and say the same of them."""
    places = np.arange(len(one.store))
    return (
        (one.dataset_digest, one.judged, one.shards, one.skipped, one.sources, one.exif_rules)
        == (other.dataset_digest, other.judged, other.shards, other.skipped, other.sources, other.exif_rules)
        and one.store.keys == other.store.keys
        and bool((one.store.labels == other.store.labels).all())
        and bool((one.store.gather(places) == other.store.gather(places)).all())
    )


def test_shares_together_hold_what_one_reading_holds(read: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    whole = ingest(str(folder), store_dir=tmp_path / "whole")
    assert same(together([read("2/2"), read("1/2")], tmp_path / "merged"), whole)


def test_more_jobs_than_shards_are_no_fault(read: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    whole = ingest(str(folder), store_dir=tmp_path / "whole")
    assert same(together([read(f"{number}/7") for number in range(1, 8)], tmp_path / "merged"), whole)


def test_what_could_not_be_read_travels_along(
    read: Callable[..., Path], folder: Path, write_tar: WriteTar, encode: Callable[..., bytes], tmp_path: Path
) -> None:
    write_tar([("good", encode(1), 1), ("bad", b"no image", 1)], "shards/train-100.tar")
    (folder / "train-101.tar").write_bytes((folder / "train-000.tar").read_bytes()[:700])
    whole = ingest(str(folder), store_dir=tmp_path / "whole")
    assert whole.status == "incomplete"
    assert same(together([read("1/3"), read("2/3"), read("3/3")], tmp_path / "merged"), whole)


def test_a_folder_of_images_keeps_its_classes_and_how_it_turns_images(
    read: Callable[..., Path], encode: Callable[..., bytes], tmp_path: Path
) -> None:
    for number in range(8):
        path = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(number))
    (tmp_path / "images" / "ant").mkdir()  # a class without images keeps its number
    source = str(tmp_path / "images")
    opened = open_source(source, folder_rule="torchvision")
    whole = ingest(opened, store_dir=tmp_path / "whole")
    files = [read(f"{number}/2", source=source, folder_rule="torchvision") for number in (1, 2)]
    done = together(files, tmp_path / "merged")
    assert same(done, whole)
    assert (done.store.class_labels, done.store.class_names) == ((1, 2), ("cat", "dog"))


def test_any_reader_of_safetensors_opens_the_file(read: Callable[..., Path]) -> None:
    with safe_open(str(read("1/2")), framework="np") as file:
        assert file.metadata() == {"format": "vbdguard partial scan", "version": "1"}
        names = set(file.keys())
        manifest = json.loads(file.get_tensor("manifest").tobytes())["body"]
    assert {shard["name"] for shard in manifest["shards"]} == {f"train-00{number}.tar" for number in (0, 2, 4)}
    assert names == {"manifest"} | {
        f"{shard['segment']}/{inner}"
        for shard in manifest["shards"]
        for inner in ("pixels.npy", "digests.npy", "samples.json")
    }


def test_a_second_number_of_shares_reads_no_shard_again(
    read: Callable[..., Path], shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completion hangs on the bytes of a shard and the settings, not on who read it; only what is new costs time."""
    for share in ("1/2", "2/2"):
        read(share, cache="shared")
    built: list[str] = []
    build = ingest_shards._build

    def count(task: Any, reading: Any) -> Path:
        built.append(task.shard.name)
        return build(task, reading)

    monkeypatch.setattr(ingest_shards, "_build", count)
    monkeypatch.setattr(ScanConfig, "reading_limits", None)  # in this process, where it is counted
    files = [read(f"{number}/3", cache="shared") for number in (1, 2, 3)]
    assert built == []
    assert len(files) == 3
    shards(count=6)
    for number in range(1, 5):
        read(f"{number}/4", cache="shared")
    assert built == ["train-005.tar"]


def test_segments_that_are_there_are_not_written_again(read: Callable[..., Path], tmp_path: Path) -> None:
    path = read("1/1", cache="shared")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "shared" / "segments").glob("*/*")}
    together([path], tmp_path / "shared")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "shared" / "segments").glob("*/*")} == before
    damaged = next(file for file in before if file.name == "pixels.npy")
    damaged.write_bytes(b"damaged")
    assert len(together([path], tmp_path / "shared").store) == 50
    assert damaged.stat().st_size > 7


@pytest.mark.parametrize("damage", ["cut", "empty", "no such file", "flip the manifest", "flip pixels", "a tar"])
def test_a_damaged_file_is_refused_and_named(
    read: Callable[..., Path], folder: Path, tmp_path: Path, damage: str
) -> None:
    path = read("1/1")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no such file":
        path.unlink()
    elif damage == "a tar":
        path.write_bytes((folder / "train-000.tar").read_bytes())
    else:
        (length,) = unpack("<Q", content[:8])
        place = content.index(b'"seed": 0') + 8 if damage == "flip the manifest" else content.index(b"NUMPY") + 200
        assert place > length
        content[place] ^= 1
        path.write_bytes(content)
    with pytest.raises(PartialError, match=str(path)):
        merge([path], cache_dir=tmp_path / "merged")


def test_another_form_of_file_is_refused(read: Callable[..., Path]) -> None:
    path = read("1/1")
    content = path.read_bytes().replace(b'"version":"1"', b'"version":"2"', 1)
    path.write_bytes(content)
    with pytest.raises(PartialError, match="expected a partial scan of form 1, got 2"):
        read_partial(path)


def test_a_file_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "weights").write_bytes(pack("<Q", len(header)) + header + b"1")
    with pytest.raises(PartialError, match="expected a partial scan, as `vbdguard scan --partial` writes it$"):
        read_partial(tmp_path / "weights")


def edited(path: Path, store: Path, **changes: Any) -> Path:
    """The same file with another manifest, its checksum set right."""
    partial = replace(read_partial(path), **changes)
    write_partial(path, partial, store)
    return path


def shards_of(partial: Partial, **changes: Any) -> dict[str, Any]:
    return {"shards": (replace(partial.shards[0], **changes), *partial.shards[1:])}


@pytest.mark.parametrize(
    "field",
    [{"class_names": {"zero": "cat"}}, {"digest": "no hex"}, {"votes": ((0, 0, 5),)}],
    ids=["class", "digest", "votes"],
)
def test_a_manifest_that_holds_no_number_where_one_belongs_is_refused(
    read: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: dict[str, Any]
) -> None:
    path = read("1/1", "part", cache="one")
    partial = read_partial(path)
    body = asdict(partial)
    if "class_names" in field:
        body |= field
    else:
        body["shards"] = (body["shards"][0] | field, *body["shards"][1:])
    monkeypatch.setattr("vbdguard.ingest.partial.asdict", lambda _: body)
    write_partial(path, partial, tmp_path / "one")
    with pytest.raises(PartialError, match="expected the manifest of a partial scan"):
        read_partial(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0.0.1"}, r"its vbdguard is 0\.0\.1, this is"),
        ({"decoder": "pillow 1"}, "its image decoder is pillow 1, this machine's"),
        ({"seed": 7}, "made with other settings: seed 7 and 0"),
        ({"sources": ("other",)}, "its source is other"),
        ({"class_names": {"0": "cat"}}, "its class names is"),
        ({"image_size": (16, 16)}, "its images are 16x16 pixels large, all shards together want 8x8"),
    ],
)
def test_files_that_are_not_of_one_scan_are_refused(
    read: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    files = [read("1/2"), edited(read("2/2"), tmp_path / "cache-part-2-2", **changes)]
    with pytest.raises(PartialError, match=words) as caught:
        merge(files, cache_dir=tmp_path / "merged")
    assert str(files[1]) in str(caught.value)


def test_other_settings_are_named_one_by_one(read: Callable[..., Path], tmp_path: Path) -> None:
    files = [read("1/2"), read("2/2", preset="paper", image_size=16)]
    with pytest.raises(PartialError, match=r"other settings: image_size \[16, 16\] and None"):
        merge(files)


def test_a_size_that_the_whole_would_not_elect_is_refused(
    read: Callable[..., Path], folder: Path, write_tar: WriteTar, encode: Callable[..., bytes], tmp_path: Path
) -> None:
    """Each share looks at all shards; one that meanwhile became others must not be scanned at another size unseen."""
    first = read("1/2")  # of shards 0, 2, 4: all elect 8 x 8
    for number in (1, 3):
        many = [(f"m{item}", encode(item, (20, 20)), item % 3) for item in range(40)]
        write_tar(many, f"shards/train-00{number}.tar")
    second = read("2/2")
    with pytest.raises(PartialError, match=r"8x8 pixels large, all shards together want 20x20.*--image-size 20x20"):
        merge([first, second], cache_dir=tmp_path / "merged")
    whole = ingest(str(folder), store_dir=tmp_path / "whole")
    assert whole.store.image_shape == (20, 20, 3)
    assert same(together([read("1/2"), read("2/2")], tmp_path / "again"), whole)


def test_missing_shares_are_named(read: Callable[..., Path]) -> None:
    with pytest.raises(PartialError, match=r"4 of 5 shards are in none .* missing: share 1/4, 3/4, 4/4"):
        merge([read("2/4")])
    with pytest.raises(PartialError, match=r"1 of 5 shards .*: train-002\.tar; the files are shares 1/4, 2/2"):
        merge([read("2/2"), read("1/4")])


def test_shards_in_two_files_are_named(read: Callable[..., Path]) -> None:
    with pytest.raises(PartialError, match=r"share 1/4\) and .*part-1-2 both hold train-000\.tar"):
        merge([read("1/2"), read("2/2"), read("1/4")])
    with pytest.raises(PartialError, match="named twice"):
        merge([read("1/2"), read("1/2")])
    with pytest.raises(PartialError, match="got none"):
        merge([])


def test_a_data_set_that_grew_between_the_jobs_is_refused(read: Callable[..., Path], shards: Shards) -> None:
    first = read("1/2")
    shards(count=6)
    with pytest.raises(PartialError, match=r"part-2-2 knows train-005\.tar, other than .*part-1-2: the data"):
        merge([first, read("2/2")])


def test_shards_of_one_name_are_not_shared_out(tmp_path: Path) -> None:
    from vbdguard.sources.pointers import MissingShard
    from vbdguard.sources.shards import ShardSource

    source = ShardSource(("x",), [MissingShard("same"), MissingShard("same")])
    with pytest.raises(SourceError, match="got 2 called same"):
        scan_share(source, "1/2", tmp_path / "part", cache_dir=tmp_path / "cache")


def test_nothing_is_left_where_the_file_cannot_be_written(read: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such|No such"):
        read("1/1", "none/part")
    read("1/1", "part")
    with pytest.raises(OSError, match="No such file"):
        edited(tmp_path / "part", tmp_path / "nowhere")
    assert not list(tmp_path.glob(".*"))
    read_partial(tmp_path / "part")  # the one that was there


def test_an_image_size_that_is_named_is_that_of_all(read: Callable[..., Path], tmp_path: Path) -> None:
    done = together([read("1/2", image_size=12), read("2/2", image_size=12)], tmp_path / "merged")
    assert done.store.image_shape == (12, 12, 3)
