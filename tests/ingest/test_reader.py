"""Ingest as a whole: what is read, what is named, what never changes the result."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from patience import patience
from PIL import Image

from vbdguard.errors import CacheError, NothingToScanError, ReadError, UnreadableError
from vbdguard.ingest import reading
from vbdguard.ingest import shards as shard_pass
from vbdguard.ingest.decode import decode_image
from vbdguard.ingest.digest import dataset_digest, sample_digest
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.ingest.segments import DamagedSegmentError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.shards import ShardSource
from vbdguard.sources.tar import TarShard

Shards = Callable[..., Path]
Encode = Callable[..., bytes]


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows by one for each image that is decoded in this process."""
    calls: list[object] = []
    real = shard_pass.decode_images

    def counting(images: Any, *more: Any) -> Any:
        calls.extend(images)
        return real(images, *more)

    monkeypatch.setattr(shard_pass, "decode_images", counting)
    return calls


def image_folder(root: Path, encode: Encode, count: int = 12) -> Path:
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(number))
    return root


def assert_same(one: Ingested, two: Ingested) -> None:
    """Everything that a scan looks at is equal, but for the names."""
    assert one.dataset_digest == two.dataset_digest
    assert one.store.image_shape == two.store.image_shape
    assert (one.store.class_labels, one.store.class_names) == (two.store.class_labels, two.store.class_names)
    np.testing.assert_array_equal(one.store.digests, two.store.digests)
    np.testing.assert_array_equal(one.store.labels, two.store.labels)
    np.testing.assert_array_equal(one.store.gather(range(len(one.store))), two.store.gather(range(len(two.store))))


