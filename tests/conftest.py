"""Fixtures for every test: no test touches the user's cache, real data come from outside the project."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbdguard import __version__
from vbdguard.build import build, code_digest
from vbdguard.cache import Cache
from vbdguard.config import ScanConfig
from vbdguard.ingest.partial import believed_digest, read_partial
from vbdguard.ingest.reader import ingest
from vbdguard.partial_scans import scan_share
from vbdguard.report import ClassReport, DatasetReport, FlaggedSample, ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

# Before anything loads torch: its threads wait for each other in busy loops, and with the processes that tests start
# beside them on two cores they take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that runs the tests in the background ignores these, and so would every process that tests send them to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own, and make the user's real one raise."""
    import platformdirs

    def forbidden(*_: object, **__: object) -> str:
        raise AssertionError("a test asked for the real cache directory; use VBDGUARD_CACHE or pass one")

    monkeypatch.setattr(platformdirs, "user_cache_dir", forbidden)
    directory = tmp_path_factory.mktemp("cache", numbered=True)
    monkeypatch.setenv("VBDGUARD_CACHE", str(directory))
    return directory


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder that holds data/, triggers/ and tools/ (VBDGUARD_TEST_DATA); tests that ask for it skip without."""
    folder = os.environ.get("VBDGUARD_TEST_DATA")
    if not folder:
        pytest.skip("set VBDGUARD_TEST_DATA to the folder that holds data/, triggers/ and tools/")
    if not (Path(folder) / "data").is_dir():
        pytest.fail(f"VBDGUARD_TEST_DATA={folder}: expected a folder with data/ in it")
    return Path(folder)


@pytest.fixture(scope="session")
def report_flagging(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ScanReport]:
    """A function that reads a source and returns the report of a scan that flags the samples of given keys.

    Everything but the choice of the flagged samples is what reading gave. Each key has its suggested class or None.
    """

    def make(source: Any, flagged: Mapping[str, int | None], *, label_key: str | None = None) -> ScanReport:
        ingested = ingest(source, store_dir=tmp_path_factory.mktemp("store"), label_key=label_key)
        store = ingested.store
        numbers = [store.class_labels[index] for index in store.labels]
        entries = tuple(
            FlaggedSample(key, store.digests[index].tobytes().hex(), numbers[index], 0.9, flagged[key])
            for key, index in sorted((key, index) for index, key in enumerate(store.keys) if key in flagged)
        )
        assert {entry.key for entry in entries} == set(flagged)
        counts = {label: sum(entry.label == label for entry in entries) for label in store.class_labels}
        rows = zip(store.class_labels, store.class_names, ingested.class_counts, strict=True)
        return ScanReport(
            status=ingested.status,
            verdict="poisoned" if flagged else "clean",
            dataset=DatasetReport(
                digest=ingested.dataset_digest,
                sources=ingested.sources,
                samples=len(store),
                classes=len(store.class_labels),
                image_shape=store.image_shape,
                shards=ingested.shards,
            ),
            config=ScanConfig().result_settings(),
            seed=0,
            device="cpu",
            classes=tuple(
                ClassReport(label, name, count, counts[label] > 0, counts[label], None, None, None)
                for label, name, count in rows
            ),
            flagged=entries,
            skipped=ingested.skipped,
            timings={"total": 0.0},
            environment={},
            tool={"name": "vbdguard", "version": __version__, "code": code_digest()},
        )

    return make


@pytest.fixture
def keep_report(own_cache: Path, report_flagging: Callable[..., ScanReport]) -> Callable[..., ScanReport]:
    """A function that puts the report of `report_flagging` into the test's cache.

    A scan of that source then answers at once, in whatever process, and for real but for the findings.
    """

    def keep(source: Any, flagged: Mapping[str, int | None]) -> ScanReport:
        report = report_flagging(source, flagged)
        settings = ScanConfig()
        judged = ingest(source, store_dir=own_cache).judged
        key = Cache.report_key(report.dataset.digest, judged, settings.result_settings(), settings.seed, build())
        Cache(own_cache).save_report(key, report)
        return report

    return keep


@pytest.fixture
def known_data(tmp_path: Path, keep_report: Callable[..., ScanReport]) -> Callable[..., ScanReport]:
    """A function that writes four shards of four samples, and keeps the report of a scan of them."""

    def make(folder: str = "data", flagged: Mapping[str, int | None] | None = None, *, seed: int = 0) -> ScanReport:
        if not (tmp_path / folder).exists():
            images = np.random.default_rng(seed).integers(0, 256, (16, 16, 16, 3), np.uint8)
            samples = [RawSample(f"s{number:02d}", image, number % 2) for number, image in enumerate(images)]
            write_shards(samples, tmp_path / folder, per_shard=4)
        return keep_report(str(tmp_path / folder), flagged or {})

    return make


@pytest.fixture
def keep_merged_report(own_cache: Path, tmp_path: Path) -> Callable[[ScanReport, Path], None]:
    """A function that makes a report on shards the answer to a merge of partial scans of them too, however shared."""

    def keep(report: ScanReport, shards: Path) -> None:
        settings, cache = ScanConfig(), Cache(own_cache)
        part = tmp_path / "whole.part"
        scan_share(str(shards), "1/1", part, settings, cache_dir=own_cache)
        believed = believed_digest([read_partial(part)], cache.store_dir)
        judged = replace(ingest(str(shards), store_dir=own_cache), believed=believed).judged
        key = Cache.report_key(report.dataset.digest, judged, settings.result_settings(), settings.seed, build())
        cache.merged.save_report(key, report)
        part.unlink()

    return keep
