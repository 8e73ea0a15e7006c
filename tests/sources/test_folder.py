"""ImageFolder: torchvision's samples, in torchvision's order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vbdguard.errors import NothingToScanError, SourceError
from vbdguard.sources import folder
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.folder import open_folder

Png = Callable[..., bytes]


def fill(root: Path, png: Png, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number))
    return root


def read(root: Path) -> list[RawSample | Unreadable]:
    return [entry for shard in open_folder(str(root)).shards for entry in shard.read()]


def test_samples_order_and_classes_are_those_of_torchvision(tmp_path: Path, png: Png) -> None:
    from torchvision.datasets import ImageFolder

    root = fill(
        tmp_path,
        png,
        *("cat/b.png", "cat/a.JPG", "cat/sub/x.png", "cat/Sub/y.webp", "10/1.bmp", "2/1.ppm", ".dots/1.png"),
        *("cat/notes.txt", "cat/.hidden.png", "cat/sub.png", "loose.png", "dog/deep/er/1.tiff"),
    )
    (root / "linked").symlink_to(root / "dog")
    source, theirs = open_folder(str(root)), ImageFolder(str(root))
    ours = [(str(root / entry.key), entry.label) for entry in read(root) if isinstance(entry, RawSample)]
    assert ours == [(path, theirs.classes[label]) for path, label in theirs.samples]
    assert source.class_names == dict(enumerate(theirs.classes))


def test_bytes_are_those_of_the_file(tmp_path: Path, png: Png) -> None:
    [entry, _] = read(fill(tmp_path, png, "a/1.png", "b/1.png"))
    assert entry == RawSample("a/1.png", png(0), "a")


def test_long_folders_are_cut_into_slices(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "FILES_PER_SHARD", 2)
    root = fill(tmp_path / "set", png, "a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png")
    source = open_folder(str(root))
    assert [shard.name for shard in source.shards] == ["set#000000", "set#000001", "set#000002"]
    assert [entry.key for entry in read(root)] == ["a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png"]
    assert all(shard.digest() is None for shard in source.shards)


def test_unreadable_files_are_named(tmp_path: Path, png: Png, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path, png, "a/1.png", "b/1.png", "b/2.png")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "gone.png").symlink_to(root / "nowhere")
    monkeypatch.setattr(folder, "MAX_MEMBER", (root / "b" / "1.png").stat().st_size - 1)
    (root / "b" / "2.png").write_bytes(b"small")
    found = {entry.key: getattr(entry, "reason", "") for entry in read(root)}
    assert found["a/pipe.png"] == "not-a-file"
    assert found["a/gone.png"] == "io-error"
    assert found["b/1.png"] == "too-large"
    assert found["b/2.png"] == ""


def test_a_link_in_a_circle_is_refused(tmp_path: Path, png: Png) -> None:
    """torchvision follows it: all samples come again, under the class that holds the link."""
    root = fill(tmp_path, png, "a/1.png", "b/1.png")
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(SourceError, match="remove the link"):
        open_folder(str(root))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path, png, "a/1.png", "b/closed/1.png")
    (root / "b" / "closed").chmod(0)
    try:
        with pytest.raises(SourceError, match="cannot list"):
            open_folder(str(root))
    finally:
        (root / "b" / "closed").chmod(0o700)


def test_images_without_class_folders_are_nothing_to_scan(tmp_path: Path, png: Png) -> None:
    with pytest.raises(NothingToScanError, match="one folder per class"):
        open_folder(str(fill(tmp_path, png, "1.png", "2.png")))


def test_splits_are_not_taken_for_classes(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path, png, "train/a/1.png", "val/a/1.png")
    with pytest.raises(SourceError, match="splits train, val"):
        open_folder(str(root))
    assert open_folder(str(root / "train")).class_names == {0: "a"}
