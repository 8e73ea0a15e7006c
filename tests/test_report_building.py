"""From what was read and found to the report, with findings whose every part is known."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from vbdguard.config import ScanConfig
from vbdguard.ingest.digest import sample_digest
from vbdguard.ingest.reader import Ingested, ingest
from vbdguard.method.pipeline import ClassFinding, Detection
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.report import ScanReport, report_schema
from vbdguard.report_building import build_report, renew_report
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import encode_image, write_shards

LABELS = (7, 3, 7, 3, 12, 7)
FLAGGED = (0, 2, 4)
"""Positions of the flagged samples in `LABELS`: two of class 7, one of class 12."""


def picture(number: int) -> bytes:
    return encode_image(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def write(folder: Path, prefix: str = "train", numbers: Sequence[int] = range(len(LABELS))) -> str:
    samples = (RawSample(f"s{number}", picture(number), LABELS[number]) for number in numbers)
    write_shards(samples, folder, per_shard=4, prefix=prefix)
    return str(folder)


def read(source: str, tmp_path: Path) -> Ingested:
    return ingest(source, store_dir=tmp_path / "store", image_size=(16, 16))


@pytest.fixture
def ingested(tmp_path: Path) -> Ingested:
    return read(write(tmp_path / "data"), tmp_path)


def trigger() -> TriggerCandidate:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[13:, 12:15] = True
    pattern = torch.zeros(3, 16, 16)
    pattern[:, 13:, 12:15] = torch.tensor([10.4, 200.6, 255.0])[:, None, None]
    return TriggerCandidate(mask, pattern)


def find(ingested: Ingested, flagged: Sequence[int] = FLAGGED) -> Detection:
    """Flag the samples at some positions of `LABELS`; classes 7 and 12 are the store's 1 and 2."""
    order = [int(key.rsplit("/s")[1]) for key in ingested.store.keys]
    is_flagged = torch.tensor([number in flagged for number in order])
    scores = torch.tensor([0.9 + number / 1e8 if number in flagged else 0.25 for number in order])
    suggested = torch.tensor([(0 if number else -1) if number in flagged else -1 for number in order])
    poisoned = {ingested.store.labels[place] for place in is_flagged.nonzero().squeeze(1)}
    classes = tuple(
        ClassFinding(k, True, 1e-7, 0.98, trigger(), 0.4987)
        if k in poisoned
        else ClassFinding(k, False, None, None, None, None)
        for k in range(len(ingested.store.class_labels))
    )
    return Detection(classes, is_flagged, scores, suggested, {"ensemble": 1.23456, "suspects": 0.5})


def build(ingested: Ingested, detection: Detection) -> ScanReport:
    seconds = {"ingest": 0.1, **detection.seconds, "total": 2.0}
    return build_report(ingested, detection, ScanConfig(device="cpu"), device="cpu", seconds=seconds)


def test_flagged_samples_are_named_by_key_digest_and_the_sources_own_labels(ingested: Ingested) -> None:
    report = build(ingested, find(ingested))
    assert [(entry.key, entry.label) for entry in report.flagged] == [
        ("train-000000.tar/s0", 7),
        ("train-000000.tar/s2", 7),
        ("train-000001.tar/s4", 12),
    ]
    assert [entry.digest for entry in report.flagged] == [sample_digest(picture(n), LABELS[n]).hex() for n in FLAGGED]
    assert [entry.suggested_label for entry in report.flagged] == [None, 3, 3]
    assert [entry.score for entry in report.flagged] == [0.9, 0.9, 0.9]


def test_classes_bear_the_sources_numbers_and_count_their_flags(ingested: Ingested) -> None:
    report = build(ingested, find(ingested))
    assert [(c.label, c.samples, c.poisoned, c.flagged) for c in report.classes] == [
        (3, 2, False, 0),
        (7, 3, True, 2),
        (12, 1, True, 1),
    ]
    assert (report.verdict, report.status) == ("poisoned", "complete")
    assert (report.classes[0].p_value, report.classes[1].p_value) == (None, 1e-7)
    assert report.timings == {"ingest": 0.1, "ensemble": 1.235, "suspects": 0.5, "total": 2.0}


def test_the_report_is_valid_and_survives_its_json(ingested: Ingested) -> None:
    report = build(ingested, find(ingested))
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(report.to_json()))
    assert ScanReport.from_json(report.to_json()) == report


