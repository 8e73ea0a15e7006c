"""From a report back to the pixels of its scan: the right ones, or none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vbdguard.ingest.reader import ingest
from vbdguard.ingest.stored_images import StoredImages, find_stored_images
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

Flagging = Callable[..., ScanReport]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def write_tars(folder: Path) -> dict[str, NDArray[np.uint8]]:
    write_shards((RawSample(f"s{n:02d}", image, n % 2) for n, image in enumerate(PIXELS)), folder, per_shard=10)
    return {f"train-{n // 10:06d}.tar/s{n:02d}": image for n, image in enumerate(PIXELS)}


def write_folder(folder: Path) -> dict[str, NDArray[np.uint8]]:
    for n, image in enumerate(PIXELS):
        place = folder / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{n:02d}.png")
    return {f"{('cat', 'dog')[n % 2]}/{n:02d}.png": image for n, image in enumerate(PIXELS)}


@pytest.fixture(params=[write_tars, write_folder], ids=["tars", "folder"])
def known(
    request: pytest.FixtureRequest, tmp_path: Path, report_flagging: Flagging
) -> tuple[ScanReport, dict[str, NDArray[np.uint8]]]:
    """A report that flags six samples of class 1, and the pixels of all keys; the store is in `tmp_path / "store"`."""
    data = tmp_path / "data"
    pixels = request.param(data)
    flagged = [key for n, key in enumerate(pixels) if n % 2 and n < 12]
    ingest(str(data), store_dir=tmp_path / "store")
    return report_flagging(str(data), dict.fromkeys(flagged)), pixels


def found(report: ScanReport, store: Path) -> StoredImages:
    images = find_stored_images(report, store)
    assert images is not None
    return images


def test_flagged_and_kept_samples_are_found_with_their_own_pixels(
    known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path
) -> None:
    report, pixels = known
    images = found(report, tmp_path / "store")
    flagged = {sample.key for sample in report.flagged}
    assert {one.key for one in images.flagged[1]} == flagged
    assert images.kept[1]
    assert not {one.key for one in images.kept[1]} & flagged
    for ones in (images.flagged[1], images.kept[1]):
        np.testing.assert_array_equal(images.pixels(ones), np.stack([pixels[one.key] for one in ones]))
        assert [one.digest for one in ones] == sorted(one.digest for one in ones)


def test_clean_classes_are_left_alone(known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path) -> None:
    images = found(known[0], tmp_path / "store")
    assert set(images.flagged) == set(images.kept) == {1}


def test_a_store_without_the_data_gives_nothing(
    known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path
) -> None:
    report, _ = known
    assert find_stored_images(report, tmp_path / "nowhere") is None
    other = tmp_path / "other"
    write_shards((RawSample(f"s{n}", image, n % 2) for n, image in enumerate(PIXELS[::-1])), other / "d", per_shard=10)
    ingest(str(other / "d"), store_dir=other / "store")
    assert find_stored_images(report, other / "store") is None


def test_pixels_of_another_size_are_not_shown(
    known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path
) -> None:
    report, _ = known
    other = replace(report, dataset=replace(report.dataset, image_shape=(8, 8, 3)))
    assert find_stored_images(other, tmp_path / "store") is None


def test_a_damaged_segment_is_left_out(known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path) -> None:
    for path in (tmp_path / "store").glob("segments/*/samples.json"):
        path.write_text("{}")
    assert find_stored_images(known[0], tmp_path / "store") is None


def test_a_cleared_store_is_an_error_when_the_pixels_are_wanted(
    known: tuple[ScanReport, dict[str, NDArray[np.uint8]]], tmp_path: Path
) -> None:
    images = found(known[0], tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(OSError):
        images.pixels(images.flagged[1])
