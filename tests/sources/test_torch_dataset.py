"""A dataset in memory as a source: raw pixels, stable items, named failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from torchvision import transforms
from torchvision.datasets import MNIST, FakeData, ImageFolder

from vbdguard.errors import SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.torch_dataset import SAMPLES_PER_SHARD, TorchDatasetSource

AUGMENTED = transforms.Compose(
    [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
)


def fake(size: int = 40, **settings: Any) -> FakeData:
    return FakeData(size=size, image_size=(3, 8, 8), num_classes=3, **settings)


def read(source: TorchDatasetSource) -> list[RawSample | Unreadable]:
    return [entry for shard in source.shards for entry in shard.read()]


def samples(source: TorchDatasetSource) -> list[tuple[str, int | str, bytes]]:
    entries = read(source)
    assert all(isinstance(entry, RawSample) for entry in entries), entries
    return [(e.key, e.label, e.image.tobytes()) for e in entries]  # type: ignore[union-attr]


class Listed(Dataset[Any]):
    """Hands out what it is given; an exception is raised."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def grey_items(count: int = 4) -> list[Any]:
    return [(np.full((4, 4), index, np.uint8), index % 2) for index in range(count)]


def test_torchvision_data_are_seen_without_their_transforms() -> None:
    bare, augmented = fake(), fake(transform=AUGMENTED, target_transform=lambda label: label + 100)
    seen = samples(TorchDatasetSource(augmented))
    assert seen == samples(TorchDatasetSource(bare))
    assert seen == [(str(i), bare[i][1], np.asarray(bare[i][0]).tobytes()) for i in range(len(bare))]


def test_the_callers_dataset_keeps_its_transforms() -> None:
    dataset = fake(transform=AUGMENTED)
    before = dict(vars(dataset))
    samples(TorchDatasetSource(dataset))
    assert vars(dataset) == before
    assert dataset[0][0].dtype == torch.float32


def test_a_joint_transform_is_bypassed() -> None:
    dataset = fake()
    dataset.transforms = lambda *_: pytest.fail("the joint transform ran")
    assert len(samples(TorchDatasetSource(dataset))) == 40


