"""A disk that fills up at any moment of a scan: the right answer, or an error that says what to do."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scans import ACCUSING

from vbdguard.errors import CacheError
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "shards"
    images = np.random.default_rng(0).integers(0, 150, (90, 16, 16, 3))
    samples = (RawSample(f"s{n:03d}", (image + 50 * (n % 3)).astype(np.uint8), n % 3) for n, image in enumerate(images))
    write_shards(samples, folder, per_shard=6)
    return str(folder)


@pytest.fixture(scope="module")
def expected(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return timeless(scan(data, ACCUSING, cache_dir=tmp_path_factory.mktemp("roomy")))


def timeless(report: ScanReport) -> dict[str, Any]:
    body = report.to_dict()
    del body["timings"]
    return json.loads(json.dumps(body))  # type: ignore[no-any-return]


def outcome(data: str, cache: Path, expected: dict[str, Any]) -> str:
    """Scan, and return "right" or "refused"; anything else fails."""
    try:
        report = scan(data, ACCUSING, cache_dir=cache)
    except CacheError as error:
        assert "--cache-dir" in str(error)  # noqa: PT017 - a report is fine as well
        return "refused"
    assert timeless(report) == expected
    return "right"


def whole_or_nothing(cache: Path) -> bool:
    """Whether nothing half-written lies where somebody would believe it."""
    return not list((cache / "segments").glob(".staging-*")) and not list((cache / "reports").glob(".*.tmp"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes in this process and its children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)


def test_files_that_cannot_grow(data: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    seen = []
    for size in (0, 100, 1_000, 4_000, 6_000, 8_000, 200_000):
        cache = tmp_path / str(size)
        with largest_file(size):
            seen.append(outcome(data, cache, expected))
        assert whole_or_nothing(cache)
        assert outcome(data, cache, expected) == "right"
    assert seen[0] == "refused"
    assert seen[-1] == "right"


def test_a_report_that_does_not_fit_is_given_and_not_kept(
    data: str, tmp_path: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pixel_bytes = 6 * 16 * 16 * 3
    size = (pixel_bytes + len(json.dumps(expected))) // 2
    assert pixel_bytes + 1000 < size
    with largest_file(size):
        assert outcome(data, tmp_path, expected) == "right"
    assert "this report is not kept for the next scan" in caplog.text
    assert list((tmp_path / "reports").iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own: 4 pages to begin with; skips where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if sys.platform == "linux" else None
    if done is None or done.returncode:
        pytest.skip(f"needs to mount a small file system: {done.stderr.strip() if done else sys.platform}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_full_at_any_moment(data: str, disk: Path, expected: dict[str, Any]) -> None:
    seen = []
    for kilobytes in (16, 60, 120, 180, 240, 270, 300, 330, 600):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)
        seen.append(outcome(data, disk / "cache", expected))
        assert whole_or_nothing(disk / "cache")
    # What fitted on the smaller disk stays and is believed on the larger one.
    assert seen[0] == "refused"
    assert seen[-1] == "right"
