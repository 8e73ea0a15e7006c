"""npz files: an array of images and one of labels, read row by row and never unpickled."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray

from vbdguard.errors import ReadError, damage
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.compression import ALLOWANCE, MAX_RATIO
from vbdguard.sources.faults import within_faults
from vbdguard.sources.files import file_digest, open_binary
from vbdguard.sources.labels import MAX_CLASS_NAME, checked_label
from vbdguard.sources.tar_members import MAX_MEMBER

ZIP_MAGIC = b"PK\x03\x04"
PAIRS = (("images", "labels"), ("image", "label"), ("x", "y"), ("data", "labels"), ("data", "targets"))
"""Names of the two arrays, which may have the name of a split before or behind them: `x_train`, `train_labels`."""
MAX_ENTRIES = 1000
MAX_DIRECTORY = 1 << 20
"""Bytes of the archive's list of entries."""
MAX_HEADER = 10_000
"""Bytes of an array's header, which Python's parser reads."""
MAX_LABELS = 256 << 20
"""Bytes of the labels, which are held at once."""

_SPLIT = re.compile(r"(?:(train|test|val|valid|validation)_)?([a-z]+?)(?:_(train|test|val|valid|validation))?")


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(slots=True)
class NpzShard:
    """One npz file.

    Args:
        path: a local path or an fsspec URL.
        name: the shard's name in the report.
        label_key: the name of the array of labels, which also chooses its images; None takes the only pair there is.
    """

    path: str
    name: str
    label_key: str | None = None
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """Return the hex BLAKE3 of the file as it stands.

        Raises:
            ReadError: "io-error".
        """
        self._digest = file_digest(self.path)
        return self._digest

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the images with their labels; the last entry tells if the file broke off.

        Raises:
            ReadError: "corrupt", "pickle", "bomb", "no-image-array", "no-label-array", "unsupported", "too-large",
                "io-error", or "changed" where the bytes are not those of `digest()`.
        """
        with _opened(self.path) as archive:
            images, labels = _pair([info.filename for info in archive.infolist()], self.label_key)
            classes = _labels(archive, labels)
            with archive.open(images) as stream:
                header = _header(stream, images)
                _check_images(header, len(classes), archive.getinfo(images).file_size)
                try:
                    yield from within_faults(self._rows(stream, header, classes))
                except ReadError as error:
                    yield Unreadable(self.name, error.reason, error.detail, is_shard=True)
                except _DAMAGE as error:
                    found = damage(error, f"the array {images}")
                    yield Unreadable(self.name, found.reason, found.detail, is_shard=True)
        if self._digest not in (None, file_digest(self.path)):
            raise ReadError("changed", f"{self.name} changed while it was read; scan again once it is at rest")

    def _rows(
        self, stream: IO[bytes], header: _Header, classes: NDArray[np.generic]
    ) -> Iterator[RawSample | Unreadable]:
        shape = header.shape[1:]
        for row, value in enumerate(classes.tolist()):
            pixels = np.frombuffer(_exactly(stream, prod(shape)), np.uint8).reshape(shape)
            key = f"{self.name}/{row}"
            try:
                label = checked_label(value, "the labels")
                if label is None:
                    raise ReadError("no-label", "expected a label, got none")
                yield RawSample(key, _channels_last(pixels), label)
            except ReadError as error:
                yield Unreadable(key, error.reason, error.detail)
        if stream.read(1):  # at its end the archive's checksum is looked at
            raise ReadError("corrupt", "expected the end of the array, got more")


_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, ValueError, struct.error, NotImplementedError, RuntimeError)
"""What zipfile and numpy raise on bytes that are no npz."""


@contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    with open_binary(path) as stream:
        try:
            _check_directory(stream)
            archive = zipfile.ZipFile(stream)
        except _DAMAGE as error:
            raise ReadError("corrupt", f"expected a whole npz file: {error}") from error
        with archive:
            _check_entries(archive.infolist())
            try:
                yield archive
            except _DAMAGE as error:
                raise damage(error, "the npz file") from error


def _check_directory(stream: IO[bytes]) -> None:
    """Refuse a list of entries that zipfile would make a gigabyte of objects of; it reads the list as a whole."""
    record = zipfile._EndRecData(stream)  # type: ignore[attr-defined]  # nothing public tells the size beforehand
    if record is not None and record[zipfile._ECD_SIZE] > MAX_DIRECTORY:  # type: ignore[attr-defined]
        raise ReadError("corrupt", f"expected a list of entries of at most {MAX_DIRECTORY} bytes")
    stream.seek(0)


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in entries]
    if len(entries) > MAX_ENTRIES:
        raise ReadError("corrupt", f"expected at most {MAX_ENTRIES} arrays, got {len(entries)}")
    if len(set(names)) != len(names):
        raise ReadError("corrupt", "expected each array once, got one name twice; readers would not agree on it")
    for info in entries:
        if not info.filename.endswith(".npy"):
            raise ReadError("corrupt", f"expected entries called *.npy, got {info.filename}; it would hide another")
        if info.file_size > ALLOWANCE and info.file_size > MAX_RATIO * info.compress_size:
            raise ReadError(
                "bomb",
                f"expected at most {MAX_RATIO} times the bytes, {info.filename} makes {info.file_size} of "
                f"{info.compress_size}; save it with numpy.savez if it is meant to be so",
            )


def _pair(entries: list[str], label_key: str | None) -> tuple[str, str]:
    """Return the entries of the images and of the labels."""
    arrays = [name.removesuffix(".npy") for name in entries if name.endswith(".npy")]
    found = [(image, label) for image in arrays for label in arrays if _belong(image, label)]
    if label_key is not None:
        found = [pair for pair in found if pair[1] == label_key]
    if len(found) == 1:
        return f"{found[0][0]}.npy", f"{found[0][1]}.npy"
    if found:
        raise ReadError(
            "no-label-array",
            f"expected one pair of arrays, got {', '.join(f'{a} with {b}' for a, b in found)}; "
            f"name the labels with --label-key {found[0][1]}",
        )
    raise ReadError(
        "no-image-array",
        f"expected arrays named {' or '.join(f'{a} and {b}' for a, b in PAIRS)}, got {', '.join(arrays)[:200]}",
    )


def _belong(image: str, label: str) -> bool:
    one, two = _SPLIT.fullmatch(image.lower()), _SPLIT.fullmatch(label.lower())
    if one is None or two is None or one.group(1, 3) != two.group(1, 3):
        return (image, label) == ("arr_0", "arr_1")
    return (one[2], two[2]) in PAIRS


def _labels(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    with archive.open(name) as stream:
        header = _header(stream, name)
        size = prod(header.shape) * header.dtype.itemsize
        is_number, is_text = header.dtype.kind in "iu", header.dtype.kind == "U"
        if len(header.shape) not in (1, 2) or header.shape[1:] not in ((), (1,)) or not (is_number or is_text):
            raise ReadError(
                "no-label-array", f"expected class numbers or names (N,), {name} is {header.dtype} {header.shape}"
            )
        if not 0 < size <= MAX_LABELS or (is_text and header.dtype.itemsize > 4 * MAX_CLASS_NAME):
            raise ReadError("too-large", f"expected labels of 1 to {MAX_LABELS} bytes, {name} has {size}")
        data = np.frombuffer(_exactly(stream, size), header.dtype).reshape(-1)
        if stream.read(1):
            raise ReadError("corrupt", f"expected the end of {name}, got more")
    return data


def _header(stream: IO[bytes], name: str) -> _Header:
    """Read an array's header; its length is looked at before numpy reads it into memory."""
    magic = _exactly(stream, 8)
    wide = magic[6:7] != b"\x01"
    length = _exactly(stream, 4 if wide else 2)
    count = int.from_bytes(length, "little")
    if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\x01", b"\x02") or count > MAX_HEADER:
        raise ReadError("corrupt", f"expected a numpy array of format 1 or 2 in {name}, got {magic!r}")
    body = io.BytesIO(length + _exactly(stream, count))
    parse = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    try:
        shape, is_fortran, dtype = parse(body, max_header_size=MAX_HEADER)
    except Exception as error:  # the header is a Python literal: its parser has many ways to fail
        raise ReadError("corrupt", f"expected the header of a numpy array in {name}: {error}") from error
    if dtype.hasobject:
        raise ReadError("pickle", f"{name} holds Python objects, which only unpickling could read; save numbers")
    if is_fortran and len(shape) > 1:
        raise ReadError("unsupported", f"{name} is stored by columns; save numpy.ascontiguousarray of it")
    if any(not isinstance(side, int) or side < 1 for side in shape):
        raise ReadError("corrupt", f"expected an array with something in it, {name} has the shape {shape}")
    return _Header(shape, dtype)


def _check_images(header: _Header, samples: int, size: int) -> None:
    if header.dtype != np.uint8 or len(header.shape) not in (3, 4):
        raise ReadError(
            "no-image-array",
            f"expected uint8 images (N, H, W) or (N, H, W, 1, 3 or 4), got {header.dtype} {header.shape}",
        )
    if header.shape[0] != samples:
        raise ReadError("corrupt", f"expected as many images as labels, got {header.shape[0]} and {samples}")
    if prod(header.shape[1:]) > MAX_MEMBER or prod(header.shape) > size:
        raise ReadError("corrupt", f"expected images of {header.shape}, the array has {size} bytes")


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, C) also of (C, H, W), as torch stores images."""
    is_first = pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3, 4)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, 2)) if is_first else pixels


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError(f"expected {count} bytes, it ends after {len(data)}")
    return data
