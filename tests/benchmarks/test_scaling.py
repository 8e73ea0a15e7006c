"""The scaling benchmark: synthetic shards of any size, and the tables of what they cost."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import scaling
from benchmarks.scaling import points_to_measure
from benchmarks.scaling_data import Point, draw, write_point
from benchmarks.scaling_table import tables
from vbdguard.ingest.reader import ingest
from vbdguard.sources.base import RawSample


def _decoded(samples: list[RawSample]) -> NDArray[np.uint8]:
    files = [sample.image for sample in samples]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def _has_square(images: NDArray[np.uint8], top: int, left: int, side: int = 3) -> NDArray[np.bool_]:
    """Return which images are white there, as far as JPEG leaves them so."""
    return images[:, top : top + side, left : left + side].mean((1, 2, 3)) > 235


@pytest.mark.parametrize(
    "wrong",
    [{"classes": 1}, {"poisoned": 5}, {"poisoned": -1}, {"samples": 7}, {"side": 15}],
)
def test_a_point_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 2"):
        Point(**{"samples": 100, "classes": 4, "poisoned": 1, "side": 32} | wrong)


def test_a_seed_always_draws_the_same_files() -> None:
    point = Point(samples=30, classes=3, poisoned=1, side=32)
    first, again, other = (list(draw(point, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_one_poisoned_class_takes_a_tenth_of_all_samples() -> None:
    samples = list(draw(Point(samples=400, classes=4, poisoned=1, side=32), 0))
    is_white = _has_square(_decoded(samples), 29, 29)
    assert is_white.sum() == 40
    assert {sample.label for sample, white in zip(samples, is_white, strict=True) if white} == {0}
    labels = np.bincount([int(sample.label) for sample in samples])
    assert labels[0] > 100 > labels[1:].max()


def test_several_poisoned_classes_have_a_cell_and_a_target_each() -> None:
    samples = list(draw(Point(samples=400, classes=4, poisoned=2, side=32), 0))
    labels = np.array([sample.label for sample in samples])
    assert np.bincount(labels).tolist() == [90, 100, 110, 100]  # ten went from 0 to 1, ten from 1 to 2
    images = _decoded(samples)
    for rank, left in ((0, 29), (1, 26)):
        white = np.bincount(labels[_has_square(images, 29, left)], minlength=4)
        assert white[rank + 1] >= 10
        assert white.sum() - white[rank + 1] <= 4  # bright skies


def test_clean_data_have_no_trigger() -> None:
    samples = list(draw(Point(samples=200, classes=4, poisoned=0, side=32), 0))
    assert _has_square(_decoded(samples), 29, 29).sum() <= 4  # bright skies
    assert np.bincount([int(sample.label) for sample in samples]).tolist() == [50] * 4


def test_the_trigger_grows_with_the_image() -> None:
    images = _decoded(list(draw(Point(samples=40, classes=2, poisoned=1, side=100), 0)))
    assert images.shape == (40, 100, 100, 3)
    assert _has_square(images, 91, 91, side=9).sum() == 4


def test_classes_differ_and_images_compress_like_photographs() -> None:
    samples = list(draw(Point(samples=200, classes=4, poisoned=0, side=64), 0))
    images = _decoded(samples).astype(float)
    labels = np.array([sample.label for sample in samples])
    # Waves run in a direction of each class: the steps down and across are of other sizes.
    steps = [np.abs(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (1, 2)]
    slant = np.log(steps[0] / steps[1])
    assert slant[labels == 0].mean() - slant[labels == 2].mean() > 5 * slant[labels == 0].std()
    assert 0.3 < np.mean([len(sample.image) for sample in samples]) / 64**2 < 1.2


def test_the_shards_can_be_scanned(tmp_path: Path) -> None:
    written = write_point(Point(samples=90, classes=3, poisoned=1, side=32), tmp_path / "shards", per_shard=40)
    ingested = ingest(str(tmp_path / "shards"), store_dir=tmp_path / "store")
    assert (ingested.status, len(ingested.store), len(ingested.shards)) == ("complete", 90, 3)
    assert ingested.store.image_shape == (32, 32, 3)
    assert written == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())


def test_each_axis_is_varied_alone() -> None:
    points = points_to_measure({"samples": [100, 200], "classes": [4], "poisoned": [1, 0, 4], "side": [32, 32]})
    assert [(point.samples, point.poisoned) for point in points] == [(100, 1), (200, 1), (100, 0), (100, 4)]
    with pytest.raises(ValueError, match="poisoned"):
        points_to_measure({"samples": [100], "classes": [4, 2], "poisoned": [3], "side": [32]})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One point, measured by the command; preset `paper` is the quick one on so few samples."""
    out = tmp_path_factory.mktemp("scaling") / "scaling.jsonl"
    _run(out)
    return out


def _run(out: Path) -> None:
    arguments = ["--samples", "120", "--classes", "3", "--poisoned", "1", "--side", "32", "--preset", "paper"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scaling", *arguments, "--threads", "1", "--device", "cpu", "--out", str(out)])
        scaling.main()


def _records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_a_point_is_scanned_by_a_process_of_its_own(results: Path) -> None:
    (record,) = _records(results)
    assert (record["samples"], record["scanned_at"]) == (120, [32, 32])
    assert record["cold"]["wall"] > sum(record["cold"]["stages"].values()) > 0
    # Far more than an interpreter, no more than torch and a few images take.
    assert 100 < record["cold"]["peak_memory_mb"] < 4000
    assert record["again"]["wall"] < record["cold"]["wall"]
    assert record["limits"]["decode"] > 0


def test_points_that_were_measured_are_not_measured_again(results: Path) -> None:
    before = results.read_text()
    _run(results)
    assert results.read_text() == before


def test_only_what_varies_has_a_table(results: Path) -> None:
    (record,) = _records(results)
    cold = record["cold"]
    slower = {**cold, "wall": 3 * cold["wall"], "peak_memory_mb": 1.5 * cold["peak_memory_mb"]}
    text = tables([{**record, "samples": 240, "cold": slower}, record])
    assert text.startswith("### By samples (classes: 3, poisoned classes: 1, pixels a side: 32)")
    assert text.count("###") == 1
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[2:]] == ["| 120", "| 240"]
    assert [row[-2] for row in rows[2:]] == ["1.0, 1.00, 1.00", "2.0, 3.00, 1.50"]


@pytest.mark.parametrize(
    "wrong", [["--samples", "100", "--classes", "4", "--poisoned", "5"], ["--table", "nowhere.jsonl"]]
)
def test_what_cannot_be_measured_is_told_of(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", *wrong])
    with pytest.raises(SystemExit, match="2"):
        scaling.main()
    assert "error:" in capsys.readouterr().err
