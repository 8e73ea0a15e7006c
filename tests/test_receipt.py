from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbdguard.errors import ReceiptError
from vbdguard.receipt import Receipt, sources_from
from vbdguard.report import ScanReport, SkippedSample

MakeData = Callable[..., ScanReport]


@pytest.fixture
def report(known_data: MakeData) -> ScanReport:
    return known_data(flagged={"train-000000.tar/s01": 0, "train-000002.tar/s09": None})


def test_a_receipt_is_the_short_form_of_its_report(report: ScanReport, tmp_path: Path) -> None:
    receipt = Receipt.of(report, tmp_path / "vbdguard.lock")
    assert (receipt.digest, receipt.status, receipt.verdict) == (report.dataset.digest, "complete", "poisoned")
    assert (receipt.samples, receipt.classes, receipt.flagged, receipt.skipped) == (16, 2, 2, 0)
    assert receipt.config == report.config
    assert [(shard.name, shard.digest) for shard in receipt.shards] == [
        (shard.name, shard.digest) for shard in report.dataset.shards
    ]
    assert receipt.flagged_in == {"train-000000.tar": 1, "train-000002.tar": 1}


def test_what_is_written_is_read_again(report: ScanReport, tmp_path: Path) -> None:
    path = tmp_path / "vbdguard.lock"
    Receipt.of(report, path).write(path)
    assert Receipt.read(path) == Receipt.of(report, path)


def test_the_same_scan_gives_the_same_bytes_whatever_the_clock_and_the_machine(
    report: ScanReport, tmp_path: Path
) -> None:
    path = tmp_path / "vbdguard.lock"
    later = replace(report, timings={"total": 99.0}, environment={"python": "4"}, device="cuda", from_cache=True)
    assert Receipt.of(later, path).to_json() == Receipt.of(report, path).to_json()


def test_a_changed_shard_is_one_changed_line_beside_digest_and_checksum(known_data: MakeData, tmp_path: Path) -> None:
    report = known_data()
    first, *others = report.dataset.shards
    changed = replace(report, dataset=replace(report.dataset, shards=(replace(first, digest="f" * 64), *others)))
    before, after = (Receipt.of(r, tmp_path / "x").to_json().splitlines() for r in (report, changed))
    differing = [line for line, other in zip(before, after, strict=True) if line != other]
    assert len(differing) == 2
    assert first.name in differing[0]
    assert "checksum" in differing[1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_edit_anywhere_is_refused(report: ScanReport, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "vbdguard.lock"
    text = Receipt.of(report, path).to_json()
    place = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.sampled_from([c for c in '0a"}9' if c != text[place]]))
    path.write_text(text[:place] + other + text[place + 1 :])
    try:
        assert Receipt.read(path) == Receipt.of(report, path), "an edit of white space alone may pass"
    except ReceiptError as error:
        assert "refused" in str(error)  # noqa: PT017 - an edit that means nothing does not raise


EDITS: list[tuple[str, Any, str]] = [
    ("verdict", "clean", "edited or damaged"),
    ("receipt_version", 2, "expected receipt_version 1, got 2"),
    ("samples", "many", "expected a whole number"),
    ("surplus", 1, "unknown 'surplus'"),
    ("checksum", "0" * 64, "edited or damaged"),
]


@pytest.mark.parametrize(("name", "value", "words"), EDITS, ids=[edit[0] for edit in EDITS])
def test_an_edited_receipt_says_what_is_wrong(
    name: str, value: Any, words: str, report: ScanReport, tmp_path: Path
) -> None:
    path = tmp_path / "vbdguard.lock"
    path.write_text(json.dumps({**json.loads(Receipt.of(report, path).to_json()), name: value}))
    with pytest.raises(ReceiptError, match=rf"refused: .*{words}.*; scan again: vbdguard scan SOURCE --receipt"):
        Receipt.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "<<<<<<< ours", "[" * 100_000, "\xff"])
def test_what_is_no_receipt_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_bytes(text.encode("latin-1"))
    with pytest.raises(ReceiptError, match="refused"):
        Receipt.read(tmp_path / "x.lock")


def test_a_missing_receipt_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ReceiptError, match="vbdguard scan SOURCE --receipt"):
        Receipt.read(tmp_path / "none.lock")


def test_what_is_left_out_is_in_the_receipt_and_only_a_share_of_it_is_accepted(
    report: ScanReport, tmp_path: Path
) -> None:
    lost = replace(report, status="incomplete", skipped=(SkippedSample("train-000000.tar/x", "undecodable", "why"),))
    receipt = Receipt.of(lost, tmp_path / "x.lock")
    assert receipt.unread_percent == pytest.approx(100 / 17, abs=1e-4)
    assert [receipt.is_accepted(percent) for percent in (0, 5, 6)] == [False, False, True]


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("data/train", "../data/train"),
        ("data/train-{000..009}.tar", "../data/train-{000..009}.tar"),
        ("data/*.tar::more/x.tar", "../data/*.tar::../more/x.tar"),
        ("s3://bucket/x.tar", "s3://bucket/x.tar"),
        ("/elsewhere/train", "/elsewhere/train"),
        ("ci/inner", "inner"),
    ],
)
def test_sources_are_named_from_the_receipts_folder(
    named: str, kept: str, report: ScanReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("ci/vbdguard.lock")
    receipt = Receipt.of(replace(report, dataset=replace(report.dataset, sources=(named,))), path)
    assert receipt.sources == (kept,)
    (back,) = sources_from(receipt, path)
    assert [os.path.normpath(part) if "://" not in part else part for part in back.split("::")] == named.split("::")


def test_the_machines_folders_stay_out_of_a_receipt_beside_its_data(known_data: MakeData, tmp_path: Path) -> None:
    receipt = Receipt.of(known_data(), tmp_path / "vbdguard.lock")
    assert receipt.sources == ("data",)
    assert str(tmp_path) not in receipt.to_json()
