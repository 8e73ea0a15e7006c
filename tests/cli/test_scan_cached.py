"""A scan that the cache answers, as a process: what it prints, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vbdguard.build import build
from vbdguard.cache import Cache
from vbdguard.config import ScanConfig
from vbdguard.ingest.reader import ingest
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

Process = subprocess.CompletedProcess[str]


@pytest.fixture
def known(tmp_path: Path, report_flagging: Callable[..., ScanReport]) -> Path:
    """Two shards whose report under the default settings lies in the cache `tmp_path / "cache"`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), np.uint8)
    samples = [RawSample(f"s{number}", image, number % 2) for number, image in enumerate(images)]
    write_shards(samples, tmp_path / "data", per_shard=4)
    report = report_flagging(str(tmp_path / "data"), {"train-000000.tar/s3": 0})
    settings = ScanConfig()
    judged = ingest(str(tmp_path / "data"), store_dir=tmp_path / "cache").judged
    key = Cache.report_key(report.dataset.digest, judged, settings.result_settings(), settings.seed, build())
    Cache(tmp_path / "cache").save_report(key, replace(report, device="cuda"))
    return tmp_path / "data"


def scan(data: Path, *options: str) -> Process:
    """Run `vbdguard scan` in a process that says on stderr whether it has loaded torch."""
    arguments = ["scan", str(data), "--cache-dir", str(data.parent / "cache"), "--format", "json", *options]
    code = (
        "import sys\nfrom vbdguard.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "finally: print('torch loaded:', 'torch' in sys.modules, file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_cached_scan_answers_without_torch_whatever_device_computed_it(known: Path, jobs: str) -> None:
    result = scan(known, "--jobs", jobs)
    assert result.returncode == 1, result.stderr
    assert "torch loaded: False" in result.stderr
    body = json.loads(result.stdout)
    assert (body["verdict"], body["device"]) == ("poisoned", "cuda")
    assert [entry["key"] for entry in body["flagged"]] == ["train-000000.tar/s3"]


def test_the_check_for_torch_in_a_cached_scan_can_fail(known: Path) -> None:
    result = scan(known, "--refresh")
    assert "torch loaded: True" in result.stderr
    assert result.returncode == 3, "eight images are too few to scan anew"
