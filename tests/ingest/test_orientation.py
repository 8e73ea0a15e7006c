"""EXIF orientation, against the readers that train: Hugging Face `datasets`, torchvision and webdataset."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from vbdguard.guards.stream_source import StreamSource
from vbdguard.ingest.decode import decode_image, image_size
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.sources.opening import open_source

ORIENTATION = 0x0112
RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (6, 9, 3), np.uint8)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

Pixels = NDArray[np.uint8]


def encoded(orientation: int | None, suffix: str = "PNG", pixels: Pixels = PIXELS, **options: object) -> bytes:
    buffer = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    Image.fromarray(pixels).save(buffer, suffix, **options)
    return buffer.getvalue()


def as_datasets_sees_it(data: bytes) -> Pixels:
    return np.asarray(datasets.Image().decode_example({"bytes": data, "path": None}).convert("RGB"))


def as_torchvision_sees_it(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))  # what its pil_loader does; see the folder below


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_every_orientation_is_seen_as_the_libraries_see_it(suffix: str, orientation: int | None) -> None:
    data = encoded(orientation, suffix)
    np.testing.assert_array_equal(decode_image(data, exif="turned"), as_datasets_sees_it(data))
    np.testing.assert_array_equal(decode_image(data), as_torchvision_sees_it(data))
    assert image_size(data, exif="turned") == as_datasets_sees_it(data).shape[:2]
    assert image_size(data) == as_torchvision_sees_it(data).shape[:2]


def test_orientation_in_xmp_counts_too() -> None:
    data = encoded(None, "JPEG", xmp=XMP)
    assert as_datasets_sees_it(data).shape == (9, 6, 3)
    np.testing.assert_array_equal(decode_image(data, exif="turned"), as_datasets_sees_it(data))
    np.testing.assert_array_equal(decode_image(data), as_torchvision_sees_it(data))


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16"])
def test_pictures_of_other_modes_are_turned_as_well(mode: str) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = 8
    grey = Image.fromarray(PIXELS[..., 0])
    picture = Image.fromarray(PIXELS[..., 0].astype(np.uint16) << 8) if mode == "I;16" else grey.convert(mode)
    picture.save(buffer, "PNG", exif=exif)
    stored = decode_image(buffer.getvalue())
    np.testing.assert_array_equal(decode_image(buffer.getvalue(), exif="turned"), np.rot90(stored))


def test_an_image_is_turned_before_it_is_made_to_fit() -> None:
    upright = encoded(None, pixels=np.ascontiguousarray(np.rot90(PIXELS, -1)))
    np.testing.assert_array_equal(decode_image(encoded(6), (18, 6), exif="turned"), decode_image(upright, (18, 6)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, to which datasets listens as little
def test_broken_exif_data_hide_nothing_from_one_reader_only() -> None:
    data = encoded(None, "JPEG", xmp=XMP, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode_image(data, exif="turned"), as_datasets_sees_it(data))
    np.testing.assert_array_equal(decode_image(data), as_torchvision_sees_it(data))


# Sources


@pytest.fixture
def store_dir(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def images() -> list[bytes]:
    """A picture for each orientation, no two alike."""
    return [encoded(orientation, pixels=RNG.integers(0, 256, (6, 9, 3), np.uint8)) for orientation in range(1, 9)]


@pytest.fixture
def folder(tmp_path: Path, images: list[bytes]) -> Path:
    for number, image in enumerate(images):
        path = tmp_path / "folder" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return tmp_path / "folder"


def rows(images: list[bytes]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [{"bytes": one, "path": None} for one in images], "label": [n % 2 for n in range(len(images))]}
    return datasets.Dataset.from_dict(columns, features=features)


def seen(done: Ingested) -> set[bytes]:
    assert done.status == "complete"
    return {image.tobytes() for image in done.store.gather(np.arange(len(done.store)))}


def trained(pictures: list[Pixels], size: tuple[int, int]) -> set[bytes]:
    return {decode_image(picture, size).tobytes() for picture in pictures}


@pytest.mark.parametrize("kind", ["parquet", "arrow", "metadata"])
def test_what_hugging_face_reads_is_seen_as_hugging_face_shows_it(
    tmp_path: Path, folder: Path, images: list[bytes], kind: str, store_dir: Path
) -> None:
    path = tmp_path / "data.parquet"
    if kind == "parquet":
        rows(images).to_parquet(path)
    elif kind == "arrow":
        path = tmp_path / "saved"
        rows(images).save_to_disk(path)
    else:
        lines = [f"{'ab'[number % 2]}/{number}.png,{number % 2}" for number in range(len(images))]
        path = folder / "metadata.csv"
        path.write_text("\n".join(["file_name,label", *lines]))
    done = ingest(path, store_dir=store_dir)
    assert seen(done) == trained([as_datasets_sees_it(one) for one in images], done.store.image_shape[:2])


def test_a_folder_is_seen_as_its_rule_says(folder: Path, store_dir: Path) -> None:
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(store_dir / "hf"))
    by_rule = {
        "huggingface": [np.asarray(row["image"].convert("RGB")) for row in theirs],
        "torchvision": [np.asarray(image) for image, _ in ImageFolder(str(folder))],
        None: [np.asarray(image) for image, _ in ImageFolder(str(folder))],
    }
    digests = {}
    for rule, pictures in by_rule.items():
        done = ingest(open_source(folder, folder_rule=rule), store_dir=store_dir)
        assert seen(done) == trained(pictures, done.store.image_shape[:2])
        digests[rule] = (done.dataset_digest, done.judged)
    assert digests["torchvision"] == digests[None] != digests["huggingface"]


def test_a_shard_is_seen_as_webdataset_shows_it(tmp_path: Path, images: list[bytes], store_dir: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number, image in enumerate(images):
            for suffix, content in (("png", image), ("cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    # From a list of raw samples: its reader of files leaves them open.
    stream = map(webdataset.imagehandler("pil"), ["png"] * len(images), images)
    done = ingest(tmp_path / "shard.tar", store_dir=store_dir)
    assert seen(done) == trained([np.asarray(image) for image in stream], done.store.image_shape[:2])


def test_an_undecoded_stream_is_seen_as_its_library_will_decode_it(images: list[bytes], store_dir: Path) -> None:
    pairs = [(image, number % 2) for number, image in enumerate(images)]
    stored, turned = (ingest(StreamSource(pairs, exif=exif), store_dir=store_dir) for exif in ("stored", "turned"))
    assert seen(turned) == trained([as_datasets_sees_it(one) for one in images], turned.store.image_shape[:2])
    assert seen(stored) == trained([as_torchvision_sees_it(one) for one in images], stored.store.image_shape[:2])


# Identity


def test_the_rule_is_part_of_the_digest_where_it_changes_what_is_seen(
    tmp_path: Path, images: list[bytes], store_dir: Path
) -> None:
    upright = [encoded(1, pixels=RNG.integers(0, 256, (6, 9, 3), np.uint8)) for _ in range(6)]
    for name, content in (("some", images), ("none", upright)):
        pairs = [(image, number % 2) for number, image in enumerate(content)]
        rows(content).to_parquet(tmp_path / f"{name}.parquet")
        stored = ingest(StreamSource(pairs), store_dir=store_dir)
        for _ in range(2):  # from the image, then from the store
            turned = ingest(tmp_path / f"{name}.parquet", store_dir=store_dir)
            assert (turned.dataset_digest == stored.dataset_digest) == (name == "none")
            np.testing.assert_array_equal(turned.store.digests, stored.store.digests)
