"""Estimates before a scan: their ranges hold what the scan then finds, and what was not measured is not told."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vbdguard.config import ScanConfig
from vbdguard.errors import SourceError
from vbdguard.estimate import LOOKED_AT, Estimate, estimate
from vbdguard.ingest import looking
from vbdguard.ingest.reader import ingest
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

ONE = ScanConfig(jobs=1)


def encoded(seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_shards(count: int, per_shard: int, folder: str = "data") -> Path:
        images = [encoded(number) for number in range(20)]
        samples = (RawSample(f"s{n:05d}", images[n % 20], n % 3) for n in range(count))
        write_shards(samples, tmp_path / folder, per_shard=per_shard)
        return tmp_path / folder

    return to_shards


def holds(ends: Sequence[float], value: float) -> bool:
    return ends[0] <= value <= ends[1]


def test_small_data_are_counted_and_not_guessed(write: Write, tmp_path: Path) -> None:
    folder = write(300, 100)
    found = estimate(str(folder), ONE)
    sizes = sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert (found.shards, found.samples, found.source_bytes) == (3, (300, 300), (sizes, sizes))
    assert (found.image_size, found.looked_at) == ((16, 16), 300)
    ingest(str(folder), store_dir=tmp_path / "store")
    written = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert holds(found.disk_bytes, written)


def test_of_many_shards_a_few_are_looked_at(write: Write) -> None:
    folder = write(1000, 20)
    found = estimate(str(folder), ONE)
    assert found.shards == 50
    assert found.looked_at == 20 * LOOKED_AT
    assert holds(found.samples, 1000)
    assert found.samples[1] < 1100


def test_of_large_shards_the_beginning_is_looked_at(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(600, 300)
    monkeypatch.setattr(looking, "READ_WHOLE", 1000)
    monkeypatch.setattr(ScanConfig, "reading_limits", None)  # in this process, where the line above holds
    found = estimate(str(folder), ONE)
    assert found.looked_at == 2 * looking.PROBED_SAMPLES
    assert holds(found.samples, 600)
    assert found.samples[0] < found.samples[1]


def test_a_folder_of_images_counts_its_files(tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    found = estimate(str(tmp_path / "images"), ONE)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert (found.samples, found.source_bytes) == ((30, 30), (size, size))
    assert not any("extrapolated" in note for note in found.notes)  # each of them was looked at


def test_a_folder_that_is_too_large_to_look_at_whole_is_extrapolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "PROBED_SAMPLES", 5)
    monkeypatch.setattr(ScanConfig, "reading_limits", None)  # in this process, where the line above holds
    for number in range(30):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    found = estimate(str(tmp_path / "images"), ONE)
    assert found.samples == (30, 30)
    assert found.source_bytes is not None
    assert holds(found.source_bytes, sum(path.stat().st_size for path in tmp_path.rglob("*.png")))
    assert "the sizes of some shards are extrapolated" in found.notes


def to_tars(folder: Path, labels: Sequence[int], per_shard: int) -> str:
    images = [encoded(number) for number in range(20)]
    samples = (RawSample(f"s{n:05d}", images[n % 20], label) for n, label in enumerate(labels))
    write_shards(samples, folder, per_shard=per_shard)
    return str(folder)


@pytest.mark.parametrize("classes", [2, 40, 700])
def test_classes_that_were_not_seen_are_reckoned_with(classes: int, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(classes, size=2000)
    found = estimate(to_tars(tmp_path, labels.tolist(), 100), ONE)
    assert found.looked_at < 1000
    assert found.classes[0] <= classes <= 1.3 * found.classes[1]
    assert found.classes[1] <= 1.5 * classes


def test_more_classes_take_longer_and_are_counted_where_all_is_seen(tmp_path: Path) -> None:
    few, many = (
        estimate(to_tars(tmp_path / str(classes), [n % classes for n in range(400)], 50), ONE) for classes in (2, 200)
    )
    assert (few.classes, many.classes) == ((2, 2), (200, 200))
    assert few.judging_seconds is not None
    assert many.judging_seconds is not None
    assert many.judging_seconds[0] > few.judging_seconds[0] + 5


def test_where_no_class_is_seen_twice_there_may_be_many(tmp_path: Path) -> None:
    found = estimate(to_tars(tmp_path, range(1000), 100), ONE)
    assert found.classes == (found.looked_at, 1000)


def test_the_classes_of_a_folder_are_its_folders(tmp_path: Path) -> None:
    for label in range(12):
        (tmp_path / f"class{label}").mkdir()
        for number in range(4):
            (tmp_path / f"class{label}" / f"{number}.png").write_bytes(encoded(number))
    assert estimate(str(tmp_path), ONE).classes == (12, 12)


def test_a_size_that_is_named_counts(write: Write) -> None:
    folder = str(write(60, 30))
    small, large = (estimate(folder, ScanConfig(jobs=1, image_size=size)) for size in (8, 64))
    assert (small.image_size, large.image_size) == ((8, 8), (64, 64))
    assert large.disk_bytes[0] > 30 * small.disk_bytes[0]


def test_ranges_are_ranges_and_more_jobs_read_faster(write: Write) -> None:
    folder = write(120, 40)
    one, four = (estimate(str(folder), ScanConfig(jobs=jobs)) for jobs in (1, 4))
    for found in (one, four):
        assert found.judging_seconds is not None
        assert found.memory_bytes is not None
        for low, high in (found.samples, found.reading_seconds, found.judging_seconds, found.memory_bytes):
            assert 0 < low <= high
    assert four.reading_seconds[1] < 2 * one.reading_seconds[1]


@pytest.mark.parametrize("settings", [{"preset": "paper"}, {"device": "cuda"}])
def test_what_was_not_measured_is_not_told(write: Write, settings: dict[str, str]) -> None:
    found = estimate(str(write(30, 30)), ScanConfig(jobs=1, **settings))  # type: ignore[arg-type]
    assert found.judging_seconds is None
    assert any("without a GPU" in note for note in found.notes)


def test_memory_stays_bounded_where_the_fit_is(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """What a billion samples cost beyond a million is their digests, keys and labels."""
    from vbdguard import estimate as module

    folder = str(write(60, 30))
    peaks = []
    for count in (2_000_000, 3_000_000):
        monkeypatch.setattr(module, "_samples", lambda *_, count=count: (count, count))
        found: Estimate = estimate(folder, ONE)
        assert found.memory_bytes is not None
        peaks.append(found.memory_bytes[1])
    assert peaks[1] - peaks[0] == pytest.approx(1_000_000 * module.SAMPLE_BYTES[1], abs=2)


def test_shards_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    content = (tmp_path / "data" / "a.tar").read_bytes()
    (tmp_path / "data" / "a.tar").write_bytes(content[:300] + b"\xff" * 300)
    found = estimate(str(tmp_path / "data"), ONE)
    assert found.shards == 1
    with pytest.raises(SourceError):
        estimate(str(tmp_path / "nothing"), ONE)


def test_an_estimate_is_json(write: Write) -> None:
    body = json.loads(json.dumps(estimate(str(write(30, 30)), ONE).to_dict()))
    assert body["estimate_version"] == 1
    assert body["samples"] == [30, 30]


def test_nothing_is_written(write: Write, own_cache: Path) -> None:
    estimate(str(write(30, 30)), ONE)
    assert not list(own_cache.iterdir())
