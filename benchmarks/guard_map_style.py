"""Map-style data to measure the guard's overhead on, from what costs next to nothing a sample to what scripts do.

tensors        TensorDataset of 32 x 32 images: an index and a stack, the worst case for a wrapper
augmented      32 x 32 Pillow images with crop, flip and normalisation, as CIFAR-10 is trained on
image_folder   JPEG files of 32 x 32 from disk, the same transforms
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2

import vbdguard
from benchmarks.interleaved import Epoch
from vbdguard.guards.ledger import Ledger, NotingSource
from vbdguard.report import ClassReport, DatasetReport, FlaggedSample, ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.torch_dataset import TorchDatasetSource

CLASSES = 10
FLAGGED_EVERY = 10
SIDE = 32

TRANSFORM = v2.Compose(
    [
        v2.RandomCrop(SIDE, padding=4),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.5,) * 3, (0.25,) * 3),
    ]
)


class Pictures(VisionDataset):  # type: ignore[misc]  # torchvision ships no types
    """Pictures in memory, handed out as torchvision's CIFAR10 does."""

    def __init__(self, images: NDArray[np.uint8], labels: list[int], transform: Any) -> None:
        super().__init__(root="", transform=transform)
        self.data, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return self.transform(image) if self.transform else image, self.targets[index]


def tensors(_: Path, samples: int) -> TensorDataset:
    """Return images uint8 (N, 3, 32, 32) in memory."""
    images, labels = _drawn(samples)
    return TensorDataset(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def augmented(_: Path, samples: int) -> Pictures:
    """Return pictures in memory with random transforms."""
    images, labels = _drawn(samples)
    return Pictures(images, labels, TRANSFORM)


def image_folder(folder: Path, samples: int) -> ImageFolder:
    """Return JPEG files with random transforms."""
    for number, (image, label) in enumerate(zip(*_drawn(samples), strict=True)):
        path = folder / str(label) / f"{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path, quality=90)
    return ImageFolder(str(folder), transform=TRANSFORM)


def make_epochs(make: Any, folder: Path, samples: int, workers: int) -> tuple[Epoch, Epoch]:
    """Return an epoch of a plain loader and one through the guard; the workers stay alive."""
    dataset = make(folder, samples)
    plain: DataLoader[Any] = DataLoader(
        dataset, batch_size=128, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    guarded = vbdguard.guard(plain, report=report_on(dataset))
    return lambda: _run(plain), lambda: _run(guarded)


MAP_STYLE: Mapping[str, Any] = MappingProxyType(
    {make.__name__: partial(make_epochs, make) for make in (tensors, augmented, image_folder)}
)
"""The cases of `benchmarks.guard_overhead`."""


def report_on(dataset: Any) -> ScanReport:
    """Return a report that flags every tenth sample; what it flags costs nothing, so no scan is needed here."""
    source = NotingSource(TorchDatasetSource(dataset), ledger := Ledger(len(dataset)))
    labels = [entry.label for shard in source.shards for entry in shard.read() if isinstance(entry, RawSample)]
    flagged = [
        FlaggedSample(
            key=str(n), digest=ledger.digest_of(n).hex(), label=int(labels[n]), score=1.0, suggested_label=None
        )
        for n in range(0, len(dataset), FLAGGED_EVERY)
    ]
    flagged_in = Counter(entry.label for entry in flagged)
    return ScanReport(
        status="complete",
        verdict="poisoned",
        dataset=DatasetReport(
            digest=ledger.dataset_digest(),
            sources=(type(dataset).__name__,),
            samples=len(dataset),
            classes=CLASSES,
            image_shape=(SIDE, SIDE, 3),
            shards=(),
        ),
        config={},
        seed=0,
        device="cpu",
        classes=tuple(
            ClassReport(
                label=label,
                name=str(label),
                samples=labels.count(label),
                poisoned=flagged_in[label] > 0,
                flagged=flagged_in[label],
                p_value=None,
                attack_success_rate=None,
                trigger=None,
            )
            for label in range(CLASSES)
        ),
        flagged=tuple(flagged),
        skipped=(),
        timings={"total": 0.0},
        environment={},
        tool={"name": "vbdguard", "version": vbdguard.__version__},
    )


def _drawn(samples: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Return smooth images (N, 32, 32, 3), which compress like photographs, and classes by place: 0 is every tenth."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (samples, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    images = images // 2 + generator.integers(0, 64, images.shape, dtype=np.uint8)
    return images, [number % CLASSES for number in range(samples)]


def _run(loader: DataLoader[Any]) -> int:
    return sum(len(labels) for _, labels in loader)