def test_the_trigger_is_drawn_as_it_was_found(ingested: Ingested) -> None:
    shown = build(ingested, find(ingested)).classes[1].trigger
    assert shown is not None
    assert (shown.bbox, shown.pixels, shown.blend_factor) == ((13, 12, 3, 3), 9, 0.5)
    mask, pattern = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in (shown.mask_png, shown.pattern_png)
    )
    expected = trigger().mask.numpy()
    np.testing.assert_array_equal(mask, expected * np.uint8(255))
    np.testing.assert_array_equal(pattern[..., 3], mask)
    assert pattern[14, 13].tolist() == [10, 201, 255, 255]
    assert not pattern[~expected].any()


def test_kept_scores_of_judged_classes_are_counted_in_twenty_bins(ingested: Ingested) -> None:
    report = build(ingested, find(ingested))
    kept = (*[0] * 5, 1, *[0] * 14)  # 0.25 opens the sixth bin
    assert [c.kept_scores for c in report.classes] == [None, kept, (0,) * 20]


def test_the_gradient_is_drawn_where_one_was_taken(ingested: Ingested) -> None:
    assert (found := build(ingested, find(ingested)).classes[1].trigger) is not None
    assert found.gradient_png is None
    gradient = torch.zeros(3, 16, 16)
    gradient[:, 13, 12], gradient[:, 0, 0] = torch.tensor([0.0, -0.6, 0.8]), torch.tensor([0.5, 0.0, 0.0])
    detection = find(ingested)
    classes = tuple(
        replace(finding, mean_gradient=gradient) if finding.is_poisoned else finding for finding in detection.classes
    )
    shown = build(ingested, replace(detection, classes=classes)).classes[1].trigger
    assert shown is not None
    assert shown.gradient_png is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.gradient_png))))
    assert (picture.shape, picture[13, 12], picture[0, 0], np.count_nonzero(picture)) == ((16, 16), 255, 128, 2)


def test_a_finding_without_flags_is_clean(ingested: Ingested) -> None:
    report = build(ingested, find(ingested, ()))
    assert (report.verdict, report.flagged, report.poisoned_classes) == ("clean", (), ())
    assert report.exit_code() == 0


def test_what_could_not_be_read_makes_the_report_incomplete(ingested: Ingested, tmp_path: Path) -> None:
    path = tmp_path / "data" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:700])
    report = build(torn := read(str(tmp_path / "data"), tmp_path), find(torn, ()))
    assert (report.status, report.verdict, report.exit_code()) == ("incomplete", "clean", 2)
    assert report.skipped


def test_a_cached_report_takes_the_names_that_the_data_bear_now(ingested: Ingested, tmp_path: Path) -> None:
    cached = replace(build(ingested, find(ingested)), from_cache=True)
    moved = read(write(tmp_path / "moved", "part", [5, 4, 3, 2, 1, 0]), tmp_path)
    renewed = renew_report(cached, moved, seconds={"ingest": 0.2, "total": 0.3})
    assert [entry.key for entry in renewed.flagged] == [
        "part-000000.tar/s2",
        "part-000000.tar/s4",
        "part-000001.tar/s0",
    ]
    assert {entry.digest for entry in renewed.flagged} == {entry.digest for entry in cached.flagged}
    assert {entry.key: entry.label for entry in renewed.flagged}["part-000000.tar/s4"] == 12
    assert [shard.name for shard in renewed.dataset.shards] == ["part-000000.tar", "part-000001.tar"]
    assert renewed.dataset.digest == cached.dataset.digest
    assert renewed.timings == {"ingest": 0.2, "total": 0.3}
    assert renewed.from_cache
    assert renewed == replace(build(moved, find(moved)), timings=renewed.timings)


def test_copies_of_a_flagged_sample_are_all_flagged(tmp_path: Path) -> None:
    twice = read(write(tmp_path / "twice", numbers=[0, 0, 1, 2, 3, 4, 5]), tmp_path)
    assert sum("s0" in key for key in twice.store.keys) == 2
    order = [key.rsplit("/")[1].split("-")[0] for key in twice.store.keys]
    detection = find(replace(twice, store=replace(twice.store, keys=tuple(f"x/{name}" for name in order))))
    report = build(twice, detection)
    assert report.classes[1].flagged == 3
    renewed = renew_report(report, twice, seconds={"total": 0.1})
    assert [entry.key for entry in renewed.flagged] == [entry.key for entry in report.flagged]
