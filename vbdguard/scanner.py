"""scan(): the whole story of the Variance-Based Defense on one page (paper, section 3 and Algorithm 1).

    read        ingest     every shard is read, hashed, decoded and stored
    stage 1     ensemble      simple models: they overfit the trigger (`paper`), or cannot see it (`default`)
    stage 2     suspects      classes that hang on one pixel more than others do, or look unlike all others at one place
    stage 3     trigger       mask and pattern, from gradient and variance, or from a mixture of carriers and others
    stage 4     attack_check  the pattern turns other classes' samples, or its carriers are strangers in their class
    stage 5     detector      a classifier of patched and clean samples for each trigger
    stage 6     flagging      each sample of an accused class is judged
    report      who is poisoned, by what, in which samples
    stage 7     training on what is kept is the guard's and the trainer's part

`vbdguard.method.published` runs stages 1 to 6 in this order, as the paper does (preset `paper`);
`vbdguard.method.direct` looks before it trains (preset `default`); `docs/method.md` compares them.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbdguard.build import build
from vbdguard.cache import Cache
from vbdguard.config import DirectMethodConfig, ScanConfig
from vbdguard.errors import CacheError, NothingToScanError, UnreadableError
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.ingest.segments import DamagedSegmentError
from vbdguard.progress import Progress, current_listener
from vbdguard.report_building import build_report, renew_report
from vbdguard.sources.opening import open_source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from vbdguard.report import ScanReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """A scan's outcome, and what it has seen."""

    report: ScanReport
    digests: NDArray[np.uint8]
    """(N, 32), ascending: the digest of every sample that was read, decoded and judged."""


def scan(
    source: Any,
    config: ScanConfig | None = None,
    *,
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    refresh: bool = False,
    progress: Progress | None = None,
) -> ScanReport:
    """Return the report on a data set.

    Args:
        source: a path, pattern, folder or fsspec URL, a list of those, or a map-style Dataset of (image, label).
        config: settings; None takes preset `default`. With device `auto` a cached report of any kind of device will do.
        cache_dir: where reports and pixels are kept; None takes the user's cache directory.
        use_cache: whether to keep and use them; otherwise everything goes to a temporary directory.
        refresh: compute anew even where the cache holds the answer.
        progress: hears how the scan gets on; None takes the one of `vbdguard.progress.heard_by`, if any.

    Raises:
        ConfigError: if the device is not there.
        SourceError: if the source cannot be understood.
        NothingToScanError: if it holds too little to say anything.
        UnreadableError: if that is so and something in it could not be read.
        CacheError: if the cache cannot be written before anything is found; afterwards that is a warning.
    """
    options: dict[str, Any] = {"use_cache": use_cache, "refresh": refresh, "progress": progress}
    return scan_with_digests(source, config, cache_dir=cache_dir, **options).report


def scan_with_digests(
    source: Any,
    config: ScanConfig | None = None,
    *,
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    refresh: bool = False,
    progress: Progress | None = None,
) -> Scanned:
    """Return what `scan` returns, with the digests of the samples that it has seen; see there."""
    config = config or ScanConfig()
    progress = progress or current_listener()
    start = time.perf_counter()
    kind = wanted_kind(config)
    with opened_cache(cache_dir, use_cache=use_cache) as cache:
        opened = open_source(
            source, label_key=config.label_key, folder_rule=config.folder_rule, run_commands=config.run_commands
        )
        read = partial(
            ingest,
            opened,
            store_dir=cache.store_dir,
            image_size=config.canonical_size,
            label_key=config.label_key,
            engine=config.engine,
            jobs=config.reading_jobs,
            limits=config.reading_limits,
            progress=progress,
        )
        judge = partial(
            report_on, config=config, cache=cache, kind=kind, start=start, refresh=refresh, progress=progress
        )
        ingested = read(check_pixels=False)  # a cached report answers without them
        try:
            report = judge(ingested)
        except DamagedSegmentError:
            ingested = read()
            report = judge(ingested)
        return Scanned(report, ingested.store.digests)


