"""Files that change between a scan and the training that goes by its report."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from vbdguard.errors import SourceError, UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.policy import GuardWarning
from vbdguard.guards.scanned_files import note_files
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


# Between the scan and the access


@pytest.fixture
def rested(root: Path) -> Path:
    """The same files, long at rest: their state alone vouches for them."""
    long_ago = time.time() - 3600
    for path in root.glob("*/*.png"):
        os.utime(path, (long_ago, long_ago))
    return root


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as resting at once: the clock of a change of status cannot be set back."""
    monkeypatch.setattr("vbdguard.guards.scanned_files._RESTING", -1)


def kept_place(guarded: GuardedDataset, path: Path) -> int:
    paths = [Path(name) for name, _ in guarded.unguarded.samples]
    return guarded.kept_indices.tolist().index(paths.index(path))


def same_size_and_time(root: Path) -> None:
    path = root / "a" / "00.png"
    times = path.stat()
    Image.fromarray(PIXELS[0] ^ 255).save(path)
    path.write_bytes(path.read_bytes()[: times.st_size].ljust(times.st_size, b"\0"))  # Pillow stops at the end mark
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def another_moved_there(root: Path) -> None:
    Image.fromarray(PIXELS[0] ^ 255).save(root / "other.png")
    (root / "other.png").replace(root / "a" / "00.png")


def link_to_another(root: Path) -> None:
    (root / "a" / "00.png").unlink()
    (root / "a" / "00.png").symlink_to(root / "b" / "04.png")


def flagged_one_copied_there(root: Path) -> None:
    shutil.copy(root / "a" / "02.png", root / "a" / "00.png")


OVERWRITES = [one_pixel, same_size_and_time, another_moved_there, link_to_another, flagged_one_copied_there]


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize("change", OVERWRITES)
@pytest.mark.parametrize("policy", ["raise", "drop"])
def test_a_file_that_is_overwritten_after_the_scan_does_not_pass(
    rested: Path, found: ScanReport, change: Callable[[Path], None], policy: str
) -> None:
    guarded = GuardedDataset(ImageFolder(str(rested)), report=found, on_unscanned=policy)
    place = kept_place(guarded, rested / "a" / "00.png")
    assert np.array_equal(np.asarray(guarded[place][0]), PIXELS[0])
    change(rested)
    for access in (lambda: guarded[place], lambda: guarded.__getitems__([place]), lambda: images(guarded)):
        with pytest.raises(UnscannedSampleError, match=r"00\.png: expected the image that was scanned"):
            access()
    assert np.array_equal(np.asarray(guarded[kept_place(guarded, rested / "a" / "01.png")][0]), PIXELS[1])


@pytest.mark.parametrize("change", OVERWRITES)
def test_nor_does_one_that_was_written_just_before_the_scan(
    root: Path, found: ScanReport, change: Callable[[Path], None]
) -> None:
    """Two writes within one tick of the file system's clock leave the same state behind."""
    guarded = GuardedDataset(ImageFolder(str(root)), report=found)
    assert len(images(guarded)) == 10
    change(root)
    with pytest.raises(UnscannedSampleError, match=r"00\.png"):
        images(guarded)


@pytest.mark.usefixtures("no_delay")
def test_files_that_were_touched_or_written_again_pass(rested: Path, found: ScanReport) -> None:
    guarded = GuardedDataset(ImageFolder(str(rested)), report=found)
    before = images(guarded)
    for path in rested.glob("*/*.png"):
        shutil.copy(path, rested / "aside.png")
        (rested / "aside.png").replace(path)
    assert images(guarded) == before


