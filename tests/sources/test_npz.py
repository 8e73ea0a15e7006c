"""npz files: images and labels row by row, nothing unpickled, nothing trusted."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbdguard.errors import ReadError
from vbdguard.sources import npz
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.npz import NpzShard

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1, 0])


def read(path: Path, label_key: str | None = None) -> list[RawSample | Unreadable]:
    return list(NpzShard(str(path), path.name, label_key).read())


def saved(path: Path, *, packed: bool = False, **arrays: Any) -> Path:
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


def reason(path: Path, label_key: str | None = None) -> str:
    """Return why a file cannot be read, as a whole or from some row on."""
    try:
        last = read(path, label_key)[-1]
    except ReadError as error:
        return error.reason
    assert isinstance(last, Unreadable)
    assert last.is_shard
    return last.reason


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x_train", "y_train"), ("train_images", "train_labels"), ("arr_0", "arr_1")]
)
def test_rows_are_samples(tmp_path: Path, names: tuple[str, str], packed: bool) -> None:
    path = saved(tmp_path / "a.npz", packed=packed, **dict(zip(names, (IMAGES, LABELS[:, None]), strict=True)))
    entries = read(path)
    assert [(entry.key, entry.label) for entry in entries if isinstance(entry, RawSample)] == [
        (f"a.npz/{row}", label) for row, label in enumerate(LABELS)
    ]
    np.testing.assert_array_equal([entry.image for entry in entries], IMAGES)  # type: ignore[union-attr]


def test_grey_images_names_and_channels_first_are_understood(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=IMAGES.transpose(0, 3, 1, 2).copy(), labels=np.array(list("abcde")))
    entries = read(path)
    np.testing.assert_array_equal([entry.image for entry in entries], IMAGES)  # type: ignore[union-attr]
    assert [entry.label for entry in entries] == list("abcde")  # type: ignore[union-attr]
    grey = read(saved(tmp_path / "g.npz", images=IMAGES[..., 0].copy(), labels=LABELS))
    np.testing.assert_array_equal([entry.image for entry in grey], IMAGES[..., 0])  # type: ignore[union-attr]


def test_label_key_chooses_among_splits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:2], y_test=LABELS[:2])
    with pytest.raises(ReadError, match="--label-key y_train"):
        read(path)
    assert len(read(path, "y_test")) == 2


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": IMAGES, "labels": np.array([None] * 5)}, "pickle"),
        ({"images": np.array([None] * 5), "labels": LABELS}, "pickle"),
        ({"images": IMAGES, "labels": LABELS[:4]}, "corrupt"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "no-image-array"),
        ({"images": IMAGES[0, 0], "labels": LABELS}, "no-image-array"),
        ({"images": IMAGES, "labels": LABELS.astype(np.float32)}, "no-label-array"),
        ({"images": IMAGES, "labels": np.eye(5, dtype=np.int64)}, "no-label-array"),
        ({"images": np.asfortranarray(IMAGES), "labels": LABELS}, "unsupported"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "corrupt"),
        ({"pictures": IMAGES, "labels": LABELS}, "no-image-array"),
        ({"images": IMAGES, "labels": np.array(["x" * 2000] * 5)}, "too-large"),
    ],
)
def test_what_is_no_set_of_images_says_why(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    assert reason(saved(tmp_path / "a.npz", **arrays)) == expected


def test_rows_without_a_class_are_named(tmp_path: Path) -> None:
    entries = read(saved(tmp_path / "a.npz", images=IMAGES, labels=np.array([0, -1, 2, 1, 0])))
    assert [getattr(entry, "reason", "") for entry in entries] == ["", "bad-label", "", "", ""]


@pytest.mark.parametrize("packed", [False, True])
def test_no_cut_passes_for_a_whole_file(tmp_path: Path, packed: bool) -> None:
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS, packed=packed)
    data = path.read_bytes()
    for cut in range(0, len(data), 37):
        path.write_bytes(data[:cut])
        assert reason(path) == "corrupt"


def test_damage_is_seen_by_the_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES.tobytes()) + 300] ^= 1
    path.write_bytes(data)
    assert reason(path) == "corrupt"


def test_bomb_and_repeated_names_and_endless_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(
        tmp_path / "a.npz", images=np.zeros((400, 64, 64, 3), np.uint8), labels=np.zeros(400, int), packed=True
    )
    monkeypatch.setattr(npz, "ALLOWANCE", 1 << 20)
    assert reason(path) == "bomb"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.npy", b"")
    assert reason(path) == "corrupt"
    monkeypatch.setattr(npz, "MAX_DIRECTORY", 100)
    assert reason(path) == "corrupt"


def array(shape: str, descr: str = "|u1", count: int = 0) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(count)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (array("(10**12, 1, 1)"), array("(3,)", "<i8", 24)),
        (array("(1000000000000, 1, 1)"), array("(1000000000000,)", "<i8")),
        (array("(1000000000000, 1, 1)"), array("(1000000000000,)", "<U0")),
        (array("(3, 100000, 100000)"), array("(3,)", "<i8", 24)),
        (array("(3, -1, 5)", count=15), array("(3,)", "<i8", 24)),
        (array("(3, 5, 5)", count=10), array("(3,)", "<i8", 24)),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), array("(3,)", "<i8", 24)),
        (array("__import__('os').system('exit')"), array("(3,)", "<i8", 24)),
        (b"", b""),
        (array("((" * 4000), array("(3,)", "<i8", 24)),
    ],
)
def test_headers_that_lie_are_refused_at_once(tmp_path: Path, images: bytes, labels: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)
    path = tmp_path / "a.npz"
    path.write_bytes(buffer.getvalue())
    assert reason(path) in ("corrupt", "too-large")


def test_file_that_changes_between_hashing_and_reading_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    shard = NpzShard(str(path), "a")
    shard.digest()
    assert len(list(shard.read())) == 5
    saved(path, images=IMAGES, labels=[*LABELS[1:].tolist(), 0])
    with pytest.raises(ReadError, match="changed"):
        list(shard.read())
