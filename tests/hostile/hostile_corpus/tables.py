"""Parquet, arrow and npz files, and manifests."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hostile_corpus.images import Canary
from hostile_corpus.making import Case, case, png

COLUMNS: dict[str, Any] = {"image": [png(n) for n in range(40)], "label": [n % 2 for n in range(40)]}
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = np.arange(40) % 2


def parquet(columns: dict[str, Any] = COLUMNS, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def arrow(columns: dict[str, Any] = COLUMNS) -> bytes:
    sink = io.BytesIO()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def npz(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def beside(suffix: str, good: bytes, bad: bytes) -> Callable[[Path], str]:
    """A folder with a whole file and this one."""

    def write(folder: Path) -> str:
        (folder / f"good{suffix}").write_bytes(good)
        (folder / f"part{suffix}").write_bytes(bad)
        return str(folder)

    return write


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def rows(**changed: list[Any]) -> dict[str, Any]:
    """One more row, the first one, with something else in it."""
    return {name: [*changed.get(name, values[:1]), *values] for name, values in COLUMNS.items()}


def dictionary_bomb() -> bytes:
    """Three million rows that all point to one image of 64 KiB: 200 GB in a few kB."""
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(3_000_000, np.int32)), pa.array([bytes(64 << 10)]))
    table = pa.table({"image": image, "label": pa.array(np.zeros(3_000_000, np.int8))})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=3_000_000, store_schema=False)
    return sink.getvalue()


def page_bomb() -> bytes:
    return parquet({"image": [bytes(66 << 20)], "label": [0]}, compression="zstd", use_dictionary=False)


P, A = parquet(), arrow()
STRUCTS = pa.array([{"bytes": None, "path": "/etc/passwd"}] + [{"bytes": png(n), "path": None} for n in range(39)])
PARQUETS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("corrupt",)),
    "magic-alone": (b"PAR1", ("corrupt",)),
    "magic-twice": (b"PAR1" * 2, ("corrupt",)),
    "cut": (P[: len(P) // 2], ("corrupt",)),
    "cut-at-its-end": (P[:-1], ("corrupt",)),
    "footer-length-lies": (P[:-8] + b"\xff\xff\xff\x7fPAR1", ("corrupt",)),
    "footer-of-garbage": (P[:-200] + bytes(192) + P[-8:], ("corrupt",)),
    "page-damaged": (flipped(parquet(write_page_checksum=True, use_dictionary=False), 900), ("corrupt",)),
    "no-image": (parquet({"text": ["a"], "label": [1]}), ("no-image-column",)),
    "two-images": (parquet({"left": [b"1"], "right": [b"2"], "label": [1]}), ("no-image-column",)),
    "no-label": (parquet({"image": [b"1"], "species": [1]}), ("no-label-column",)),
    "null-image": (parquet(rows(image=[None])), ("no-image",)),
    "null-label": (parquet(rows(label=[None])), ("no-label",)),
    "label-minus-one": (parquet(rows(label=[-1])), ("bad-label",)),
    "labels-of-floats": (parquet(COLUMNS | {"label": [0.5] * 40}), ("bad-label",)),
    "labels-of-lists": (parquet(COLUMNS | {"label": [[1]] * 40}), ("bad-label",)),
    "path-outside": (parquet(COLUMNS | {"image": STRUCTS}), ("no-image",)),
    "image-of-garbage": (parquet(rows(image=[b"garbage"])), ("undecodable",)),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ("git-lfs-pointer",)),
}
ARROWS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("corrupt",)),
    "magic-alone": (b"ARROW1\0\0", ("corrupt",)),
    "garbage": (b"\xff\xff\xff\xff" + bytes(100), ("corrupt",)),
    "schema-length-lies": (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + A[8:], ("corrupt",)),
    "cut": (A[: len(A) // 2], ("corrupt",)),
    "cut-at-its-end": (A[:-8], ("truncated",)),
    "second-stream": (A + A, ("corrupt",)),
    "schema-damaged": (flipped(A, 60), ("corrupt", "no-image-column", "no-label-column")),
    "offsets-lead-out": (A.replace(len(png(0)).to_bytes(4, "little"), b"\0\0\0\x40", 1), ("corrupt",)),
    "no-label": (arrow({"image": [b"1"], "species": [1]}), ("no-label-column",)),
    "null-image": (arrow(rows(image=[None])), ("no-image",)),
}


def npz_of(images: bytes, labels: bytes, **options: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", **options) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels)
    return sink.getvalue()


def array(shape: str, descr: str = "|u1", count: int = 0) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(count)


def npz_bomb() -> bytes:
    images = array("(100000, 32, 32)", count=100_000 * 32 * 32)
    return npz_of(images, array("(100000,)", "|u1", 100_000), compression=zipfile.ZIP_DEFLATED)


def encrypted(data: bytes) -> bytes:
    """Set the flag in both places where it stands; there is no key."""
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(magic) + place
        data = data[:at] + b"\1" + data[at + 1 :]
    return data


def with_entry(data: bytes, name: str) -> bytes:
    """Add an entry that numpy finds under the name of an array before the array itself."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, archive.read(f"{name}.npy"))
    return buffer.getvalue()


