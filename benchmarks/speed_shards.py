"""A cell of the paper's tables as shards on disk, with the truth about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import Cell
from benchmarks.data import DEMO, Data
from benchmarks.methods import Verdict
from benchmarks.scoring import score
from vbdguard.attacks.triggers import Trigger
from vbdguard.ingest.digest import sample_digest
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import encode_image, write_shards

FORMATS = ("tar", "parquet")
_PER_TAR = 5000
_PER_PARQUET, _PER_ROW_GROUP = 25_000, 2_500
"""As the Hugging Face hub lays CIFAR-10 out."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardedCell:
    """Shards that can be scanned, and what a scan should find in them."""

    folder: Path
    samples: int
    image_bytes: int
    """Of the encoded images alone."""
    shard_bytes: int
    labels: NDArray[np.int64]
    """int64 (N,), as poisoned."""
    is_poisoned: NDArray[np.bool_]
    """bool (N,)."""
    digests: tuple[bytes, ...]
    """(N,) what the report names samples by."""

    def score(self, report: ScanReport) -> dict[str, float]:
        """Return F1, false alarms, misses and the classes found, as `benchmarks.scoring` counts them."""
        flagged = {bytes.fromhex(entry.digest) for entry in report.flagged}
        is_flagged = np.array([digest in flagged for digest in self.digests], dtype=np.bool_)
        accused = frozenset(found.label for found in report.poisoned_classes)
        return score(Verdict(is_flagged, accused, {}), self.is_poisoned, self.labels)


def write_cell(
    cell: Cell, data: Data, encoded: Sequence[bytes], triggers: dict[str, Trigger], seed: int, folder: Path, kind: str
) -> ShardedCell:
    """Write a cell's samples; what the attack leaves alone keeps its bytes, what it changes becomes a PNG.

    Args:
        cell: the attack.
        data: images uint8 (N, H, W, 3) and labels before it.
        encoded: their N files.
        triggers: those from files.
        seed: draws the samples and is the target label.
        folder: a new folder for the shards.
        kind: `tar` or `parquet`.

    Raises:
        ValueError: if the cell does not fit the data, or there are not as many files as images.
    """
    if len(encoded) != len(data.labels):
        raise ValueError(f"expected {len(data.labels)} encoded images, got {len(encoded)}")
    kept = cell.variation.keeps(data.labels, seed)
    poisoned = cell.poison(data.images, data.labels, triggers, seed)
    is_changed = (poisoned.images != data.images[kept]).any(axis=(1, 2, 3))
    samples = [
        RawSample(f"{number:07d}", encode_image(pixels) if changed else encoded[original], int(label))
        for number, (pixels, changed, original, label) in enumerate(
            zip(poisoned.images, is_changed, kept, poisoned.labels, strict=True)
        )
    ]
    if kind == "tar":
        write_shards(samples, folder, per_shard=_PER_TAR)
    else:
        _write_parquet(samples, folder)
    return ShardedCell(
        folder=folder,
        samples=len(samples),
        image_bytes=sum(len(sample.image) for sample in samples),
        shard_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        labels=poisoned.labels,
        is_poisoned=poisoned.is_poisoned,
        digests=tuple(sample_digest(sample.image, sample.label) for sample in samples),
    )


def load_encoded(source: str, data: Data) -> list[bytes]:
    """Return the files of the training images in the order of `benchmarks.data.load_data`; the demo's as PNG."""
    if source == DEMO:
        return [encode_image(image) for image in data.images]
    import pyarrow.parquet as pq

    files: list[bytes] = []
    for path in sorted(Path(source).glob("train-*.parquet")):
        files += [cell["bytes"] for cell in pq.read_table(path, columns=["image"])["image"].to_pylist()]
    return files[: len(data.labels)]


def _write_parquet(samples: Sequence[RawSample], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    parts = list(_cut(samples, _PER_PARQUET))
    for number, part in enumerate(parts):
        table = pa.table(
            {
                "image": [{"bytes": sample.image, "path": None} for sample in part],
                "label": [sample.label for sample in part],
            }
        )
        name = f"train-{number:05d}-of-{len(parts):05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=_PER_ROW_GROUP)


def _cut(samples: Sequence[RawSample], size: int) -> Iterator[Sequence[RawSample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
