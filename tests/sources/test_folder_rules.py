"""Folders of images by torchvision's rule and by Hugging Face's, each compared with the library itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from vbdguard.errors import NothingToScanError, SourceError
from vbdguard.sources.base import RawSample
from vbdguard.sources.folder import IMAGE_SUFFIXES, MORE_SUFFIXES, open_folder
from vbdguard.sources.opening import open_source

Png = Callable[..., bytes]


def fill(root: Path, png: Png, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number))
    return root


def labels(source: object) -> dict[str, object]:
    entries = [entry for shard in source.shards for entry in shard.read()]  # type: ignore[attr-defined]
    return {entry.key: entry.label for entry in entries if isinstance(entry, RawSample)}


def by_hugging_face(root: Path, cache: Path) -> dict[str, str]:
    import datasets

    loaded = datasets.load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(cache))
    names = loaded.features["label"].names
    rows = loaded.cast_column("image", datasets.Image(decode=False))
    return {str(Path(row["image"]["path"]).relative_to(root)): names[row["label"]] for row in rows}


DEEP = ("cat/x/1.png", "cat/y/2.png", "dog/z/3.png")


def test_both_rules_are_those_of_the_libraries(tmp_path: Path, png: Png) -> None:
    from torchvision.datasets import ImageFolder

    root = fill(tmp_path / "set", png, *DEEP)
    theirs = ImageFolder(str(root))
    assert labels(open_folder(str(root), rule="torchvision")) == {
        str(Path(path).relative_to(root)): theirs.classes[label] for path, label in theirs.samples
    }
    source = open_folder(str(root), rule="huggingface")
    assert labels(source) == by_hugging_face(root, tmp_path / "cache")
    assert source.class_names == {0: "x", 1: "y", 2: "z"}


def test_every_suffix_is_looked_at_that_hugging_face_loads_images_by() -> None:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    assert set(ImageFolder.EXTENSIONS) <= {*IMAGE_SUFFIXES, *MORE_SUFFIXES}


def test_hidden_files_are_nobodys_for_hugging_face(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path / "set", png, "cat/1.png", "cat/.2.png", "dog/3.png", ".tmp/4.png", "__x__/5.png")
    assert labels(open_folder(str(root), rule="huggingface")) == by_hugging_face(root, tmp_path / "cache")


@pytest.mark.parametrize(
    "paths", [DEEP, ("cat/1.png", "dog/2.png", ".ipynb_checkpoints/3.png"), ("cat/1.png", "dog/2.gif", "dog/3.png")]
)
def test_where_the_rules_differ_the_scan_asks(tmp_path: Path, png: Png, paths: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match=r"do not give it the same labels: .*--folder-rule torchvision"):
        open_source(fill(tmp_path, png, *paths))
    assert labels(open_source(tmp_path, folder_rule="torchvision"))


@pytest.mark.parametrize(
    "paths",
    [("cat/1.png", "dog/2.png"), ("cat/1.png", "cat/deep/2.png", "dog/3.png"), ("cat/1.png", "dog/2.png", "3.png")],
)
def test_where_they_agree_or_one_gives_no_labels_nobody_is_asked(
    tmp_path: Path, png: Png, paths: tuple[str, ...]
) -> None:
    source = open_source(fill(tmp_path, png, *paths))
    assert labels(source) == {path: path.split("/")[0] for path in paths if "/" in path}


def test_metadata_are_labels_for_hugging_face_only(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path, png, "cat/1.png", "dog/2.png")
    (root / "metadata.csv").write_text("file_name,label\ncat/1.png,0\ndog/2.png,0\n")
    with pytest.raises(SourceError, match=r"takes labels from .*metadata\.csv"):
        open_source(root)
    assert labels(open_source(root, folder_rule="torchvision")) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    assert labels(open_source(root, folder_rule="huggingface")) == {"cat/1.png": 0, "dog/2.png": 0}


def test_images_without_class_folders_take_the_labels_of_the_metadata(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path, png, "1.png", "2.png")
    (root / "metadata.jsonl").write_text('{"file_name": "1.png", "label": 0}\n{"file_name": "2.png", "label": 1}\n')
    assert labels(open_source(root)) == {"1.png": 0, "2.png": 1}


def test_folder_behind_a_url_reads_as_the_folder_does(tmp_path: Path, png: Png) -> None:
    root = fill(tmp_path / "set", png, "cat/2.png", "cat/1.png", "dog/3.png", "dog/notes.txt")
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/folders/set", recursive=True)
    local, remote = open_source(root), open_source("memory://folders/set")
    assert [(e.key, e.image, e.label) for s in remote.shards for e in s.read()] == [  # type: ignore[union-attr]
        (e.key, e.image, e.label)
        for s in local.shards
        for e in s.read()  # type: ignore[union-attr]
    ]
    assert remote.class_names == local.class_names
    assert not remote.is_picklable
    memory.pipe("/folders/empty/readme.txt", b"x")
    with pytest.raises(NothingToScanError):
        open_source("memory://folders/empty")