class Listening:
    """A progress listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def begin(self, stage: str, total: int | None) -> None:
        self.heard.append((stage, total))

    def advance(self, steps: int = 1) -> None:
        self.heard.append(("advance", steps))

    def end(self) -> None:
        self.heard.append(("end", None))


def test_whole_shards_are_read_whole(shards: Shards, store_dir: Path) -> None:
    progress = Listening()
    done = ingest(shards(), store_dir=store_dir, progress=progress)
    assert done.status == "complete"
    assert done.skipped == ()
    assert [(shard.name, shard.samples, shard.status) for shard in done.shards] == [
        (f"train-00{number}.tar", 10, "complete") for number in range(3)
    ]
    assert done.shards[0].digest == TarShard(str(store_dir.parent / "shards" / "train-000.tar"), "").digest()
    assert done.store.image_shape == (8, 8, 3)
    assert done.dataset_digest == dataset_digest(done.store.digests)
    assert progress.heard == [("ingest", 3), *[("advance", 1)] * 3, ("end", None)]


def test_second_ingest_decodes_nothing(shards: Shards, store_dir: Path, decoded: list[object]) -> None:
    folder = shards()
    first = ingest(folder, store_dir=store_dir)
    assert len(decoded) == 30
    second = ingest(folder, store_dir=store_dir)
    assert len(decoded) == 30
    assert_same(first, second)
    assert second.store.keys == first.store.keys
    ingest(folder, store_dir=store_dir, image_size=(9, 8))
    assert len(decoded) == 60


def bytes_read() -> int:
    """Return what this process has read so far, from the disk or its cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="counts through /proc")
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_each_byte_of_a_new_shard_is_read_once_and_of_a_known_one_too(
    write_tar: Callable[..., Path], encode: Encode, tmp_path: Path, store_dir: Path, kind: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [encode(number, (400, 400)) for number in range(8)]
    path = tmp_path / f"shard.{kind}"
    if kind == "tar":
        write_tar([(f"s{number}", image, number % 2) for number, image in enumerate(images)])
    else:
        pq.write_table(pa.table({"image": images, "label": [number % 2 for number in range(8)]}), path)
    size = path.stat().st_size
    assert size > 3_000_000
    for _ in range(2):
        before = bytes_read()
        ingest(path, store_dir=store_dir, image_size=(8, 8))
        assert size <= bytes_read() - before < 1.1 * size


def test_a_shard_of_a_known_size_is_not_taken_for_the_known_one(
    write_tar: Callable[..., Path], encode: Encode, store_dir: Path, decoded: list[object]
) -> None:
    path = write_tar([(f"s{number}", encode(number), number % 2) for number in range(4)])
    size = path.stat().st_size
    first = ingest(path, store_dir=store_dir)
    write_tar([(f"s{number}", encode(number + 4), number % 2) for number in range(4)])
    assert path.stat().st_size == size
    second = ingest(path, store_dir=store_dir)
    assert first.dataset_digest != second.dataset_digest
    assert len(decoded) == 8


def test_what_is_hashed_while_it_is_read_is_named_as_what_is_hashed_before(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shards(count=4)
    (folder / "train-001.tar").write_bytes((folder / "train-001.tar").read_bytes()[:6000])
    (folder / "train-002.tar").write_bytes(b"")
    (folder / "train-003.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    while_reading = ingest(folder, store_dir=tmp_path / "one")
    monkeypatch.setattr(TarShard, "size", lambda _: None)
    before = ingest(folder, store_dir=tmp_path / "two")
    assert_same(while_reading, before)
    assert (while_reading.shards, while_reading.skipped) == (before.shards, before.skipped)
    assert all(shard.digest for shard in before.shards)


def test_only_the_shard_that_changed_is_decoded(
    shards: Shards, write_tar: Callable[..., Path], encode: Encode, store_dir: Path, decoded: list[object]
) -> None:
    folder = shards()
    first = ingest(folder, store_dir=store_dir)
    write_tar([("new", encode(99), 1), ("other", encode(98), 2)], "shards/train-001.tar")
    second = ingest(folder, store_dir=store_dir)
    assert len(decoded) == 32
    assert second.dataset_digest != first.dataset_digest


def test_renamed_shards_are_not_decoded_again_and_bear_their_new_names(
    shards: Shards, store_dir: Path, decoded: list[object]
) -> None:
    folder = shards()
    first = ingest(folder, store_dir=store_dir)
    (folder / "train-000.tar").rename(folder / "train-9.tar")
    second = ingest(folder, store_dir=store_dir)
    assert len(decoded) == 30
    assert_same(first, second)
    assert sum(key.startswith("train-9.tar/s00") for key in second.store.keys) == 10
    assert not any(key.startswith("train-000.tar") for key in second.store.keys)


def test_folder_is_hashed_but_not_decoded_again(
    encode: Encode, tmp_path: Path, store_dir: Path, decoded: list[object]
) -> None:
    root = image_folder(tmp_path / "set", encode)
    first = ingest(root, store_dir=store_dir)
    second = ingest(root, store_dir=store_dir)
    assert len(decoded) == 12
    assert_same(first, second)
    assert first.store.class_names == ("a", "b", "c")
    assert set(first.store.keys) == {f"{'abc'[number % 3]}/{number}.png" for number in range(12)}
    (root / "a" / "0.png").write_bytes(encode(77))
    assert ingest(root, store_dir=store_dir).dataset_digest != first.dataset_digest
    assert len(decoded) == 24


def test_renamed_loose_file_keeps_the_digest_and_gets_its_new_key(
    encode: Encode, tmp_path: Path, store_dir: Path
) -> None:
    root = image_folder(tmp_path / "set", encode)
    first = ingest(root, store_dir=store_dir)
    (root / "a" / "0.png").rename(root / "a" / "00.png")
    second = ingest(root, store_dir=store_dir)
    assert_same(first, second)
    assert "a/00.png" in second.store.keys


def test_the_largest_shards_are_read_twice_instead_of_kept(
    encode: Encode, tmp_path: Path, store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(tmp_path / "set", encode)
    first = ingest(root, store_dir=store_dir)
    monkeypatch.setattr(reading, "MAX_REPLAY", 500)
    assert_same(first, ingest(root, store_dir=tmp_path / "other"))


@pytest.mark.parametrize("jobs", [2, 3])
def test_worker_count_changes_nothing(shards: Shards, tmp_path: Path, jobs: int) -> None:
    folder = shards(count=5)
    (folder / "train-001.tar").write_bytes((folder / "train-001.tar").read_bytes()[:5000])
    alone = ingest(folder, store_dir=tmp_path / "one")
    together = ingest(folder, store_dir=tmp_path / "two", jobs=jobs)
    assert_same(alone, together)
    assert (alone.shards, alone.skipped, alone.store.keys) == (together.shards, together.skipped, together.store.keys)


def test_order_and_partition_of_shards_change_no_sample(
    write_tar: Callable[..., Path], encode: Encode, tmp_path: Path, store_dir: Path
) -> None:
    samples = [(f"s{number}", encode(number), number % 3) for number in range(24)]
    one = [write_tar(samples[start : start + 8], f"a/{start}.tar") for start in (0, 8, 16)]
    random.Random(0).shuffle(samples)
    two = [write_tar(samples[start : start + 5], f"b/{start}.tar") for start in range(0, 24, 5)]
    first = ingest(one, store_dir=store_dir)
    assert_same(first, ingest(one[::-1], store_dir=store_dir))
    assert_same(first, ingest(two, store_dir=store_dir))


def test_unreadable_samples_are_named_and_the_rest_is_read(
    write_tar: Callable[..., Path], encode: Encode, store_dir: Path
) -> None:
    samples = [
        ("good", encode(0), 0),
        ("text", b"this is no image", 1),
        ("cut", encode(1, (64, 64))[:2000], 1),
        ("nolabel", encode(2), "cat"),
        ("fine", encode(3), 1),
    ]
    done = ingest(write_tar(samples), store_dir=store_dir)
    assert done.status == "incomplete"
    assert [(one.key, one.reason) for one in done.skipped] == [
        ("shard.tar/cut", "truncated"),
        ("shard.tar/nolabel", "bad-label"),
        ("shard.tar/text", "undecodable"),
    ]
    assert len(done.store) == 2
    assert (done.shards[0].samples, done.shards[0].status) == (2, "incomplete")
    assert ingest(store_dir.parent / "shard.tar", store_dir=store_dir).skipped == done.skipped


def test_samples_and_what_stands_between_them_keep_their_places_over_many_batches(
    write_tar: Callable[..., Path], encode: Encode, store_dir: Path
) -> None:
    kinds = {0: (b"text", 1), 1: (encode(0)[:40], 1), 2: (encode(1), "cat")}
    samples = [(f"s{number}", *kinds.get(number % 7, (encode(number), number % 3))) for number in range(200)]
    done = ingest(write_tar(samples), store_dir=store_dir, image_size=(8, 8))
    assert len(done.skipped) == sum(number % 7 < 3 for number in range(200))
    place = {key: index for index, key in enumerate(done.store.keys)}
    for number in (number for number in range(200) if number % 7 > 2):
        index = place[f"shard.tar/s{number}"]
        assert done.store.labels[index] == number % 3
        assert done.store.digests[index].tobytes() == sample_digest(encode(number), number % 3)
        np.testing.assert_array_equal(done.store.gather([index])[0], decode_image(encode(number), (8, 8)))


def test_every_skipped_entry_changes_the_dataset_digest(
    write_tar: Callable[..., Path], encode: Encode, tmp_path: Path, store_dir: Path
) -> None:
    good = [("a", encode(0), 0), ("b", encode(1), 1)]
    extras: list[list[tuple[str, bytes, object]]] = [
        [],
        [("x", b"text", 1)],
        [("x", b"text", 2)],
        [("x", b"other", 1)],
        [("x", b"text", 1), ("y", b"text", 1)],
        [("x", encode(2), "cat")],
        [("x", encode(3), "cat")],
    ]
    paths = [write_tar([*good, *extra], f"{number}.tar") for number, extra in enumerate(extras)]
    digests = [ingest(path, store_dir=store_dir).dataset_digest for path in paths]
    assert len(set(digests)) == len(extras)
    renamed = paths[-1].rename(tmp_path / "renamed.tar")
    assert ingest(renamed, store_dir=tmp_path / "other").dataset_digest == digests[-1]


def test_the_digest_names_the_data_not_the_decoder(
    write_tar: Callable[..., Path], encode: Encode, store_dir: Path
) -> None:
    samples = [("a", encode(0), 0), ("b", encode(1), 1), ("text", b"text", 1)]
    done = ingest(write_tar(samples), store_dir=store_dir)
    rows = [np.frombuffer(sample_digest(image, int(str(label))), np.uint8) for _, image, label in samples]
    assert done.dataset_digest == dataset_digest(np.stack(rows))


def test_shard_that_broke_off_is_incomplete_and_one_that_cannot_be_read_unreadable(
    shards: Shards, store_dir: Path
) -> None:
    folder = shards(count=4)
    whole = (folder / "train-001.tar").read_bytes()
    (folder / "train-001.tar").write_bytes(whole[:6000])
    (folder / "train-002.tar").write_bytes(b"")
    (folder / "train-003.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (folder / "train-004.tar").symlink_to(folder / "nowhere")
    done = ingest(folder, store_dir=store_dir)
    assert [(shard.name, shard.status) for shard in done.shards] == [
        ("train-000.tar", "complete"),
        ("train-001.tar", "incomplete"),
        ("train-002.tar", "unreadable"),
        ("train-003.tar", "unreadable"),
        ("train-004.tar", "unreadable"),
    ]
    assert [(one.key, one.reason) for one in done.skipped] == [
        ("train-001.tar", "truncated"),
        ("train-002.tar", "truncated"),
        ("train-003.tar", "git-lfs-pointer"),
        ("train-004.tar", "io-error"),
    ]
    assert 10 < len(done.store) < 20


def test_failure_to_read_is_not_remembered(shards: Shards, store_dir: Path) -> None:
    folder = shards()
    (folder / "train-003.tar").symlink_to(folder / "later.bin")
    assert ingest(folder, store_dir=store_dir).status == "incomplete"
    shutil.copy(folder / "train-000.tar", folder / "train-003.tar.tmp")
    (folder / "train-003.tar.tmp").rename(folder / "train-003.tar")
    done = ingest(folder, store_dir=store_dir)
    assert (done.status, len(done.store)) == ("complete", 40)


@pytest.mark.parametrize("name", ["pixels.npy", "digests.npy", "samples.json"])
def test_damaged_segment_is_one_warning_and_rebuilt(
    shards: Shards, store_dir: Path, name: str, decoded: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    folder = shards()
    first = ingest(folder, store_dir=store_dir)
    segment = sorted((store_dir / "segments").iterdir())[0]
    data = bytearray((segment / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (segment / name).write_bytes(data)
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        assert_same(first, ingest(folder, store_dir=store_dir))
    assert len(decoded) == 10
    [record] = caplog.records
    assert segment.name in record.getMessage()
    caplog.clear()
    ingest(folder, store_dir=store_dir)
    assert caplog.records == []


def test_pixels_are_looked_at_when_somebody_wants_them(shards: Shards, store_dir: Path) -> None:
    folder = shards()
    assert ingest(folder, store_dir=store_dir, check_pixels=False).unchecked == ()
    segments = set((store_dir / "segments").iterdir())
    again = ingest(folder, store_dir=store_dir, check_pixels=False)
    assert set(again.unchecked) == segments
    again.require_sound_pixels()
    assert ingest(folder, store_dir=store_dir).unchecked == ()
    path = again.unchecked[-1] / "pixels.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedSegmentError, match="pixels.npy does not match"):
        ingest(folder, store_dir=store_dir, check_pixels=False).require_sound_pixels()


def test_what_the_memory_was_too_small_for_is_read_another_time(
    shards: Shards, store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shards()
    with monkeypatch.context() as starved:
        starved.setattr("vbdguard.ingest.decode._to_rgb", out_of_memory)
        with pytest.raises(UnreadableError, match="out-of-memory"):
            ingest(folder, store_dir=store_dir)
    done = ingest(folder, store_dir=store_dir)
    assert (done.status, len(done.store)) == ("complete", 30)


def test_a_loose_file_that_cannot_be_read_costs_the_others_no_second_decoding(
    encode: Encode, tmp_path: Path, store_dir: Path, decoded: list[object]
) -> None:
    for number in range(6):
        (tmp_path / "set" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "ab"[number % 2] / f"{number}.png").write_bytes(encode(number))
    (tmp_path / "set" / "a" / "gone.png").symlink_to("nowhere.png")
    first = ingest(tmp_path / "set", store_dir=store_dir)
    assert [(entry.key, entry.reason) for entry in first.skipped] == [("a/gone.png", "io-error")]
    decoded.clear()
    assert_same(first, ingest(tmp_path / "set", store_dir=store_dir))
    assert decoded == []
    (tmp_path / "set" / "a" / "nowhere.png").write_bytes(encode(7))
    assert (done := ingest(tmp_path / "set", store_dir=store_dir)).status == "complete", done.skipped


def out_of_memory(image: object) -> NoReturn:
    raise MemoryError("no room")


def test_store_holds_segments_and_nothing_else(shards: Shards, store_dir: Path) -> None:
    ingest(shards(), store_dir=store_dir)
    assert [entry.name for entry in store_dir.iterdir()] == ["segments"]
    for segment in (store_dir / "segments").iterdir():
        assert sorted(file.name for file in segment.iterdir()) == ["digests.npy", "pixels.npy", "samples.json"]


def test_images_of_all_kinds_become_one_shape(write_tar: Callable[..., Path], encode: Encode, store_dir: Path) -> None:
    sizes = [(20, 30), (20, 30), (64, 64), (5, 200)]
    samples = [(f"s{number}", encode(number, size), number % 2) for number, size in enumerate(sizes)]
    path = write_tar(samples)
    assert ingest(path, store_dir=store_dir).store.image_shape == (48, 72, 3)
    assert ingest(path, store_dir=store_dir, image_size=(16, 24)).store.gather([0, 3]).shape == (2, 16, 24, 3)


def test_label_key_reaches_the_source_and_the_store(
    write_tar: Callable[..., Path], encode: Encode, tmp_path: Path, store_dir: Path
) -> None:
    import io
    import tarfile

    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            for suffix, content in (("png", encode(number)), ("cls", b"%d" % (number % 2)), ("id", b"%d" % number)):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    plain = ingest(path, store_dir=store_dir)
    by_id = ingest(path, store_dir=store_dir, label_key="id")
    assert (len(plain.store.class_names), len(by_id.store.class_names)) == (2, 4)
    # a source that was opened elsewhere is stored under the label that it reads, not under the one named here
    opened = ShardSource(("s",), [TarShard(str(path), "s.tar", "id")])
    assert len(ingest(opened, store_dir=store_dir).store.class_names) == 4


def test_nothing_readable_is_more_than_nothing_to_scan(write_tar: Callable[..., Path], store_dir: Path) -> None:
    path = write_tar([(f"s{number}", b"text", number) for number in range(9)])
    with pytest.raises(UnreadableError, match=r"none of its 9 entries could be read: shard\.tar/s0: undecodable"):
        ingest(path, store_dir=store_dir)
    with pytest.raises(NothingToScanError, match="it holds none"):
        ingest(write_tar([], "empty.tar"), store_dir=store_dir)


def test_one_class_beside_unreadable_samples_is_unreadable(
    write_tar: Callable[..., Path], encode: Encode, store_dir: Path
) -> None:
    path = write_tar([("a", encode(0), 5), ("b", encode(1), 5), ("c", b"text", 6)])
    with pytest.raises(UnreadableError, match=r"all 2 samples .* of class 5 \(1 could not be read"):
        ingest(path, store_dir=store_dir)


class InMemory:
    """A shard of this process, as a map-style dataset gives it."""

    name = "memory"

    def __init__(self, entries: list[RawSample | Unreadable | Exception]) -> None:
        self._entries = entries

    def digest(self) -> None:
        return None

    def read(self) -> Iterator[RawSample | Unreadable]:
        for entry in self._entries:
            if isinstance(entry, Exception):
                raise entry
            yield entry


def arrays(count: int = 6) -> list[RawSample | Unreadable | Exception]:
    return [RawSample(str(n), np.full((9, 10), n, np.uint8), n % 2) for n in range(count)]


def test_datasets_in_memory_are_read_here_whatever_the_jobs(store_dir: Path) -> None:
    shards = [InMemory(arrays()), InMemory([])]
    done = ingest(ShardSource(("memory",), shards, {0: "cat", 1: "dog"}, False), store_dir=store_dir, jobs=4)
    assert done.store.image_shape == (9, 10, 3)
    assert done.store.class_names == ("cat", "dog")
    assert sorted(done.store.keys) == list("012345")
    for key, pixels in zip(done.store.keys, done.store.gather(range(6)), strict=True):
        assert set(pixels.ravel()) == {int(key)}


@pytest.mark.parametrize(
    ("error", "reason"), [(ReadError("io-error", "gone"), "io-error"), (ZeroDivisionError("a bug"), "error")]
)
def test_shard_that_breaks_costs_itself_only(store_dir: Path, error: Exception, reason: str) -> None:
    bad = InMemory([*arrays(2), error])
    bad.name = "bad"
    done = ingest(ShardSource(("m",), [InMemory(arrays()), bad], None, False), store_dir=store_dir)
    assert [(one.key, one.reason) for one in done.skipped] == [("bad", reason)]
    assert len(done.store) == 6
    assert {shard.name: shard.status for shard in done.shards} == {"memory": "complete", "bad": "unreadable"}


def test_dataset_that_changes_between_hashing_and_decoding_is_refused(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Random(InMemory):
        def read(self) -> Iterator[RawSample]:
            for number in range(4):
                yield RawSample(str(number), np.frombuffer(os.urandom(64), np.uint8).reshape(8, 8), number % 2)

    monkeypatch.setattr(reading, "MAX_REPLAY", 0)
    with pytest.raises(UnreadableError, match="changed"):
        ingest(ShardSource(("m",), [Random([])], None, False), store_dir=store_dir)


def test_store_that_cannot_be_written_is_a_cache_error(shards: Shards, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--cache-dir"):
        ingest(shards(), store_dir=tmp_path / "file")


def test_full_disk_is_a_cache_error_also_from_a_worker(shards: Shards, store_dir: Path) -> None:
    import resource

    folder = shards()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for jobs in (1, 2):
            with pytest.raises(CacheError, match="free space"):
                ingest(folder, store_dir=store_dir, jobs=jobs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert list((store_dir / "segments").iterdir()) == []
    assert len(ingest(folder, store_dir=store_dir).store) == 30


SCRIPT = """
import sys
from pathlib import Path
from vbdguard.ingest.reader import ingest
print("begins", flush=True)
done = ingest(sys.argv[1], store_dir=Path(sys.argv[2]), jobs=2)
print(len(done.store), done.dataset_digest, "torch" in sys.modules)
"""


def test_script_without_a_main_guard_reads_in_parallel(shards: Shards, tmp_path: Path, store_dir: Path) -> None:
    folder = shards()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script, folder, store_dir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    expected = ingest(folder, store_dir=tmp_path / "other").dataset_digest
    assert done.stdout.splitlines() == ["begins", f"30 {expected} False"]


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_everything_soon_and_leaves_no_half_written_segment(
    write_tar: Callable[..., Path], tmp_path: Path, store_dir: Path
) -> None:
    Image.new("RGB", (4000, 4000)).save(tmp_path / "slow.png")  # few bytes, long to decode
    image = (tmp_path / "slow.png").read_bytes()
    for shard in range(4):
        write_tar([(f"s{number}", image, number % 2) for number in range(60)], f"big/{shard}.tar")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, script, tmp_path / "big", store_dir]
    # Ctrl-C reaches the whole group, workers included
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(store_dir.glob("segments/.staging-*/*/pixels.npy")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - begun < patience(3)
    assert process.returncode == -signal.SIGINT
    assert stderr.count("Traceback") == 1
    assert list((store_dir / "segments").iterdir()) == []
    while group_lives(process.pid):  # multiprocessing's own tracker leaves last
        assert time.monotonic() - begun < patience(5)
        time.sleep(0.02)


def test_real_shards_and_real_parquet_hold_the_same_pixels(test_data: Path, tmp_path: Path, store_dir: Path) -> None:
    tool, data = test_data / "tools" / "make_shards.py", test_data / "data" / "cifar10"
    command = [sys.executable, tool, data, tmp_path / "tars", "--split", "test", "--per-shard", "4000"]
    subprocess.run(command, check=True, capture_output=True)
    tars = ingest(tmp_path / "tars", store_dir=store_dir, jobs=2)
    parquet = ingest(data / "test-00000-of-00001.parquet", store_dir=store_dir)
    assert len(tars.store) == 10_000
    assert tars.dataset_digest == parquet.dataset_digest
    np.testing.assert_array_equal(tars.store.labels, parquet.store.labels)
    sample = np.arange(0, 10_000, 97)
    np.testing.assert_array_equal(tars.store.gather(sample), parquet.store.gather(sample))
    assert parquet.store.class_names[:2] == ("airplane", "automobile")


def test_class_numbers_and_names_that_read_alike_are_not_taken_for_each_other(tmp_path: Path, store_dir: Path) -> None:
    """A list gives the class number 2, a folder the class name "2", whose number is its place among the names."""
    rows = ["file_name,label"]
    for label in (10, 2, 7):  # as the folders are sorted
        (tmp_path / "set" / str(label)).mkdir(parents=True)
        pixels = np.random.default_rng(label).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / str(label) / "a.png")
        rows.append(f"{label}/a.png,{label}")
    (tmp_path / "set" / "list.csv").write_text("\n".join(rows))
    ingest(str(tmp_path / "set" / "list.csv"), store_dir=store_dir)
    (tmp_path / "set" / "list.csv").unlink()
    store = ingest(str(tmp_path / "set"), store_dir=store_dir).store
    named = {key: store.class_names[label] for key, label in zip(store.keys, store.labels, strict=True)}
    assert named == {"2/a.png": "2", "7/a.png": "7", "10/a.png": "10"}
