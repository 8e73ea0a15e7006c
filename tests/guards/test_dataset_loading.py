"""The guarded dataset in real DataLoaders: what arrives is what the plain loader gives minus the flagged samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from vbdguard.guards.dataset import GuardedDataset
from vbdguard.report import ScanReport

COUNT = 30
FLAGGED = (0, 3, 4, 17, 29)
KEPT = [index for index in range(COUNT) if index not in FLAGGED]
ReportOn = Callable[..., ScanReport]


def fake(**arguments: Any) -> FakeData:
    return FakeData(size=COUNT, image_size=(3, 6, 6), num_classes=3, **arguments)


def tensors() -> TensorDataset:
    images = torch.randint(0, 256, (COUNT, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TensorDataset(images, torch.arange(COUNT) % 3)


def stacked() -> StackDataset[Any]:
    inner = tensors()
    return StackDataset(image=inner.tensors[0], label=inner.tensors[1])


DATASETS: dict[str, Callable[[], Any]] = {
    "torchvision": lambda: fake(transform=transforms.ToTensor()),
    "tensors": tensors,
    "subset": lambda: Subset(fake(transform=transforms.ToTensor()), list(range(COUNT))[::-1]),
    "concatenation": lambda: ConcatDataset(
        [Subset(fake(transform=transforms.ToTensor()), range(9)), Subset(tensors(), range(9, COUNT))]
    ),
    "dicts": stacked,
}


def report_for(dataset: Any, report_on: ReportOn, **arguments: Any) -> ScanReport:
    """The report on a dataset whose items are floats or uint8, (C, H, W)."""
    pairs = []
    for index in range(len(dataset)):
        item = dataset[index]
        image, label = (item["image"], item["label"]) if isinstance(item, dict) else item
        pixels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
        pairs.append((pixels.permute(1, 2, 0).contiguous().numpy(), int(label)))
    return report_on(pairs, dict.fromkeys(FLAGGED), **arguments)


def flat(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [(batch["image"], batch["label"]) if isinstance(batch, dict) else batch for batch in loader]
    return torch.cat([images.float() for images, _ in batches]), torch.cat([labels for _, labels in batches])


def uncollated(items: list[Any]) -> list[Any]:
    return items


def as_floats(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [(item["image"], item["label"]) if isinstance(item, dict) else item for item in items]
    return torch.stack([image.float() for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs])


@pytest.mark.parametrize("name", DATASETS)
def test_batches_equal_the_plain_loaders_minus_the_flagged(name: str, report_on: ReportOn) -> None:
    dataset = DATASETS[name]()
    guarded = GuardedDataset(dataset, report=report_for(dataset, report_on))
    images, labels = flat(DataLoader(dataset, batch_size=7, collate_fn=as_floats))
    kept_images, kept_labels = flat(DataLoader(guarded, batch_size=7, collate_fn=as_floats))
    assert torch.equal(kept_images, images[KEPT])
    assert torch.equal(kept_labels, labels[KEPT])


@pytest.mark.parametrize("context", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("name", ["torchvision", "subset"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_give_the_same_batches(name: str, context: str, report_on: ReportOn) -> None:
    dataset = DATASETS[name]()
    guarded = GuardedDataset(dataset, report=report_for(dataset, report_on))
    loader = DataLoader(guarded, batch_size=4, num_workers=2, multiprocessing_context=context)
    images, labels = flat(DataLoader(dataset, batch_size=4))
    kept_images, kept_labels = flat(loader)
    assert torch.equal(kept_images, images[KEPT])
    assert torch.equal(kept_labels, labels[KEPT])


def test_spawned_workers_need_neither_raw_nor_a_second_look(report_on: ReportOn) -> None:
    dataset = tensors()
    normalised = TensorDataset(dataset.tensors[0] / 64 - 2, dataset.tensors[1])
    # The lambda cannot be pickled, and the normalised items could not be scanned in a worker.
    guarded = GuardedDataset(normalised, raw=lambda index: dataset[index], report=report_for(dataset, report_on))
    images, _ = flat(DataLoader(guarded, batch_size=5, num_workers=1, multiprocessing_context="spawn"))
    assert torch.equal(images, normalised.tensors[0][KEPT])


def test_shuffled_epochs_hold_each_kept_sample_once(report_on: ReportOn) -> None:
    dataset = tensors()
    guarded = GuardedDataset(dataset, report=report_for(dataset, report_on))
    loader = DataLoader(guarded, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        images, _ = flat(loader)
        assert sorted(map(hash_of, images)) == sorted(map(hash_of, dataset.tensors[0][KEPT].float()))


def hash_of(image: torch.Tensor) -> bytes:
    return image.numpy().tobytes()


def test_relabelled_batches_hold_every_sample_under_its_new_class(report_on: ReportOn) -> None:
    dataset = tensors()
    pairs = [(image.permute(1, 2, 0).contiguous().numpy(), int(label)) for image, label in dataset]
    guarded = GuardedDataset(dataset, report=report_on(pairs, {0: 1, 3: 2}), on_poison="relabel")
    images, labels = flat(DataLoader(guarded, batch_size=4))
    assert torch.equal(images, dataset.tensors[0].float())
    assert labels.tolist() == [1, 1, 2, 2, *(index % 3 for index in range(4, COUNT))]


def test_an_image_folder_loads_without_its_flagged_files(tmp_path: Any, report_on: ReportOn) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / ("ant", "bee")[index // 3]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    flip = transforms.Compose([transforms.RandomHorizontalFlip(1.0), transforms.ToTensor()])
    dataset = ImageFolder(str(tmp_path), transform=flip)
    report = report_on([(image, index // 3) for index, image in enumerate(pixels)], {1: 1, 5: 0})
    guarded = GuardedDataset(dataset, report=report)
    images, labels = flat(DataLoader(guarded, batch_size=6))
    expected = torch.stack([transforms.ToTensor()(pixels[index][:, ::-1].copy()) for index in (0, 2, 3, 4)])
    assert torch.equal(images, expected)
    assert labels.tolist() == guarded.targets == [0, 0, 1, 1]
    assert guarded.samples == guarded.imgs == [dataset.samples[index] for index in (0, 2, 3, 4)]
    assert (guarded.classes, guarded.class_to_idx) == (["ant", "bee"], {"ant": 0, "bee": 1})


def test_hugging_face_data_load_without_their_flagged_rows(report_on: ReportOn) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee", "cat"]))
    pixels = np.random.default_rng(1).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": [index % 3 for index in range(10)]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    report = report_on([(image, index % 3) for index, image in enumerate(pixels)], dict.fromkeys(range(5)))
    guarded = GuardedDataset(dataset, report=report)
    batches = list(DataLoader(guarded, batch_size=5, collate_fn=uncollated))
    assert len(batches) == 1
    np.testing.assert_array_equal([np.asarray(row["image"]) for row in batches[0]], pixels[5:])
    relabelled = GuardedDataset(
        dataset, report=report_on([(i, n % 3) for n, i in enumerate(pixels)], {1: 2}), on_poison="relabel"
    )
    assert [row["label"] for row in relabelled] == [0, 2, 2, *(index % 3 for index in range(3, 10))]
    with pytest.raises(AttributeError, match="a method"):
        guarded.select([0])
