"""What a scan ends with where something could not be read: never "clean"."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_corpus import CASES

from vbdguard.config import ScanConfig
from vbdguard.scanner import scan

WHOLE_SCANS = ("tar-second-archive", "tar-hard-link", "image-eps", "gz-in-two-streams", "npz-label-minus-one")


@pytest.mark.parametrize("name", WHOLE_SCANS)
def test_scan_that_could_not_read_all_does_not_end_with_0(name: str, tmp_path: Path) -> None:
    case = next(one for one in CASES if one.name == name)
    (tmp_path / "data").mkdir()
    source = case.write(tmp_path / "data")
    report = scan(source, ScanConfig(image_size=8, device="cpu", jobs=1), cache_dir=tmp_path / "cache")
    assert report.status == "incomplete"
    assert {one.reason for one in report.skipped} & case.expected
    assert report.exit_code() == 2
    assert report.exit_code(fail_on="never") == 2
