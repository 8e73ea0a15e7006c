"""Digests by index: flagged samples are found whatever their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import SourceError, UnscannedSampleError
from vbdguard.guards.ledger import Ledger, NotingSource, read_all, require_same_data
from vbdguard.ingest import decode
from vbdguard.ingest.digest import sample_digest
from vbdguard.ingest.reader import ingest
from vbdguard.report import FlaggedSample, ScanReport
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.torch_dataset import TorchDatasetSource


def filled(items: Any) -> Ledger:
    ledger = Ledger(len(items))
    read_all(NotingSource(TorchDatasetSource(items), ledger))
    return ledger


def pixel(value: int) -> Any:
    return np.full((2, 2), value, np.uint8)


def entry(digest: bytes) -> FlaggedSample:
    return FlaggedSample(key="elsewhere", digest=digest.hex(), label=0, score=1.0, suggested_label=None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.sets(st.integers(0, 5)))
def test_exactly_the_samples_with_a_flagged_digest_are_found(values: list[int], bad: set[int]) -> None:
    ledger = filled([(pixel(value), value) for value in values])
    found = ledger.find([entry(sample_digest(pixel(value), value)) for value in bad])
    assert list(found) == [index for index, value in enumerate(values) if value in bad]


def test_a_digest_that_shares_its_head_only_is_not_found() -> None:
    digest = sample_digest(pixel(0), 0)
    assert filled([(pixel(0), 0)]).find([entry(digest[:31] + bytes([digest[31] ^ 1]))]) == {}


def test_an_unread_sample_is_not_taken_for_a_digest_of_zeros() -> None:
    assert Ledger(2).find([entry(bytes(32))]) == {}


def test_the_noting_source_passes_everything_on() -> None:
    source = TorchDatasetSource([(pixel(0), 0), (pixel(1), 1)])
    noting = NotingSource(source, Ledger(2))
    seen = [entry for shard in noting.shards for entry in shard.read()]
    assert [(e.key, e.label) for e in seen if isinstance(e, RawSample)] == [("0", 0), ("1", 1)]
    assert [shard.name for shard in noting.shards] == [shard.name for shard in source.shards]
    assert (noting.names, noting.is_picklable, noting.class_names) == (source.names, False, None)


def test_a_ledger_is_complete_when_every_index_was_met() -> None:
    ledger = Ledger(2)
    assert not ledger.is_complete
    ledger.note(RawSample("0", pixel(0), 0))
    assert not ledger.is_complete
    ledger.note(Unreadable("1", "item-failed", "gone"))
    assert ledger.is_complete


@pytest.mark.parametrize("later", [RawSample("0", pixel(1), 0), RawSample("0", pixel(0), 1), Unreadable("0", "x", "y")])
def test_a_sample_that_changes_between_reads_is_refused(later: RawSample | Unreadable) -> None:
    ledger = Ledger(1)
    ledger.note(RawSample("0", pixel(0), 0))
    ledger.note(RawSample("0", pixel(0), 0))
    with pytest.raises(SourceError, match=r"index 0: expected the same sample at each read.*raw="):
        ledger.note(later)


def test_a_sample_that_becomes_readable_between_reads_is_refused() -> None:
    ledger = Ledger(1)
    ledger.note(Unreadable("0", "item-failed", "busy"))
    with pytest.raises(SourceError, match="index 0"):
        ledger.note(RawSample("0", pixel(0), 0))


def test_the_report_on_the_same_data_fits(data: Any, report: ScanReport) -> None:
    require_same_data(filled(data), report, name="ArrayData")


def test_the_report_on_other_data_does_not_fit(data: Any, report: ScanReport) -> None:
    data.data[5, 0, 0, 0] ^= 1
    with pytest.raises(UnscannedSampleError, match=r"ArrayData: expected the 24 samples.*got 24 samples.*scan this"):
        require_same_data(filled(data), report, name="ArrayData")


def test_a_change_of_label_alone_does_not_fit(data: Any, report: ScanReport) -> None:
    data.targets[5] = 0
    with pytest.raises(UnscannedSampleError):
        require_same_data(filled(data), report, name="ArrayData")


def test_unreadable_samples_are_part_of_what_fits(report_on: Callable[..., ScanReport]) -> None:
    items = [(pixel(0), 0), ("no image", 0), (pixel(2), 1)]
    ledger = filled(items)
    require_same_data(ledger, report_on(items, {}, skipped={1: "bad-layout"}), name="list")
    with pytest.raises(UnscannedSampleError):
        require_same_data(ledger, report_on([items[0], items[2]], {}), name="list")


def test_samples_too_large_to_decode_count_as_unscanned(monkeypatch: pytest.MonkeyPatch, report_on: Any) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 8)
    items = [(pixel(0), 0), (np.zeros((3, 3), np.uint8), 1)]
    ledger = filled(items)
    assert {index: entry.reason for index, entry in ledger.unscanned.items()} == {1: "too-large"}
    as_if_all_scanned = report_on(items, {})
    with pytest.raises(UnscannedSampleError, match="expected 1 samples left out of the scan, the report has 0"):
        require_same_data(ledger, as_if_all_scanned, name="list")
    skipped = report_on(items, {}, skipped={1: "too-large"}).skipped
    require_same_data(ledger, replace(as_if_all_scanned, status="incomplete", skipped=skipped), name="list")


def test_the_digest_and_what_is_left_out_are_those_of_ingest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 8)
    items = [(pixel(0), "bee"), (pixel(1), "ant"), ("no image", "ant"), (np.zeros((3, 3), np.uint8), "bee")]
    ledger = Ledger(len(items))
    ingested = ingest(NotingSource(TorchDatasetSource(items), ledger), store_dir=tmp_path, image_size=(8, 8))
    assert ledger.is_complete
    assert ledger.dataset_digest() == ingested.dataset_digest
    assert [ledger.unscanned[index] for index in sorted(ledger.unscanned)] == list(ingested.skipped)
    assert ledger.has_names
    again = Ledger(len(items))
    warm = ingest(NotingSource(TorchDatasetSource(items), again), store_dir=tmp_path, image_size=(8, 8))
    assert again.is_complete
    assert again.dataset_digest() == warm.dataset_digest == ingested.dataset_digest
