"""The guard between timm's create_dataset and create_loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hook_data import COUNT, QUICK, make_tensors
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform
from timm.data.dataset import AugMixDataset, IterableImageDataset
from torch.utils.data import DataLoader

from vbdguard.errors import PoisonFoundError, SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.hooks.inspecting import counts_of
from vbdguard.hooks.timm_guard import guard_timm

pytestmark = [
    # timm leaves the image files that it opens to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The samples as PNG files, one folder per class."""
    for number, (image, label) in enumerate(make_tensors()):
        into = tmp_path / "photos" / f"class{int(label)}"
        into.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0))).save(into / f"{number:03d}.png")
    return tmp_path / "photos"


@pytest.fixture
def kept_files(folder: Path, own_cache: Path) -> list[int]:
    """The numbers of the files that a scan of timm's dataset keeps."""
    dataset = create_dataset("", root=str(folder))
    names = dataset.filenames(basename=True)
    files = sorted(int(Path(names[index]).stem) for index in GuardedDataset(dataset, config=QUICK).kept_indices)
    assert 0 < len(files) < COUNT
    return files


def numbers_in(loader: Any) -> list[int]:
    """The first values of the images, which are the samples' numbers, whether scaled to [0, 1] or not."""
    found = []
    for images, _ in loader:
        first = images[:, 0, 0, 0]
        found += [round(float(value) * (255 if images.is_floating_point() else 1)) for value in first]
    return sorted(found)


def make_loader(dataset: Any, **options: Any) -> Any:
    """timm's loader, without anything that would move or blur the first value."""
    unchanged = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "no_aug": True, "crop_pct": 1.0}
    settings = {"input_size": (3, 16, 16), "batch_size": 8, "num_workers": 0, "persistent_workers": False}
    return create_loader(dataset, device=torch.device("cpu"), **{**settings, **unchanged, **options})


@pytest.mark.parametrize("use_prefetcher", [False, True])
def test_a_folder_yields_all_but_the_poison(use_prefetcher: bool, folder: Path, kept_files: list[int]) -> None:
    dataset = guard_timm(create_dataset("", root=str(folder)), config=QUICK)
    loader = make_loader(dataset, use_prefetcher=use_prefetcher)
    assert numbers_in(loader) == kept_files
    assert counts_of(loader).total.passed == len(kept_files)


def test_spawned_workers_yield_the_same(folder: Path, kept_files: list[int]) -> None:
    dataset = guard_timm(create_dataset("", root=str(folder)), config=QUICK, quiet=True)
    loader = make_loader(
        dataset, num_workers=1, persistent_workers=True, use_prefetcher=False, use_multi_epochs_loader=False
    )
    assert loader.multiprocessing_context is None
    loader.multiprocessing_context = "spawn"
    assert [numbers_in(loader), numbers_in(loader)] == [kept_files, kept_files]


def test_training_with_augmentation_runs_on_kept_samples_only(folder: Path, kept_files: list[int]) -> None:
    dataset = guard_timm(create_dataset("", root=str(folder), is_training=True), config=QUICK)
    transform = create_transform((3, 16, 16), is_training=True, auto_augment="rand-m9-mstd0.5")
    loader = make_loader(dataset, is_training=True, use_prefetcher=False, no_aug=False, batch_size=5)
    dataset.transform = transform
    assert dataset.unguarded.transform is transform
    batches = list(loader)
    assert sum(len(images) for images, _ in batches) == len(kept_files) - len(kept_files) % 5
    assert batches[0][0].shape == (5, 3, 16, 16)


def test_augmix_goes_around_the_guard(folder: Path, kept_files: list[int]) -> None:
    plain = create_dataset("", root=str(folder))
    with pytest.raises(SourceError, match=r"AugMixDataset\(guard_timm\(dataset\)"):
        guard_timm(AugMixDataset(plain, num_splits=2))
    mixed = AugMixDataset(guard_timm(plain, config=QUICK), num_splits=2)
    assert len(mixed) == len(kept_files)


def test_loaders_and_streams_are_refused_with_the_place_for_the_guard(folder: Path) -> None:
    plain = create_dataset("", root=str(folder))
    for loader in (DataLoader(plain), make_loader(plain, use_prefetcher=True)):
        with pytest.raises(SourceError, match="then call create_loader on it"):
            guard_timm(loader)
    with pytest.raises(SourceError, match="vbdguard clean SOURCE DEST"):
        guard_timm(IterableImageDataset(str(folder), reader=plain.reader))


def test_poison_stops_under_raise(folder: Path) -> None:
    with pytest.raises(PoisonFoundError):
        guard_timm(create_dataset("", root=str(folder)), config=QUICK, on_poison="raise")


def test_two_processes_share_all_but_the_poison(
    folder: Path, kept_files: list[int], run_job: Callable[..., Any], read_all: Callable[..., Any]
) -> None:
    first, second = read_all(run_job("timm_job.py", str(folder)))
    assert sorted({*first, *second}) == kept_files
    assert len(first) == len(second) == -(-len(kept_files) // 2)
