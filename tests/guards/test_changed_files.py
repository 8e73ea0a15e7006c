"""Files that change between a scan and the training that goes by its report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from vbdguard.errors import UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.report import ScanReport

from .conftest import make_report

PIXELS = np.random.default_rng(5).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
LABELS = [index // 4 for index in range(12)]
FLAGGED = {2: None, 9: None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, pixels in enumerate(PIXELS):
        path = tmp_path / "abc"[LABELS[index]] / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.fixture(scope="module")
def found() -> ScanReport:
    return make_report(list(zip(PIXELS, LABELS, strict=True)), FLAGGED)


def images(guarded: GuardedDataset) -> set[bytes]:
    return {np.asarray(image).tobytes() for image, _ in (guarded[index] for index in range(len(guarded)))}


def one_pixel(root: Path) -> None:
    pixels = PIXELS[0].copy()
    pixels[15, 15] ^= 255
    Image.fromarray(pixels).save(root / "a" / "00.png")


def new_file(root: Path) -> None:
    Image.fromarray(255 - PIXELS[0]).save(root / "a" / "new.png")


def copy_of_a_kept_file(root: Path) -> None:
    shutil.copy(root / "a" / "00.png", root / "a" / "again.png")


def other_class(root: Path) -> None:
    (root / "a" / "00.png").rename(root / "b" / "00.png")


def removed(root: Path) -> None:
    (root / "a" / "00.png").unlink()


def cut_short(root: Path) -> None:
    path = root / "a" / "00.png"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("change", [one_pixel, new_file, copy_of_a_kept_file, other_class, removed, cut_short])
def test_nothing_comes_out_of_files_that_are_not_those_of_the_report(
    root: Path, found: ScanReport, change: Callable[[Path], None]
) -> None:
    assert len(images(GuardedDataset(ImageFolder(str(root)), report=found))) == 10
    change(root)
    with pytest.raises(UnscannedSampleError):
        images(GuardedDataset(ImageFolder(str(root)), report=found))


def test_files_under_new_names_and_in_another_order_lose_the_same_images(root: Path, found: ScanReport) -> None:
    for path in sorted(root.glob("*/*.png")):
        path.rename(path.with_name(f"{99 - int(path.stem)}-renamed.png"))
    kept = {PIXELS[index].tobytes() for index in range(12) if index not in FLAGGED}
    assert images(GuardedDataset(ImageFolder(str(root)), report=found)) == kept