N = npz(images=IMAGES, labels=LABELS)
EIGHT = array("(3,)", "<i8", 24)
NPZS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "cut": (N[: len(N) // 2], ("corrupt",)),
    "without-directory": (N[:-22], ("corrupt",)),
    "damaged": (flipped(N, 1000), ("corrupt",)),
    "pickled-images": (npz(images=np.array([Canary()] * 40), labels=LABELS), ("pickle",)),
    "pickled-labels": (npz(images=IMAGES, labels=np.array([Canary()] * 40)), ("pickle",)),
    "pickle-in-the-place-of-an-array": (npz_of(__import__("pickle").dumps(Canary()), EIGHT), ("corrupt",)),
    "fewer-labels": (npz(images=IMAGES, labels=LABELS[:39]), ("corrupt",)),
    "label-minus-one": (npz(images=IMAGES, labels=LABELS - 1), ("bad-label",)),
    "floats": (npz(images=IMAGES / 255, labels=LABELS), ("no-image-array",)),
    "array-twice": (with_entry(npz(images=IMAGES, labels=LABELS), "images"), ("corrupt",)),
    "no-pair": (npz(stuff=IMAGES), ("no-image-array",)),
    "two-pairs": (npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS), ("no-label-array",)),
    "by-columns": (npz(images=np.asfortranarray(IMAGES), labels=LABELS), ("unsupported",)),
    "endless-rows": (
        npz_of(array("(1000000000000, 1, 1)"), array("(1000000000000,)", "<U0")),
        ("corrupt", "too-large"),
    ),
    "endless-image": (npz_of(array("(3, 1000000, 1000000)"), EIGHT), ("corrupt",)),
    "negative-side": (npz_of(array("(3, -1, 5)", count=15), EIGHT), ("corrupt",)),
    "shape-runs-code": (npz_of(array("__import__('os').system('touch canary')"), EIGHT), ("corrupt",)),
    "deep-header": (npz_of(array("(" * 4000), EIGHT), ("corrupt",)),
    "header-of-gigabytes": (npz_of(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100), EIGHT), ("corrupt",)),
    "encrypted": (encrypted(npz_of(array("(3, 8, 8)", count=192), EIGHT)), ("corrupt",)),
}
BOMBS: dict[str, tuple[str, Callable[[], bytes], bytes, tuple[str, ...]]] = {
    "parquet-dictionary-bomb": (".parquet", dictionary_bomb, P, ("bomb",)),
    "parquet-page-bomb": (".parquet", page_bomb, P, ("bomb",)),
    "npz-bomb": (".npz", npz_bomb, N, ("bomb",)),
}


def manifest(text: str, name: str = "m.csv") -> Callable[[Path], str]:
    """Whole rows, then these."""

    def write(folder: Path) -> str:
        for number in range(40):
            (folder / f"{number}.png").write_bytes(png(number))
        (folder / "fake.png").write_bytes(b"garbage")
        (folder / "link.png").symlink_to("/etc/hostname")
        os.mkfifo(folder / "fifo.png")
        good = [(f"{number}.png", number % 2) for number in range(40)]
        if name.endswith("l"):
            lines = [json.dumps({"path": path, "label": label}) for path, label in good]
        else:
            lines = ["path,label", *(f"{path},{label}" for path, label in good)]
        (folder / name).write_text("\n".join([*lines, text]) + "\n")
        return str(folder / name)

    return write


ROWS = {
    "traversal": ("../../../etc/hostname,1", "unsafe-path"),
    "absolute": ("/etc/hostname,1", "unsafe-path"),
    "url": ("file:///etc/hostname,1", "unsafe-path"),
    "command": ("pipe:touch canary,1", "io-error"),
    "link-that-leads-out": ("link.png,1", "unsafe-path"),
    "named-pipe": ("fifo.png,1", "not-a-file"),
    "folder": (".,1", "not-a-file"),
    "gone": ("gone.png,1", "io-error"),
    "no-image": ("fake.png,1", "undecodable"),
    "nul": ("\0.png,1", "unsafe-path"),
    "no-label": ("0.png,", "no-label"),
    "open-quote": ('"0.png,1', "bad-row"),
    "more-fields": ("0.png,1,2", "bad-row"),
    "formula": ("\"=cmd|'/C touch canary'!A0\",1", "io-error"),
    "name-of-5000": ("x" * 5000 + ",1", "io-error"),
}
LINES = {
    "cut": '{"path": "0.png", "lab',
    "list": "[1, 2]",
    "deep": "[" * 100_000,
    "traversal": '{"path": "../x.png", "label": 1}',
    "path-of-numbers": '{"path": [1], "label": 1}',
}


def _cases() -> Iterator[Case]:
    for suffix, good, group in ((".parquet", P, PARQUETS), (".arrow", A, ARROWS), (".npz", N, NPZS)):
        for name, (content, expected) in group.items():
            yield case(f"{suffix[1:]}-{name}", beside(suffix, good, content), *expected)
    for name, (suffix, make, good, expected) in BOMBS.items():
        yield case(name, lambda folder, s=suffix, g=good, m=make: beside(s, g, m())(folder), *expected)
    for name, (row, reason) in ROWS.items():
        yield case(f"csv-{name}", manifest(row), reason)
    for name, line in LINES.items():
        yield case(f"jsonl-{name}", manifest(line, "m.jsonl"), "bad-row", "unsafe-path", "no-image")
    yield case("csv-endless-line", manifest("x" * (2 << 20)), "SourceError")
    yield case(
        "csv-without-labels", lambda folder: _written(folder / "m.csv", "path,species\n0.png,1\n"), "SourceError"
    )
    yield case(
        "csv-column-twice", lambda folder: _written(folder / "m.csv", "path,label,label\n0.png,1,2\n"), "SourceError"
    )


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


CASES = tuple(_cases())
