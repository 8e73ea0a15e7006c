"""timm's own dataset and loader on guarded data."""

from __future__ import annotations

import logging
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from torch.utils.data import ConcatDataset, DataLoader, Subset

import vbdguard
from vbdguard.errors import SourceError, UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.policy import GuardWarning
from vbdguard.report import ScanReport

from .conftest import NAMES, make_report

# timm leaves it to the garbage collector to close what it has opened.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

COUNT = 12
PIXELS = np.random.default_rng(2).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
PIXELS[:, 0, 0] = np.arange(COUNT)[:, None]  # every image bears its number
LABELS = [index // 4 for index in range(COUNT)]
FLAGGED = {1: 2, 2: None, 9: 0}
KEPT = [index for index in range(COUNT) if index not in FLAGGED]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, pixels in enumerate(PIXELS):
        path = tmp_path / NAMES[LABELS[index]] / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.fixture
def found() -> ScanReport:
    return make_report(list(zip(PIXELS, LABELS, strict=True)), FLAGGED)


def numbers_of(images: torch.Tensor) -> list[int]:
    """Which images are in a batch (N, 3, 8, 8) of uint8."""
    return images[:, 0, 0, 0].tolist()


def numbered(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def break_file(folder: Path, index: int) -> None:
    (folder / NAMES[LABELS[index]] / f"{index:02}.png").write_bytes(b"no picture")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("prefetcher", [False, True])
def test_timms_loader_trains_on_the_kept_samples(
    folder: Path, found: ScanReport, workers: int, prefetcher: bool
) -> None:
    dataset = create_dataset("", root=folder)
    guarded = vbdguard.guard(dataset, report=found)
    assert type(guarded) is GuardedDataset
    loader = create_loader(
        guarded,
        input_size=(3, 8, 8),
        batch_size=3,
        is_training=True,
        no_aug=True,
        num_workers=workers,
        use_prefetcher=prefetcher,
        device=torch.device("cpu"),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.shape == (len(KEPT), 3, 8, 8)  # is_training drops an incomplete batch; 9 samples make 3
    drawn = (images[:, 0, 0, 0] * 255).round().int().tolist()
    assert Counter(drawn) == Counter(KEPT)
    assert labels.tolist() == [LABELS[number] for number in drawn]
    assert dataset.transform is not None  # timm sets it on the guard


def test_a_target_transform_is_kept_and_relabelled_through(folder: Path, found: ScanReport) -> None:
    dataset = create_dataset("", root=folder)
    dataset.target_transform = lambda label: 10 + label
    guarded = vbdguard.guard(dataset, report=found, on_poison="relabel")
    labels = [guarded[place][1] for place in range(len(guarded))]
    expected = {index: 10 + LABELS[index] for index in range(COUNT) if index != 2} | {1: 12, 9: 10}
    assert labels == list(expected.values())


def test_the_scan_sees_the_broken_file_that_timm_hides(folder: Path) -> None:
    break_file(folder, 5)
    pairs = list(zip(PIXELS, LABELS, strict=True))
    report = make_report(pairs, FLAGGED, skipped={5: "item-failed"})
    with pytest.raises(UnscannedSampleError, match=r"1 samples could not be scanned \(5: item-failed"):
        len(vbdguard.guard(create_dataset("", root=folder), report=report))
    guarded = vbdguard.guard(create_dataset("", root=folder), report=report, on_unscanned="drop")
    assert guarded.kept_indices.tolist() == [index for index in KEPT if index != 5]


def test_only_a_kept_sample_stands_in_for_one_that_breaks_later(
    folder: Path, found: ScanReport, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = create_dataset("", root=folder, transform=numbered)
    strict = vbdguard.guard(dataset, report=found)
    guarded = vbdguard.guard(dataset, report=found, on_unscanned="warn")
    assert len(strict) == len(guarded) == len(KEPT)
    break_file(folder, 0)
    with pytest.raises(UnscannedSampleError, match="expected the image that was scanned"):
        strict[0]
    with caplog.at_level(logging.WARNING):
        with pytest.warns(GuardWarning, match="expected the image that was scanned"):
            image, _ = guarded[0]
        assert int(image[0, 0, 0]) == 3  # timm goes on to 1 and 2, which are flagged, and takes 3
        assert int(dataset[0][0][0, 0, 0]) == 1  # what it does unguarded: the danger is real
    with pytest.warns(GuardWarning, match="expected the image that was scanned"):
        images, _ = next(iter(DataLoader(guarded, batch_size=len(KEPT))))
    assert not set(numbers_of(images)) & set(FLAGGED)
    assert dataset.reader is guarded.unguarded.reader


def test_nothing_stands_in_for_a_relabelled_sample(folder: Path, found: ScanReport) -> None:
    guarded = vbdguard.guard(create_dataset("", root=folder, transform=numbered), report=found, on_poison="relabel")
    assert guarded[1][1] == 2
    break_file(folder, 1)
    with pytest.raises(UnscannedSampleError, match="sample 1: the scan could read it and training cannot"):
        guarded[1]


@pytest.mark.parametrize("wrap", [lambda data: Subset(data, range(COUNT)), lambda data: ConcatDataset([data])])
def test_nothing_stands_in_inside_subsets_and_concatenations(folder: Path, found: ScanReport, wrap: Any) -> None:
    dataset = create_dataset("", root=folder)
    guarded = vbdguard.guard(wrap(dataset), report=found)
    assert guarded.kept_indices.tolist() == KEPT
    dataset.transform = numbered  # set late, and seen
    assert int(guarded[1][0][0, 0, 0]) == 3
    break_file(folder, 3)
    with pytest.raises(UnscannedSampleError, match="sample 3"):
        guarded[1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_archive_is_not_left_open_for_the_workers(tmp_path: Path, folder: Path, context: str) -> None:
    archive = tmp_path / "all" / "train.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for index in range(COUNT):
            name = f"{NAMES[LABELS[index]]}/{index:02}.png"
            tar.add(folder / name, arcname=name)
    dataset = create_dataset("", root=archive, transform=numbered)
    guarded = vbdguard.guard(dataset, report=make_report(list(zip(PIXELS, LABELS, strict=True)), FLAGGED))
    assert guarded.kept_indices.tolist() == KEPT
    # A reader that was opened for the scan would be shared by the workers, each moving the other's file position;
    # nor could it be pickled.
    loader = DataLoader(guarded, batch_size=1, num_workers=2, multiprocessing_context=context)
    assert [numbers_of(images)[0] for images, _ in loader] == KEPT


def test_timms_random_wrappers_are_refused_with_the_advice(folder: Path) -> None:
    from timm.data import AugMixDataset

    dataset = AugMixDataset(create_dataset("", root=folder), num_splits=2)
    with pytest.raises(SourceError, match="pass raw="):
        len(vbdguard.guard(dataset))