def test_image_folders_are_seen_raw(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 2, 9, 7, 3), dtype=np.uint8)
    for name, images in zip(("ant", "bee"), pixels, strict=True):
        (tmp_path / name).mkdir()
        for place, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{place}.png")
    source = TorchDatasetSource(ImageFolder(str(tmp_path), transform=AUGMENTED))
    assert samples(source) == [(str(i), i // 2, pixels[i // 2, i % 2].tobytes()) for i in range(4)]
    assert dict(source.class_names or {}) == {0: "ant", 1: "bee"}


def test_mnist_is_seen_raw() -> None:
    dataset = MNIST.__new__(MNIST)
    dataset.__dict__.update(
        data=torch.arange(2 * 28 * 28).reshape(2, 28, 28).to(torch.uint8),
        targets=torch.tensor([7, 1]),
        transform=AUGMENTED,
        target_transform=None,
        transforms=None,
    )
    source = TorchDatasetSource(dataset)
    assert [(label, data) for _, label, data in samples(source)] == [
        (7, dataset.data[0].numpy().tobytes()),
        (1, dataset.data[1].numpy().tobytes()),
    ]
    assert (source.class_names or {})[7] == "7 - seven"


def test_subsets_and_concatenations_are_seen_through() -> None:
    bare = fake()
    first, second = random_split(fake(transform=AUGMENTED), [15, 25], generator=torch.Generator().manual_seed(0))
    joined = ConcatDataset([second, Subset(first, [3, 1])])
    order = [*second.indices, first.indices[3], first.indices[1]]
    seen = samples(TorchDatasetSource(joined))
    assert seen == [(str(i), bare[j][1], np.asarray(bare[j][0]).tobytes()) for i, j in enumerate(order)]


def test_a_subset_class_of_ones_own_is_not_seen_through() -> None:
    class Inverted(Subset[Any]):
        def __getitem__(self, index: Any) -> Any:
            image, label = super().__getitem__(index)
            return 255 - np.asarray(image), label

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices]

    bare = fake()
    seen = samples(TorchDatasetSource(Inverted(bare, [2, 5])))
    assert [data for *_, data in seen] == [(255 - np.asarray(bare[i][0])).tobytes() for i in (2, 5)]


def test_tensors_are_read() -> None:
    images = torch.randint(0, 256, (5, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = samples(TorchDatasetSource(TensorDataset(images / 255, torch.arange(5) % 2)))
    assert [data for *_, data in seen] == [image.permute(1, 2, 0).numpy().tobytes() for image in images]


def test_random_items_are_refused_with_the_remedy() -> None:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            return torch.rand(3, 4, 4), index % 2

    with pytest.raises(SourceError, match=r"Noisy: expected the same sample at each call.*pass raw="):
        TorchDatasetSource(Noisy())


def test_items_that_fail_now_and_then_are_refused() -> None:
    class Flaky(Listed):
        calls = 0

        def __getitem__(self, index: int) -> Any:
            self.calls += 1
            if self.calls % 2:
                raise OSError("busy")
            return super().__getitem__(index)

    with pytest.raises(SourceError, match="two different ones at index 0"):
        TorchDatasetSource(Flaky(grey_items()))


def test_normalised_floats_are_refused_with_the_remedy() -> None:
    images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        SourceError, match=r"TensorDataset\[0\]: expected floats in \[0, 1\], got values from.*pass raw="
    ):
        TorchDatasetSource(TensorDataset(images, torch.arange(5)))


def test_items_of_an_unknown_layout_are_refused_with_the_remedy() -> None:
    with pytest.raises(SourceError, match=r"none of 2 probed items.*expected an item \(image, label\).*pass raw="):
        TorchDatasetSource(Listed([1, 2]))


def test_a_dataset_that_cannot_do_without_its_transform_is_refused_with_the_remedy() -> None:
    class Eager(FakeData):
        def __getitem__(self, index: int) -> Any:
            return self.transform(np.zeros((4, 4), np.uint8)), index % 2  # type: ignore[misc]

    with pytest.raises(SourceError, match=r"'NoneType' object is not callable.*pass raw="):
        TorchDatasetSource(Eager(size=4, transform=transforms.ToTensor()))


@pytest.mark.parametrize("wrap", [lambda items: Listed(items), lambda items: lambda index: items[index]])
def test_raw_replaces_what_the_dataset_hands_out(wrap: Callable[[list[Any]], Any]) -> None:
    noise = TensorDataset(torch.randn(4, 1, 4, 4), torch.zeros(4))
    source = TorchDatasetSource(noise, raw=wrap(grey_items()))
    assert samples(source) == [(str(i), i % 2, bytes([i] * 16)) for i in range(4)]


def test_a_torchvision_dataset_as_raw_loses_its_transforms_too() -> None:
    noise = TensorDataset(torch.randn(40, 1, 4, 4), torch.zeros(40))
    assert samples(TorchDatasetSource(noise, raw=fake(transform=AUGMENTED))) == samples(TorchDatasetSource(fake()))


def test_raw_of_another_length_is_refused() -> None:
    with pytest.raises(SourceError, match=r"expected raw= of the dataset's length 4, got one of length 3"):
        TorchDatasetSource(Listed(grey_items(4)), raw=Listed(grey_items(3)))


def test_raw_that_is_neither_dataset_nor_function_is_refused() -> None:
    with pytest.raises(SourceError, match="expected raw= to be a dataset or a function"):
        TorchDatasetSource(Listed(grey_items()), raw=3)


def test_a_stream_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(grey_items())

    with pytest.raises(SourceError, match=r"expected a map-style dataset.*got Stream"):
        TorchDatasetSource(Stream())


def test_an_item_that_raises_is_unreadable_under_its_index() -> None:
    items = grey_items(3)
    items[1] = OSError("cannot identify <_io.BytesIO object at 0x7f00deadbeef>")
    entry = read(TorchDatasetSource(Listed(items)))[1]
    assert entry == Unreadable("1", "item-failed", "OSError: cannot identify <_io.BytesIO object>")


def test_an_item_that_is_no_image_is_unreadable_under_its_index() -> None:
    items = grey_items(3)
    items[2] = ("not an image", 0)
    entry = read(TorchDatasetSource(Listed(items)))[2]
    assert isinstance(entry, Unreadable)
    assert (entry.key, entry.reason) == ("2", "bad-layout")


def test_shards_cover_every_index_once() -> None:
    count = SAMPLES_PER_SHARD * 2 + 3
    source = TorchDatasetSource(TensorDataset(torch.zeros(count, 1, 2, 2), torch.zeros(count, dtype=torch.long)))
    assert [shard.name for shard in source.shards] == [
        "TensorDataset[0:4096]",
        "TensorDataset[4096:8192]",
        "TensorDataset[8192:8195]",
    ]
    assert [entry.key for entry in read(source)] == [str(index) for index in range(count)]
    assert [shard.digest() for shard in source.shards] == [None] * 3
    assert not source.is_picklable
    assert source.names == ("TensorDataset",)


def test_an_empty_dataset_has_no_shards() -> None:
    assert list(TorchDatasetSource(Listed([])).shards) == []


def test_class_names_are_found_through_wrappers() -> None:
    dataset = fake()
    dataset.classes = ["ant", "bee", "cat"]
    names = {0: "ant", 1: "bee", 2: "cat"}
    assert TorchDatasetSource(dataset).class_names == names
    assert TorchDatasetSource(Subset(dataset, [1])).class_names == names
    assert TorchDatasetSource(ConcatDataset([dataset, dataset])).class_names == names
    assert TorchDatasetSource(ConcatDataset([dataset, fake()])).class_names is None


def test_class_names_follow_their_numbers_and_synonyms_are_joined() -> None:
    dataset = Listed(grey_items())
    dataset.classes, dataset.class_to_idx = ["b", "a"], {"a": 0, "b": 1}  # type: ignore[attr-defined]
    assert TorchDatasetSource(dataset).class_names == {1: "b", 0: "a"}
    imagenet = Listed(grey_items())
    imagenet.classes = [("tench", "Tinca tinca"), ("goldfish",)]  # type: ignore[attr-defined]
    assert TorchDatasetSource(imagenet).class_names == {0: "tench, Tinca tinca", 1: "goldfish"}


def test_hugging_face_data_are_read_with_their_class_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee"]))
    images = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in range(4)]
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    source = TorchDatasetSource(dataset)
    assert samples(source) == [(str(i), i % 2, bytes([i] * 48)) for i in range(4)]
    assert source.class_names == {0: "ant", 1: "bee"}


def modules_after(statements: str) -> str:
    script = f"import sys; {statements}; print('torch' in sys.modules, 'torchvision' in sys.modules)"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_reading_arrays_loads_no_torch() -> None:
    statements = (
        "import numpy as np; from vbdguard.sources.torch_dataset import TorchDatasetSource as S; "
        "s = S([(np.zeros((4, 4), np.uint8), 0)] * 3); assert len(list(s.shards[0].read())) == 3"
    )
    assert modules_after(statements) == "False False"


def test_the_check_for_loaded_modules_can_fail() -> None:
    assert modules_after("import torch") == "True False"
