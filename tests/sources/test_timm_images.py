"""timm's dataset is scanned untransformed, and a broken file is seen as broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageDataset

from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.timm_images import TimmImages, is_timm_dataset
from vbdguard.sources.torch_dataset import TorchDatasetSource

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, pixels in enumerate(PIXELS):
        path = tmp_path / ("ant", "bee")[number // 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path


def scanned(dataset: ImageDataset) -> list[RawSample | Unreadable]:
    return [entry for shard in TorchDatasetSource(dataset).shards for entry in shard.read()]


def test_pixels_and_classes_are_those_of_the_files(folder: Path) -> None:
    dataset = ImageDataset(str(folder), transform=lambda image: 1 / 0, target_transform=lambda label: 1 / 0)
    entries = scanned(dataset)  # an open file would be a warning, and so an error
    np.testing.assert_array_equal([entry.image for entry in entries], PIXELS)
    assert [entry.label for entry in entries] == [0, 0, 1, 1]


def test_a_broken_file_is_named_and_not_replaced(folder: Path) -> None:
    (folder / "ant" / "1.png").write_bytes(b"no picture")
    entries = scanned(ImageDataset(str(folder)))
    assert [type(entry) for entry in entries] == [RawSample, Unreadable, RawSample, RawSample]


def test_images_come_in_the_mode_that_training_gets(folder: Path) -> None:
    assert TimmImages(ImageDataset(str(folder), input_img_mode="L"))[0][0].mode == "L"
    assert TimmImages(ImageDataset(str(folder), input_img_mode=None))[0][0].mode == "RGB"


def test_a_sample_without_a_class_is_not_class_0() -> None:
    class Unlabelled:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[object, None]:
            import io

            file = io.BytesIO()
            Image.fromarray(PIXELS[0]).save(file, "PNG")
            return io.BytesIO(file.getvalue()), None

    assert TimmImages(ImageDataset("", reader=Unlabelled()))[0][1] == -1


def test_a_subclass_is_not_taken_for_timms(folder: Path) -> None:
    assert is_timm_dataset(ImageDataset(str(folder)))
    assert not is_timm_dataset(type("Own", (ImageDataset,), {})(str(folder)))
