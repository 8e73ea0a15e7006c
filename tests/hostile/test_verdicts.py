"""What a scan ends with where something could not be read (never "clean"), or is odd (never silently so)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_corpus import CASES

from vbdguard.config import ScanConfig
from vbdguard.formats.rendering import render
from vbdguard.report import ScanReport
from vbdguard.scanner import scan
from vbdguard.summary import summarise

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


@pytest.mark.parametrize(("name", "reason"), [("tar-repeated-key", "repeated-key"), ("tar-name-0", "unsafe-name")])
def test_what_is_odd_but_was_read_and_judged_is_told_and_leaves_the_scan_whole(
    name: str, reason: str, tmp_path: Path
) -> None:
    case = next(one for one in CASES if one.name == name)
    (tmp_path / "data").mkdir()
    source = case.write(tmp_path / "data")
    for _ in range(2):  # computed, then from the cache
        report = scan(source, ScanConfig(image_size=8, device="cpu", jobs=1), cache_dir=tmp_path / "cache")
        assert (report.status, report.exit_code(), report.skipped) == ("complete", 0, ())
        assert {one.reason for one in report.notes} == {reason}
        assert {shard.status for shard in report.dataset.shards} == {"complete"}
        assert ScanReport.from_json(report.to_json()) == report
        for page in (summarise(report), *(render(report, form) for form in ("markdown", "html", "json", "jsonl"))):
            assert reason in page
