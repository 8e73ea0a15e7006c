"""torchvision's datasets on disk, with transforms that a script sets after the guard is made."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import v2

import vbdguard
from vbdguard.errors import SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.report import ScanReport

from .conftest import make_report

COUNT = 15
PIXELS = np.random.default_rng(3).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
LABELS = [index // 5 for index in range(COUNT)]
FLAGGED = {2: 1, 3: None, 11: 0}
KEPT = [index for index in range(COUNT) if index not in FLAGGED]


def image_folder(root: Path, **arguments: Any) -> ImageFolder:
    for index, pixels in enumerate(PIXELS):
        path = root / ("ant", "bee", "cat")[LABELS[index]] / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return ImageFolder(str(root), **arguments)


def cifar(root: Path, **arguments: Any) -> CIFAR10:
    folder = root / CIFAR10.base_folder
    folder.mkdir(exist_ok=True)
    for place, (name, _) in enumerate(CIFAR10.train_list):
        part = slice(place * 3, place * 3 + 3)
        batch = {"data": PIXELS[part].transpose(0, 3, 1, 2).reshape(3, -1), "labels": LABELS[part]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": ["ant", "bee", "cat"]}))
    return CIFAR10(str(root), **arguments)


@pytest.fixture(params=[image_folder, cifar])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    # The files are ours, so torchvision's checksums do not fit them.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return lambda **arguments: request.param(tmp_path, **arguments)


@pytest.fixture(scope="module")
def found() -> ScanReport:
    return make_report(list(zip(PIXELS, LABELS, strict=True)), FLAGGED)


def as_tensors(indices: list[int]) -> torch.Tensor:
    return torch.from_numpy(PIXELS[indices]).permute(0, 3, 1, 2)


def test_a_random_augmentation_stays_in_training_and_out_of_the_scan(make: Any, found: ScanReport) -> None:
    augmentation = transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()])
    guarded = vbdguard.guard(make(transform=augmentation), report=found)
    images, labels = next(iter(DataLoader(guarded, batch_size=COUNT)))
    assert images.shape == (len(KEPT), 3, 8, 8)
    assert labels.tolist() == guarded.targets == [LABELS[index] for index in KEPT]


def test_transforms_set_on_the_guard_act_on_what_comes_out(make: Any, found: ScanReport) -> None:
    dataset = make()
    guarded = vbdguard.guard(dataset, report=found)
    assert len(guarded) == len(KEPT)
    guarded.transform = v2.Compose([v2.PILToTensor(), v2.Lambda(lambda image: 255 - image)])
    guarded.target_transform = lambda label: label + 100
    images, labels = next(iter(DataLoader(guarded, batch_size=COUNT)))
    assert torch.equal(images, 255 - as_tensors(KEPT))
    assert labels.tolist() == [100 + LABELS[index] for index in KEPT]
    assert dataset.transform is guarded.transform


def test_a_loader_made_before_its_transform_is_guarded_with_it(make: Any, found: ScanReport) -> None:
    dataset = make()
    loader = vbdguard.guard(DataLoader(dataset, batch_size=4), report=found, on_poison="relabel")
    loader.dataset.transform = v2.PILToTensor()
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    passing = [index for index in range(COUNT) if index != 3]
    assert torch.equal(images, as_tensors(passing))
    assert labels.tolist() == [{2: 1, 11: 0}.get(index, LABELS[index]) for index in passing]


class Noisy:
    """A dataset of no library, which augments on its own."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        noise = np.random.default_rng().integers(0, 9, PIXELS[index].shape)
        return (PIXELS[index] // 2 + noise).astype(np.uint8), LABELS[index]


def test_an_unknown_random_augmentation_is_recognised_and_asks_for_raw(found: ScanReport) -> None:
    for target in (Noisy(), DataLoader(Noisy(), batch_size=3)):
        with pytest.raises(SourceError, match=r"(?s)got two different ones at index 0.*pass raw="):
            len(vbdguard.guard(target, report=found))
    raw = list(zip(PIXELS, LABELS, strict=True))
    loader = vbdguard.guard(DataLoader(Noisy(), batch_size=3), report=found, raw=raw)
    assert isinstance(loader.dataset, GuardedDataset)
    labels = torch.cat([labels for _, labels in loader])
    assert labels.tolist() == [LABELS[index] for index in KEPT]
