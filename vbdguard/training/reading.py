"""Read what a scan has judged once more, for training; and test samples beside it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vbdguard.cache import Cache
from vbdguard.config import ScanConfig
from vbdguard.errors import UnscannedSampleError
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.ingest.store import PixelStore
from vbdguard.progress import Progress
from vbdguard.report import ScanReport

log = logging.getLogger(__name__)


@contextmanager
def cache_folder(directory: Path | str | None, *, use_cache: bool) -> Iterator[Path]:
    """Yield the folder of the cache, or a temporary one that lasts as long as the pixels are needed.

    Raises:
        CacheError: if it cannot be written to.
    """
    if use_cache:
        cache = Cache(Path(directory) if directory is not None else None)
        cache.prepare()
        yield cache.directory
        return
    with tempfile.TemporaryDirectory(prefix="vbdguard-") as temporary:
        yield Path(temporary)


def read_scanned(source: Any, report: ScanReport, config: ScanConfig, cache: Path, progress: Progress) -> PixelStore:
    """Return the samples that a report speaks of; a scan just before has left their pixels in the cache.

    Raises:
        UnscannedSampleError: if the source holds anything else by now.
        SourceError: if it cannot be understood.
    """
    height, width, _ = report.dataset.image_shape
    ingested = _read(source, (height, width), config, cache, progress)
    if ingested.dataset_digest != report.dataset.digest:
        raise UnscannedSampleError(
            f"{', '.join(ingested.sources)}: expected the {report.dataset.samples} samples of the report "
            f"(digest {report.dataset.digest[:16]}), got {len(ingested.store)} with digest "
            f"{ingested.dataset_digest[:16]}; the data changed since, or the report is of other data: scan again"
        )
    if ingested.skipped:
        log.warning(
            "%d entries could not be read and do not train, the first: %s (%s)",
            *(len(ingested.skipped), ingested.skipped[0].key, ingested.skipped[0].reason),
        )
    return ingested.store


def read_test_set(
    source: Any, image_size: tuple[int, int], config: ScanConfig, cache: Path, progress: Progress
) -> PixelStore:
    """Return test samples at the size of the training images.

    Raises:
        SourceError: if the source cannot be understood.
    """
    ingested = _read(source, image_size, config, cache, progress)
    if ingested.skipped:
        log.warning("%d entries of the test set could not be read and are not counted", len(ingested.skipped))
    return ingested.store


def _read(source: Any, size: tuple[int, int], config: ScanConfig, cache: Path, progress: Progress) -> Ingested:
    return ingest(
        source,
        store_dir=Cache(cache).store_dir,
        image_size=size,
        label_key=config.label_key,
        engine=config.engine,
        jobs=config.reading_jobs,
        limits=config.reading_limits,
        progress=progress,
    )
