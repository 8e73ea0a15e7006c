"""Folders, patterns, URLs and files that stand for others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_corpus.making import Case, case, png, shard, tar, whole

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def folder_with(spoil: Callable[[Path], object]) -> Callable[[Path], str]:
    """A folder of images of two classes, spoilt."""

    def write(folder: Path) -> str:
        for number in range(40):
            path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(number))
        spoil(folder)
        return str(folder)

    return write


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)


def made(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "named-pipe": (lambda root: os.mkfifo(root / "cat" / "x.png"), "not-a-file"),
    "link-to-nowhere": (lambda root: (root / "cat" / "x.png").symlink_to("nowhere"), "io-error"),
    "link-to-a-device": (lambda root: (root / "cat" / "x.png").symlink_to("/dev/zero"), "not-a-file"),
    "link-to-itself": (lambda root: (root / "cat" / "x.png").symlink_to(root / "cat" / "x.png"), "io-error"),
    "file-of-gigabytes": (lambda root: sparse(root / "cat" / "x.png"), "too-large"),
    "empty-file": (lambda root: made(root / "cat" / "x.png"), "undecodable"),
    "pointer": (lambda root: made(root / "cat" / "x.png", LFS), "git-lfs-pointer"),
    "control-characters": (lambda root: made(root / "cat" / "\x1b[2J\n.png"), "undecodable"),
    "class-not-fetched": (lambda root: made(root / "cow.dvc"), "dvc-pointer"),
    "hidden-class": (lambda root: made(root / ".hidden" / "x.png", png()), "SourceError"),
    "metadata-beside-classes": (lambda root: made(root / "metadata.csv", b"file_name,label\n"), "SourceError"),
}

SHARDS = {
    "pointer": (LFS, "bad.tar", "git-lfs-pointer"),
    "annex-pointer": (b"/annex/objects/MD5E-s1--0\n", "bad.tar", "git-annex-pointer"),
    "pointer-of-another-name": (LFS, "bad", "git-lfs-pointer"),
    "parquet-among-tars": (b"PAR1" * 4, "bad.parquet", "SourceError"),
    "image-among-tars": (png(), "bad.png", "SourceError"),
    "not-fetched": (b"outs:\n- md5: 00\n  path: bad.tar\n", "bad.tar.dvc", "dvc-pointer"),
}

NAMES = {
    "pipe": "pipe:touch canary",
    "pipe-behind-a-path": "a.tar::pipe:touch canary",
    "pipe-in-braces": "{pipe:touch canary,a.tar}",
    "pipe-behind-a-blank": " pipe:touch canary",
    "braces-without-end": "train-{0..99999999999999}.tar",
    "braces-nested": "{a,b}" * 40,
    "braces-deep": "{" * 200 + "a,b" + "}" * 200,
    "braces-open": "train-{0..3.tar",
    "braces-of-kilobytes": "{a,b}" * 2000,
    "reference": "reference://refs.json",
    "zip": "zip://a.tar",
    "ssh": "ssh://user:secret@host/a.tar",
    "generic": "generic://a.tar",
    "simplecache": "simplecache://a.tar",
    "dask": "dask://a.tar",
    "unknown-scheme": "x-y://a/b.tar",
    "missing": "/nowhere/a.tar",
    "nul": "a\0.tar",
    "device": "/dev/zero",
    "name-of-5000": "x" * 4500 + ".tar",
}


def _cases() -> Iterator[Case]:
    for name, (spoil, expected) in FOLDERS.items():
        yield case(f"folder-{name}", folder_with(spoil), expected)
    for name, (content, file, expected) in SHARDS.items():
        yield case(f"shards-{name}", shard(content, file), expected)
    for name, source in NAMES.items():
        yield case(f"name-{name}", lambda _, source=source: source, "SourceError")
    yield case("shards-link-to-nowhere", _link("nowhere"), "io-error")
    yield case("shards-two-splits", _splits, "SourceError")
    yield case("folder-deep-classes", _deep, "SourceError")


def _link(target: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "bad.tar").symlink_to(target)
        (folder / "good.tar").write_bytes(tar(whole()))
        return str(folder)

    return write


def _splits(folder: Path) -> str:
    for split in ("train", "test"):
        (folder / f"{split}-0.tar").write_bytes(tar(whole()))
    return str(folder)


def _deep(folder: Path) -> str:
    for number in range(20):
        made(folder / "cat" / ("x", "y")[number % 2] / f"{number}.png", png(number))
        made(folder / "dog" / ("x", "y")[number % 2] / f"{number}.png", png(100 + number))
    return str(folder)


CASES = tuple(_cases())