def report_on(
    ingested: Ingested,
    config: ScanConfig,
    cache: Cache,
    *,
    kind: str | None,
    start: float,
    refresh: bool,
    progress: Progress,
) -> ScanReport:
    """Return the report on what was read: the one that the cache holds, or that of stages 1 to 6.

    Args:
        ingested: what was read.
        config: the settings.
        cache: where reports are kept.
        kind: from `wanted_kind`.
        start: when the reading began, on the clock of `time.perf_counter`.
        refresh: whether to compute anew even where the cache holds the answer.
        progress: hears of each stage.

    Raises:
        NothingToScanError: if there is too little to say anything.
        UnreadableError: if that is so and something could not be read.
        DamagedSegmentError: if pixels that are needed are not those that were stored; read with them checked, and anew.
    """
    seconds = {"ingest": time.perf_counter() - start}
    settings = config.result_settings()
    key = cache.report_key(ingested.dataset_digest, ingested.judged, settings, config.seed, build())
    # Processes of one job often scan the same data at the same time: one computes, the others take its report.
    with cache.computing(key):
        report = None if refresh else cache.load_report(key, kind)
        if report is not None:
            return renew_report(report, ingested, seconds=seconds | {"total": time.perf_counter() - start})
        report = _judge(ingested, config, seconds=seconds, start=start, progress=progress)
        _keep(cache, key, report)
        return report


def wanted_kind(config: ScanConfig) -> str | None:
    """Return the kind of device whose report is wanted, None where that of any kind will do.

    `auto` leaves the choice to us, and findings differ between devices by rounding only: a report that is there
    answers it, whatever computed it, also after a GPU has come or gone. Nor does it need to load torch, which takes
    longer than a cached scan. An accelerator that is named is looked for before anything is read.
    """
    if config.device in ("auto", "cpu"):
        return None if config.device == "auto" else config.device
    return _device(config).type


def _device(config: ScanConfig) -> torch.device:
    """Return the device that the settings name and their method can use."""
    from vbdguard.method.device import resolve_device

    return resolve_device(config.device, needs_double=isinstance(config.method, DirectMethodConfig))


def _keep(cache: Cache, key: str, report: ScanReport) -> None:
    """Save a report; a cache that has filled up meanwhile costs the next scan its time, not this one its answer."""
    try:
        cache.save_report(key, report)
    except CacheError as error:
        log.warning("this report is not kept for the next scan: %s", error)


def _judge(
    ingested: Ingested, config: ScanConfig, *, seconds: dict[str, float], start: float, progress: Progress
) -> ScanReport:
    """Return the report of stages 1 to 6 on what was read."""
    from vbdguard.method.pipeline import detect
    from vbdguard.stored_population import stored_population

    device = _device(config)
    _require_enough(ingested, config)
    ingested.require_sound_pixels()
    population = stored_population(ingested, device)
    detection = detect(population, config.method, seed=config.seed, progress=progress)
    timings = seconds | detection.seconds | {"total": time.perf_counter() - start}
    return build_report(ingested, detection, config, device=device.type, seconds=timings)


@contextmanager
def opened_cache(directory: Path | str | None, *, use_cache: bool) -> Iterator[Cache]:
    """Yield the cache in a directory (None: the user's), or without one a cache that is gone afterwards.

    Raises:
        CacheError: if it cannot be written to.
    """
    if use_cache:
        cache = Cache(Path(directory) if directory is not None else None)
        cache.prepare()
        cache.warn_of_strangers()
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="vbdguard-") as temporary:
        cache = Cache(Path(temporary))
        cache.prepare()
        yield cache


def _require_enough(ingested: Ingested, config: ScanConfig) -> None:
    """Refuse data on which every class is too small to be tested: "clean" would mean nothing there."""
    needed = config.method.fewest_in_class
    largest = max(ingested.class_counts)
    if largest < needed:
        unread = f" ({len(ingested.skipped)} could not be read)" if ingested.skipped else ""
        raise (UnreadableError if unread else NothingToScanError)(
            f"expected at least {needed} samples in some class, got {len(ingested.store)} samples in "
            f"{len(ingested.class_counts)} classes, the largest with {largest}{unread}: too few to find a trigger in; "
            "scan it together with the rest of the training set"
        )
