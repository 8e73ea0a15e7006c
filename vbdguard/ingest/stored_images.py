"""The images of a report's classes, found again in the store that its scan left behind.

A segment belongs to the report if its name, or for loose files its digests, follow from the digest of one of the
report's shards. So what is shown is what was scanned, or nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vbdguard.by_shard import FlaggedPlace, flagged_places
from vbdguard.ingest.digest import sequence_digest
from vbdguard.ingest.segments import DamagedSegmentError, Segment, load_segment, open_pixels, segment_key
from vbdguard.report import ScanReport
from vbdguard.sources.base import ExifRule

_MOST_SEGMENTS = 256
"""Enough for a picture of every class; a segment takes some milliseconds to open."""
_PLACES_PER_CLASS = 4


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One sample of the store."""

    key: str
    digest: str
    segment: Path
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredImages:
    """The flagged and the kept samples of the poisoned classes, as far as they are in the store."""

    flagged: dict[int, tuple[StoredImage, ...]]
    """By label, in the order of their digests, which is as good as a draw."""
    kept: dict[int, tuple[StoredImage, ...]]
    """As above, of the same shards."""

    def pixels(self, images: Sequence[StoredImage]) -> NDArray[np.uint8]:
        """Return pixels, uint8 (n, H, W, 3), in the order of `images`, n >= 1.

        Raises:
            OSError, ValueError: if the store has been cleared or damaged since.
        """
        places: defaultdict[Path, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            places[image.segment].append(index)
        rows: list[NDArray[np.uint8] | None] = [None] * len(images)
        for segment, indices in places.items():
            mapped = open_pixels(segment)
            for index in indices:
                rows[index] = np.array(mapped[images[index].row])
        return np.stack([row for row in rows if row is not None])


def find_stored_images(report: ScanReport, store_dir: Path) -> StoredImages | None:
    """Return the images of the report's poisoned classes; None where the store holds none of them.

    Args:
        report: a scan's outcome.
        store_dir: where the scan kept its segments, as `ingest` takes it.
    """
    flagged_labels = {sample.digest: sample.label for sample in report.flagged}
    flagged: defaultdict[int, list[StoredImage]] = defaultdict(list)
    kept: defaultdict[int, list[StoredImage]] = defaultdict(list)
    labels = _label_table(report)
    for segment, prefix in _segments(report, store_dir):
        for row, label in enumerate(segment.labels):
            number = labels.get(label)
            if number is None:
                continue
            digest = segment.digests[row].tobytes().hex()
            image = StoredImage(prefix + segment.keys[row], digest, segment.path, row)
            (flagged if flagged_labels.get(digest) == number else kept)[number].append(image)
    if not flagged:
        return None
    return StoredImages(_by_digest(flagged), _by_digest(kept))


def _by_digest(found: dict[int, list[StoredImage]]) -> dict[int, tuple[StoredImage, ...]]:
    return {label: tuple(sorted(images, key=lambda image: image.digest)) for label, images in found.items()}


def _label_table(report: ScanReport) -> dict[int | str, int]:
    """Return what a segment may call the poisoned classes: their numbers, or their names."""
    table: dict[int | str, int] = {entry.label: entry.label for entry in report.poisoned_classes}
    return table | {entry.name: entry.label for entry in report.poisoned_classes}


def _segments(report: ScanReport, store_dir: Path) -> Iterator[tuple[Segment, str]]:
    """Yield the report's segments that hold flagged samples, with what their keys begin with."""
    height, width, _ = report.dataset.image_shape
    try:
        folders = {path.name.rpartition("-")[2]: path for path in (store_dir / "segments").iterdir()}
    except OSError:
        return
    for folder, prefix in [*_file_segments(report, folders), *_loose_segments(report, folders)][:_MOST_SEGMENTS]:
        try:
            segment = load_segment(folder, (height, width), check_pixels=False)
        except DamagedSegmentError:
            continue
        if segment is not None:
            yield segment, prefix


def _file_segments(report: ScanReport, folders: dict[str, Path]) -> Iterator[tuple[Path, str]]:
    """Yield the segments of shards that are files, those with the most flagged samples of a class first."""
    height, width, _ = report.dataset.image_shape
    digests = {shard.name: shard.digest for shard in report.dataset.shards}
    named = report.config.get("label_key")
    label_keys = {None, named if isinstance(named, str) else None}
    for place in _richest(flagged_places(report)):
        for label_key, exif in product(label_keys, get_args(ExifRule)) if digests.get(place) else ():
            key = segment_key(digests[place], size=None, image_size=(height, width), label_key=label_key, exif=exif)
            if key in folders:
                yield folders[key], place


def _richest(places: Sequence[FlaggedPlace]) -> list[str]:
    """Return the names of the places that hold the most flagged samples of some class: each class's first, then on."""
    by_class: defaultdict[int, list[FlaggedPlace]] = defaultdict(list)
    for place in sorted(places, key=lambda one: -len(one.samples)):
        by_class[place.label].append(place)
    ranked = (ones[rank] for rank in range(_PLACES_PER_CLASS) for ones in by_class.values() if rank < len(ones))
    return list(dict.fromkeys(place.place for place in ranked))


def _loose_segments(report: ScanReport, folders: dict[str, Path]) -> Iterator[tuple[Path, str]]:
    """Yield the segments of slices of a folder, whose keys do not tell the slice."""
    named = {place.place for place in flagged_places(report)}
    wanted = {shard.digest for shard in report.dataset.shards if shard.name not in named and shard.digest}
    flagged = {sample.digest for sample in report.flagged}
    for folder in folders.values() if wanted else ():
        if "-" in folder.name:  # a file's
            continue
        try:
            digests: NDArray[np.uint8] = np.load(folder / "digests.npy", allow_pickle=False)
        except (OSError, ValueError):
            continue
        rows = [row.tobytes() for row in digests]
        if sequence_digest(rows) in wanted and any(row.hex() in flagged for row in rows):
            yield folder, ""
