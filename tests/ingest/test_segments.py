"""Segments on disk: written once and whole, or not at all; damage is seen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from vbdguard.ingest import segments
from vbdguard.ingest.segments import (
    DamagedSegmentError,
    SegmentWriter,
    SkippedEntry,
    known_sizes,
    load_segment,
    open_pixels,
    remove_segment,
    segment_key,
)
from vbdguard.ingest.staging import staging_area
from vbdguard.sealing import seal

SKIPPED = SkippedEntry("/x", "no-label", "détail", "00" * 32, was_read=False, is_shard=False)


def build(store: Path, count: int = 3, name: str = "one", fill: int = 0) -> Path:
    target = store / "segments" / name
    with staging_area(store) as staging:
        writer = SegmentWriter(staging / "w", (4, 5))
        for number in range(count):
            pixels = np.full((4, 5, 3), (number + fill) % 256, np.uint8)
            writer.add(f"/k{number}", "cät" if number % 2 else number, bytes([number % 256]) * 32, pixels)
        writer.commit(target, [SKIPPED])
        writer.close()
    return target


@pytest.mark.parametrize("count", [0, 1, 3, 256, 257, 1000])
def test_what_was_written_is_read_back(tmp_path: Path, count: int) -> None:
    segment = load_segment(build(tmp_path, count), (4, 5))
    assert segment is not None
    assert segment.keys == tuple(f"/k{number}" for number in range(count))
    assert segment.labels == tuple("cät" if number % 2 else number for number in range(count))
    assert segment.skipped == (SKIPPED,)
    pixels = open_pixels(segment.path)
    assert pixels.shape == (count, 4, 5, 3)
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], np.arange(count) % 256)
    np.testing.assert_array_equal(segment.digests[:, 7], np.arange(count) % 256)


def test_pixels_of_another_shape_are_refused(tmp_path: Path) -> None:
    with staging_area(tmp_path) as staging:
        writer = SegmentWriter(staging / "w", (4, 5))
        with pytest.raises(ValueError, match=r"expected pixels of shape \(4, 5, 3\), got \(5, 4, 3\)"):
            writer.add("/k", 0, bytes(32), np.zeros((5, 4, 3), np.uint8))
        writer.close()


def test_a_store_knows_the_sizes_of_the_files_that_it_has_read(tmp_path: Path) -> None:
    assert known_sizes(tmp_path) == frozenset()
    for content, size in (("ab", 10_240), ("cd", 10_240), ("ef", 1 << 40), ("gh", None)):
        build(tmp_path, name=segment_key(content, size=size, image_size=(4, 5), label_key=None))
    (tmp_path / "segments" / ".staging-0123").mkdir()
    (tmp_path / "segments" / "no size-of ours").mkdir()
    assert known_sizes(tmp_path) == {10_240, 1 << 40, None}


def test_missing_segment_is_none(tmp_path: Path) -> None:
    assert load_segment(tmp_path / "segments" / "none", (4, 5)) is None


@pytest.mark.parametrize("name", ["pixels.npy", "digests.npy", "samples.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_to_any_file_is_seen(tmp_path: Path, name: str, damage: str) -> None:
    path = build(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-7]), "empty": b""}[damage])
    with pytest.raises(DamagedSegmentError):
        load_segment(path.parent, (4, 5))


def test_segment_of_another_size_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedSegmentError, match="expected 3 images"):
        load_segment(build(tmp_path), (5, 4))


def rewrite(path: Path, **changes: object) -> None:
    """Let a segment say something else, its checksums set right."""
    body = json.loads((path / "samples.json").read_bytes())["body"] | changes
    for name in body["checksums"]:
        body["checksums"][name] = segments.file_digest(str(path / name))
    (path / "samples.json").write_text(seal(path.name, json.dumps(body)))


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    path = build(tmp_path)
    np.save(path / "digests.npy", np.array([print], dtype=object), allow_pickle=True)
    rewrite(path)
    with pytest.raises(DamagedSegmentError, match="allow_pickle"):
        load_segment(path, (4, 5))


@pytest.mark.parametrize("label", [None, -1, True, 0.5, [1]])
def test_labels_that_are_none_are_damage(tmp_path: Path, label: object) -> None:
    path = build(tmp_path)
    rewrite(path, labels=[0, "cat", label])
    with pytest.raises(DamagedSegmentError):
        load_segment(path, (4, 5))


def test_other_arrays_and_identities_are_damage(tmp_path: Path) -> None:
    path = build(tmp_path)
    rewrite(path, skipped=[asdict(replace(SKIPPED, identity="zz"))])
    with pytest.raises(DamagedSegmentError, match="identity in hex"):
        load_segment(path, (4, 5))
    np.save(path / "digests.npy", np.zeros((3, 32), np.int64))
    rewrite(path, skipped=[])
    with pytest.raises(DamagedSegmentError, match="got uint8 and int64"):
        load_segment(path, (4, 5))


def test_nothing_is_left_of_what_was_not_committed(tmp_path: Path) -> None:
    def abandon() -> None:
        with staging_area(tmp_path) as staging:
            writer = SegmentWriter(staging / "w", (4, 5))
            writer.add("/k", 0, bytes(32), np.zeros((4, 5, 3), np.uint8))
            writer.close()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        abandon()
    assert list((tmp_path / "segments").iterdir()) == []


def test_the_first_writer_wins(tmp_path: Path) -> None:
    path = build(tmp_path)
    before = (path / "samples.json").stat().st_ino
    assert build(tmp_path, fill=9) == path
    assert (path / "samples.json").stat().st_ino == before
    assert [entry.name for entry in (tmp_path / "segments").iterdir()] == ["one"]


def test_removed_segment_is_gone_and_may_be_gone_already(tmp_path: Path) -> None:
    path = build(tmp_path)
    remove_segment(path)
    remove_segment(path)
    assert list(path.parent.iterdir()) == []


def test_segment_in_the_place_of_another_is_not_believed(tmp_path: Path) -> None:
    """Both are whole; who swaps the folders would have one shard judged by the other's pixels."""
    one, two = build(tmp_path, name="one"), build(tmp_path, name="two", fill=7)
    one.rename(tmp_path / "aside")
    two.rename(one)
    with pytest.raises(DamagedSegmentError, match="that of another segment"):
        load_segment(one, (4, 5))


def test_key_depends_on_everything_the_content_follows_from(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        segment_key("ab", size=9, image_size=(8, 9), label_key=None),
        segment_key("ab", size=None, image_size=(8, 9), label_key=None),
        segment_key("ac", size=9, image_size=(8, 9), label_key=None),
        segment_key("ab", size=9, image_size=(9, 8), label_key=None),
        segment_key("ab", size=9, image_size=(8, 9), label_key="cls"),
    }
    monkeypatch.setattr("vbdguard.ingest.decode.DECODE_RULE", "other")
    keys.add(segment_key("ab", size=9, image_size=(8, 9), label_key=None))
    monkeypatch.setattr(segments, "SEGMENT_VERSION", 99)
    keys.add(segment_key("ab", size=9, image_size=(8, 9), label_key=None))
    assert len(keys) == 7
