"""The pixel store: the data's own order, any access, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vbdguard.errors import CacheError
from vbdguard.ingest.digest import sample_digest
from vbdguard.ingest.reader import ingest
from vbdguard.ingest.segments import SegmentWriter, load_segment, remove_segment
from vbdguard.ingest.staging import staging_area
from vbdguard.ingest.store import PixelStore, _order, build_store


@pytest.fixture
def store(shards: Callable[..., Path], tmp_path: Path) -> PixelStore:
    return ingest(shards(), store_dir=tmp_path / "store").store


def made(tmp_path: Path, labels: list[list[int | str]], class_names: dict[int, str] | None = None) -> PixelStore:
    """Return a store of segments with these labels; the pixel value counts the samples."""
    segments = []
    number = 0
    with staging_area(tmp_path) as staging:
        for index, group in enumerate(labels):
            writer = SegmentWriter(staging / str(index), (2, 2))
            for label in group:
                pixels = np.full((2, 2, 3), number % 256, np.uint8)
                writer.add(f"/{number}", label, sample_digest(pixels, label), pixels)
                number += 1
            writer.commit(tmp_path / "segments" / f"{index}", [])
            writer.close()
            segments.append(load_segment(tmp_path / "segments" / f"{index}", (2, 2)))
    prefixes = [f"s{index}" for index in range(len(labels))]
    return build_store(segments, prefixes, image_size=(2, 2), class_names=class_names)  # type: ignore[arg-type]


def test_samples_stand_in_the_order_of_their_digests(store: PixelStore) -> None:
    rows = [row.tobytes() for row in store.digests]
    assert rows == sorted(rows)
    assert len(set(rows)) == len(store) == 30


def test_key_label_digest_and_pixels_belong_together(store: PixelStore, encode: Callable[..., bytes]) -> None:
    pixels = store.gather(range(30))
    for index, key in enumerate(store.keys):
        number = int(key.rpartition("/s")[2])
        assert key == f"train-{number // 10:03d}.tar/s{number:03d}"
        assert store.labels[index] == number % 3
        assert store.digests[index].tobytes() == sample_digest(encode(number), number % 3)
        expected = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        np.testing.assert_array_equal(pixels[index], expected)


@given(indices=st.lists(st.integers(0, 29), max_size=40))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gather_takes_any_order_with_repeats(store: PixelStore, indices: list[int]) -> None:
    np.testing.assert_array_equal(store.gather(indices), store.gather(range(30))[indices])


@pytest.mark.parametrize("index", [-1, 30])
def test_gather_refuses_what_is_not_there(store: PixelStore, index: int) -> None:
    with pytest.raises(IndexError, match=r"\[0, 30\)"):
        store.gather([0, index])


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_batches_cover_everything_once_in_order(store: PixelStore, size: int) -> None:
    batches = list(store.iter_batches(size))
    assert [start for start, _ in batches] == list(range(0, 30, size))
    assert all(1 <= len(batch) <= size for _, batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch for _, batch in batches]), store.gather(range(30)))


def test_gathered_pixels_may_be_changed_without_touching_the_store(store: PixelStore) -> None:
    before = store.gather([3])
    taken = store.gather([3])
    taken[:] = 0
    np.testing.assert_array_equal(store.gather([3]), before)


def test_equal_digests_stand_in_the_order_of_their_keys(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    same = tmp_path / "same.png"
    pixels.save(same)
    paths = [
        write_tar([("z", same.read_bytes(), 0), ("b", same.read_bytes(), 1)], "2.tar"),
        write_tar([("y", same.read_bytes(), 0), ("a", same.read_bytes(), 0)], "1.tar"),
    ]
    for order in (paths, paths[::-1]):
        store = ingest(order, store_dir=tmp_path / "store").store
        keys = [key for key, label in zip(store.keys, store.labels, strict=True) if label == 0]
        assert keys == ["1.tar/a", "1.tar/y", "2.tar/z"]


@given(st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=2)), max_size=12))
@settings(max_examples=60)
def test_the_order_is_that_of_digest_and_key(pairs: list[tuple[int, str]]) -> None:
    digests = np.array([[0] * 31 + [digest] for digest, _ in pairs], np.uint8).reshape(-1, 32)
    order = _order(digests, [key for _, key in pairs])
    assert order.tolist() == sorted(range(len(pairs)), key=pairs.__getitem__)


def test_class_numbers_become_contiguous_and_keep_their_own(tmp_path: Path) -> None:
    store = made(tmp_path, [[7, 10], [2, 7]], {2: "two", 7: "seven", 3: "three"})
    assert store.class_labels == (2, 7, 10)
    assert store.class_names == ("two", "seven", "10")
    assert store.labels.dtype == np.int64
    own = {
        int(pixels[0, 0, 0]): store.class_labels[label]
        for pixels, label in zip(store.gather(range(4)), store.labels, strict=True)
    }
    assert own == {0: 7, 1: 10, 2: 2, 3: 7}


def test_class_names_are_numbered_in_their_order(tmp_path: Path) -> None:
    store = made(tmp_path, [["dog", "10"], ["2", "dog"]])
    assert (store.class_labels, store.class_names) == ((0, 1, 2), ("10", "2", "dog"))
    assert sorted(store.labels.tolist()) == [0, 1, 2, 2]


def test_class_that_lost_all_samples_keeps_its_number(tmp_path: Path) -> None:
    store = made(tmp_path, [["dog", "cat"]], {0: "cat", 1: "cow", 2: "dog"})
    assert (store.class_labels, store.class_names) == ((0, 2), ("cat", "dog"))
    assert sorted(store.labels.tolist()) == [0, 1]


def test_numbers_and_names_in_one_set_are_all_names(tmp_path: Path) -> None:
    store = made(tmp_path, [[3, "3"], ["cat", 3]])
    assert store.class_names == ("3", "cat")
    assert sorted(store.labels.tolist()) == [0, 0, 0, 1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_many_segments_do_not_exhaust_file_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr("vbdguard.ingest.store._OPEN_SEGMENTS", 20)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    store = made(tmp_path, [[0, 1] for _ in range(60)])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 30, before[1]))
    try:
        values = store.gather(range(120))[:, 0, 0, 0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert sorted(values.tolist()) == sorted(number % 256 for number in range(120))


def test_store_whose_files_have_gone_says_so(tmp_path: Path) -> None:
    store = made(tmp_path, [[0], [1]])
    remove_segment(tmp_path / "segments" / "0")
    with pytest.raises(CacheError, match="scan again"):
        store.gather([0, 1])
