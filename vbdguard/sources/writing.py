"""Writing WebDataset shards that are the same bytes each time they are written.

A set of shards appears whole or not at all: it is written into a hidden folder beside its place and renamed.
"""

from __future__ import annotations

import io
import re
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vbdguard.errors import ConfigError, SourceError
from vbdguard.sources.base import RawSample

_SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"BM"), "bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), "tif"),
    (re.compile(rb"P[36]\s"), "ppm"),
    (re.compile(rb"P[25]\s"), "pgm"),
)
_IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?|p[pgn]m)$", re.IGNORECASE)
_CONTAINER = re.compile(r"^.*\.(tar|tar\.gz|tgz|parquet)/", re.IGNORECASE)
_KEY_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_KEY_LENGTH = 80
"""A tar header holds 100 bytes of name; this leaves room for a number and a suffix."""


@dataclass(frozen=True, slots=True)
class WrittenSample:
    """Where a sample went and what of it was written."""

    key: str
    """`<shard file>/<key>`, as a scan of the shards will name it."""
    image: bytes
    """The encoded image."""
    label: int


@dataclass(frozen=True, slots=True)
class WrittenShards:
    """What `write_shards` wrote."""

    shards: tuple[Path, ...]
    samples: int


class ShardWriter:
    """A context that writes samples as WebDataset shards `<prefix>-000000.tar`, ... into a folder.

    Each sample becomes `<key>.<image suffix>` and `<key>.cls`. Times and owners in the headers are zero. A shard is
    written aside and put in place when it is full; leaving the context by an error drops the one in work.

    Args:
        folder: an existing folder.
        per_shard: samples in a shard, at least 1.
        prefix: start of the shards' names.

    Raises:
        ConfigError: if `per_shard` is below 1.
    """

    def __init__(self, folder: Path, *, per_shard: int = 5000, prefix: str = "train") -> None:
        if per_shard < 1:
            raise ConfigError(f"per_shard must be at least 1, got {per_shard}")
        self._folder = folder
        self._per_shard = per_shard
        self._prefix = prefix
        self._tar: tarfile.TarFile | None = None
        self._keys: dict[str, int] = {}
        self._shards: list[Path] = []
        self._samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_shard()
        elif self._tar is not None:
            self._tar.close()
            self._aside(self._shards[-1]).unlink(missing_ok=True)

    @property
    def written(self) -> WrittenShards:
        """The shards and samples so far."""
        return WrittenShards(tuple(self._shards), self._samples)

    def add(self, sample: RawSample) -> WrittenSample:
        """Append one sample; bytes are written as they are, pixels as PNG.

        Raises:
            SourceError: if the label is not a class number or the bytes are no image that shards hold.
        """
        if isinstance(sample.label, str) or sample.label < 0:
            raise SourceError(f"{sample.key}: shards hold class numbers from 0, got the label {sample.label!r}")
        image = sample.image if isinstance(sample.image, bytes) else encode_image(sample.image)
        suffix = image_suffix(image, sample.key)
        tar = self._current_shard()
        key = self._unused_key(sample.key)
        _add_member(tar, f"{key}.{suffix}", image)
        _add_member(tar, f"{key}.cls", str(int(sample.label)).encode())
        self._samples += 1
        return WrittenSample(f"{self._shards[-1].name}/{key}", image, int(sample.label))

    def _current_shard(self) -> tarfile.TarFile:
        if self._tar is not None and len(self._keys) == self._per_shard:
            self._finish_shard()
        if self._tar is None:
            path = self._folder / f"{self._prefix}-{len(self._shards):06d}.tar"
            self._tar = tarfile.open(self._aside(path), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - lives on
            self._shards.append(path)
        return self._tar

    def _finish_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        self._keys = {}
        self._aside(self._shards[-1]).replace(self._shards[-1])

    def _unused_key(self, wanted: str) -> str:
        """Return the key as WebDataset can hold it: no shard name, no dots, no folders, once in a shard."""
        tail = _IMAGE_SUFFIX.sub("", _CONTAINER.sub("", wanted))
        plain = _KEY_UNSAFE.sub("_", tail)[-_KEY_LENGTH:].strip("_") or "sample"
        key, number = plain, self._keys.get(plain, 1)
        while key in self._keys:
            number += 1
            key = f"{plain}-{number}"
        self._keys[plain] = number
        self._keys[key] = 1
        return key

    @staticmethod
    def _aside(path: Path) -> Path:
        return path.with_name(f".{path.name}.partial")


def write_shards(
    samples: Iterable[RawSample], dest: Path, *, per_shard: int = 5000, prefix: str = "train"
) -> WrittenShards:
    """Write samples as WebDataset shards into a new folder and return what was written.

    Args:
        samples: class numbers as labels, each image as encoded bytes or as uint8 pixels (written as PNG).
        dest: a folder that does not exist yet or is empty.
        per_shard: samples in a shard, at least 1.
        prefix: start of the shards' names.

    Raises:
        SourceError: if `dest` is not empty, or a sample cannot be written; nothing is left behind.
        ConfigError: if `per_shard` is below 1.
    """
    with staged_folder(dest) as folder, ShardWriter(folder, per_shard=per_shard, prefix=prefix) as writer:
        for sample in samples:
            writer.add(sample)
    shards = tuple(dest / path.name for path in writer.written.shards)
    return WrittenShards(shards, writer.written.samples)


@contextmanager
def staged_folder(dest: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `dest` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        SourceError: if `dest` exists and is not an empty folder, or its parent cannot be written to.
    """
    check_writable_folder(dest)
    target = dest.resolve()
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise SourceError(f"{dest}: cannot write there ({error.strerror}); choose another folder") from error
    try:
        yield aside
        if target.exists():
            target.rmdir()
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def check_writable_folder(dest: Path) -> None:
    """Check early that shards may be written into `dest`.

    Raises:
        SourceError: if it exists and is not an empty folder, or is the current folder.
    """
    if dest.resolve() == Path.cwd():
        raise SourceError(f"{dest}: the current folder cannot be replaced; name a new one")
    if dest.is_dir():
        if any(dest.iterdir()):
            raise SourceError(f"{dest}: expected a new or empty folder, this one holds files; choose another")
    elif dest.exists() or dest.is_symlink():
        raise SourceError(f"{dest}: expected a new or empty folder, this is a file; choose another")


def encode_image(pixels: NDArray[np.uint8], *, jpeg_quality: int | None = None) -> bytes:
    """Return uint8 pixels (H, W) or (H, W, 3) as a PNG, or as a JPEG with halved chroma (4:2:0).

    Args:
        pixels: 0 to 255, grey or RGB.
        jpeg_quality: 1 to 95; None keeps every pixel by writing a PNG.

    Raises:
        ConfigError: if the quality is out of range.
    """
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 95:
        raise ConfigError(f"JPEG quality must be 1 to 95, got {jpeg_quality}")
    file = io.BytesIO()
    if jpeg_quality is None:
        # The fastest setting: small images gain next to nothing from a longer search.
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=jpeg_quality, subsampling="4:2:0")
    return file.getvalue()


def image_suffix(image: bytes, key: str) -> str:
    """Return the member suffix for encoded bytes, told by their content.

    Args:
        image: an encoded image.
        key: the sample's name, for the message.

    Raises:
        SourceError: if it is none of JPEG, PNG, WebP, BMP, TIFF, PPM, PGM.
    """
    for signature, suffix in _SIGNATURES:
        if signature.match(image):
            return suffix
    raise SourceError(f"{key}: expected a JPEG, PNG, WebP, BMP, TIFF, PPM or PGM image, got {bytes(image[:8])!r}...")


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # mode 0644, and zero for time and owner
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
