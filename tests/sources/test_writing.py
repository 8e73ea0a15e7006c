from __future__ import annotations

import gc
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vbdguard.errors import ConfigError, SourceError
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import ShardWriter, encode_image, image_suffix, staged_folder, write_shards

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def encoded(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, image_format)
    return file.getvalue()


def samples(count: int) -> Iterator[RawSample]:
    for index in range(count):
        yield RawSample(f"img_{index}", np.full((16, 16, 3), index, dtype=np.uint8), index % 3)


# webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_webdataset_reads_back_what_was_written(tmp_path: Path) -> None:
    import webdataset

    written = write_shards(samples(7), tmp_path / "out", per_shard=3)
    assert [path.name for path in written.shards] == [f"train-{n:06d}.tar" for n in range(3)]
    assert written.samples == 7
    urls = [str(path) for path in written.shards]
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
    read = [(sample["__key__"], sample["png"], sample["cls"]) for sample in dataset]
    del dataset
    gc.collect()
    assert [(key, label) for key, _, label in read] == [(f"img_{n}", n % 3) for n in range(7)]
    assert all((image == index).all() for index, (_, image, _) in enumerate(read))


@pytest.mark.parametrize(
    ("image_format", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp")]
)
def test_encoded_images_keep_their_bytes_and_get_their_suffix(tmp_path: Path, image_format: str, suffix: str) -> None:
    data = encoded(image_format)
    written = write_shards([RawSample("a.JPG", data, 4)], tmp_path / "out")
    with tarfile.open(written.shards[0]) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert members == {f"a.{suffix}": data, "a.cls": b"4"}


@pytest.mark.parametrize("image_format", ["TIFF", "PPM"])
def test_the_suffix_is_told_by_content(image_format: str) -> None:
    assert image_suffix(encoded(image_format), "x") == {"TIFF": "tif", "PPM": "ppm"}[image_format]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_shards(samples(5), tmp_path / name).shards[0].read_bytes() for name in "ab")
    assert first == second
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_keys_lose_shard_dots_and_folders_and_stay_unique(tmp_path: Path) -> None:
    names = [
        "train-000003.tar/cat",
        "train-000004.tar/cat",
        "train-000005.tar/cat",
        "cat-2",
        "dogs/01.v2.png",
        "日本",
        "é",
    ]
    with ShardWriter(tmp_path) as writer:
        keys = [writer.add(RawSample(name, PIXELS, 0)).key for name in names]
    stems = [key.removeprefix("train-000000.tar/") for key in keys]
    assert stems == ["cat", "cat-2", "cat-3", "cat-2-2", "dogs_01_v2", "sample", "sample-2"]
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert [Path(name).stem for name in tar.getnames()[::2]] == stems


def test_a_very_long_key_still_fits_the_header(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        keys = {writer.add(RawSample("k" * 300, PIXELS, 0)).key for _ in range(3)}
    assert len(keys) == 3


def test_written_samples_carry_the_bytes_in_the_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        sample = writer.add(RawSample("a", PIXELS, 1))
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert tar.extractfile("a.png").read() == sample.image  # type: ignore[union-attr]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.image))), PIXELS)


def test_a_full_or_wrong_destination_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    with pytest.raises(SourceError, match="holds files"):
        write_shards(samples(1), tmp_path / "full")
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"
    with pytest.raises(SourceError, match="this is a file"):
        write_shards(samples(1), tmp_path / "full" / "precious.txt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SourceError, match="current folder"):
        write_shards(samples(1), Path())


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert write_shards(samples(1), tmp_path / "empty").shards[0].is_file()
    assert write_shards(samples(1), tmp_path / "some" / "where").shards[0].is_file()


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (RawSample("x", PIXELS, "cat"), "x: shards hold class numbers from 0, got the label 'cat'"),
        (RawSample("x", PIXELS, -1), "got the label -1"),
        (RawSample("x", b"GIF89a....", 0), "x: expected a JPEG, PNG"),
    ],
)
def test_a_sample_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, sample: RawSample, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        write_shards([*samples(3), sample], tmp_path / "out", per_shard=2)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_drops_the_shard_in_work_on_errors(tmp_path: Path) -> None:
    def failing() -> None:
        with ShardWriter(tmp_path, per_shard=2) as writer:
            for sample in samples(3):
                writer.add(sample)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar"]


def test_png_is_lossless_and_jpeg_halves_the_chroma() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(PIXELS)))), PIXELS)
    with Image.open(io.BytesIO(encode_image(PIXELS, jpeg_quality=90))) as image:
        assert image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JPEG quality"):
        encode_image(PIXELS, jpeg_quality=101)
    with pytest.raises(ConfigError, match="per_shard"):
        write_shards(samples(1), tmp_path / "out", per_shard=0)
    assert not (tmp_path / "out").exists()