@pytest.mark.usefixtures("no_delay")
def test_the_image_is_read_again_only_where_the_file_system_tells_of_a_change(
    rested: Path, found: ScanReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = GuardedDataset(ImageFolder(str(rested)), report=found)
    len(guarded)
    read: list[int] = []
    again = guarded._fetch_raw
    monkeypatch.setattr(guarded, "_fetch_raw", lambda index: read.append(index) or again(index))
    images(guarded)
    assert read == []
    (rested / "a" / "00.png").touch()
    images(guarded)
    images(guarded)
    assert read == [0]


@pytest.mark.usefixtures("no_delay")
def test_a_worker_notices_too(rested: Path, found: ScanReport) -> None:
    guarded = GuardedDataset(ImageFolder(str(rested), transform=np.asarray), report=found)
    sent = pickle.loads(pickle.dumps(guarded))
    one_pixel(rested)
    with pytest.raises(UnscannedSampleError, match=r"00\.png"):
        [sent[index] for index in range(len(sent))]
    with pytest.raises(UnscannedSampleError, match=r"00\.png"):
        list(DataLoader(guarded, num_workers=1, multiprocessing_context="fork"))


class Negative(ImageFolder):
    """Hands out what no `transform=None` undoes."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return 255 - np.asarray(image), label


def positive(index: int) -> Any:
    return Image.fromarray(PIXELS[index]), LABELS[index]


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize("raw", ["a dataset", "a dataset with a transform", "a function"])
@pytest.mark.parametrize("is_sent", [False, True])
def test_raw_is_what_files_are_looked_at_through_again(
    rested: Path, found: ScanReport, raw: str, is_sent: bool
) -> None:
    transform = transforms.ToTensor() if raw == "a dataset with a transform" else None
    source = positive if raw == "a function" else ImageFolder(str(rested), transform=transform)
    guarded = GuardedDataset(Negative(str(rested)), raw=source, report=found)
    assert len(guarded) == 10
    used = pickle.loads(pickle.dumps(guarded)) if is_sent else guarded
    for path in rested.glob("*/*.png"):
        path.touch()
    assert len([used[index] for index in range(len(used))]) == 10
    if raw != "a function":
        one_pixel(rested)
        with pytest.raises(UnscannedSampleError, match=r"00\.png: expected the image that was scanned"):
            [used[index] for index in range(len(used))]


@pytest.mark.usefixtures("no_delay")
def test_a_file_that_cannot_be_looked_at_again_is_not_called_another_one(rested: Path, found: ScanReport) -> None:
    guarded = GuardedDataset(Negative(str(rested)), raw=lambda index: positive(index), report=found)
    sent = pickle.loads(pickle.dumps(guarded))
    (rested / "a" / "00.png").touch()
    assert len([guarded[index] for index in range(len(guarded))]) == 10
    with pytest.raises(UnscannedSampleError, match=r"00\.png: the file changed.*raw= could not be sent"):
        [sent[index] for index in range(len(sent))]
    with pytest.raises(SourceError, match="raw= stayed in the process that scanned"):
        sent.untransformed[0]


def test_warned_of_it_passes(rested: Path, found: ScanReport) -> None:
    guarded = GuardedDataset(ImageFolder(str(rested)), report=found, on_unscanned="warn")
    place = kept_place(guarded, rested / "a" / "00.png")
    one_pixel(rested)
    with pytest.warns(GuardWarning, match=r"00\.png: expected the image that was scanned"):
        image, _ = guarded[place]
    assert not np.array_equal(np.asarray(image), PIXELS[0])


def test_subsets_and_concatenations_are_looked_through(rested: Path, found: ScanReport) -> None:
    folder = ImageFolder(str(rested))
    both = ConcatDataset([Subset(folder, range(6)), Subset(folder, range(6, 12))])
    guarded = GuardedDataset(both, report=found)
    assert len(images(guarded)) == 10
    Image.fromarray(PIXELS[0]).save(rested / "c" / "11.png")
    with pytest.raises(UnscannedSampleError, match=r"11\.png"):
        images(guarded)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm closes no image file
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning")
def test_timms_folders_are_looked_at(rested: Path, found: ScanReport) -> None:
    guarded = GuardedDataset(ImageDataset(str(rested)), report=found)
    assert len(images(guarded)) == 10
    one_pixel(rested)
    with pytest.raises(UnscannedSampleError, match=r"00\.png"):
        images(guarded)


def test_what_tells_no_files_is_left_as_it_is(found: ScanReport) -> None:
    pairs = list(zip(PIXELS, LABELS, strict=True))
    assert note_files(pairs, len(pairs)) is None
    assert len(GuardedDataset(pairs, report=found)) == 10
