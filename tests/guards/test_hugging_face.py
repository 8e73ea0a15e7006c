"""A guarded Hugging Face dataset is a real one: the same columns, features and format, minus the poison."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets
from PIL import Image as Picture
from torch.utils.data import DataLoader

import vbdguard
from vbdguard.errors import ConfigError, UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.report import ScanReport

from .conftest import NAMES, make_report

PIXELS = np.random.default_rng(1).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
FLAGGED = {1: 2, 4: 0, 10: None}
KEPT = [index for index in range(12) if index not in FLAGGED]
FEATURES = Features(id=Value("int64"), label=ClassLabel(names=list(NAMES)), image=Image())


@pytest.fixture(scope="module")
def rows() -> Dataset:
    columns = {
        "id": list(range(12)),
        "label": [index % 3 for index in range(12)],
        "image": [Picture.fromarray(pixels) for pixels in PIXELS],
    }
    return Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture(scope="module")
def found() -> ScanReport:
    return make_report([(image, index % 3) for index, image in enumerate(PIXELS)], FLAGGED)


def test_the_kept_rows_come_back_as_a_real_dataset(rows: Dataset, found: ScanReport) -> None:
    kept = vbdguard.guard(rows, report=found)
    assert type(kept) is Dataset
    assert kept["id"] == KEPT
    assert (kept.features, kept.column_names) == (rows.features, rows.column_names)
    np.testing.assert_array_equal(np.asarray(kept[1]["image"]), PIXELS[2])
    assert len(rows) == 12


def test_what_was_done_is_told(rows: Dataset, found: ScanReport) -> None:
    kept = vbdguard.guard(rows, report=found)
    assert kept.vbdguard.report is found
    assert dict(kept.vbdguard.counts.total.dropped) == {1: 3}
    assert vbdguard.guard(kept) is kept


def test_relabelled_rows_have_another_class_and_nothing_else(rows: Dataset, found: ScanReport) -> None:
    relabelled = vbdguard.guard(rows, report=found, on_poison="relabel")
    expected = {index: index % 3 for index in range(12) if index != 10} | {1: 2, 4: 0}
    assert dict(zip(relabelled["id"], relabelled["label"], strict=True)) == expected
    assert (relabelled.features, relabelled.column_names) == (rows.features, rows.column_names)
    np.testing.assert_array_equal(np.asarray(relabelled[1]["image"]), PIXELS[1])
    assert rows["label"] == [index % 3 for index in range(12)]


@pytest.mark.parametrize("on_poison", ["drop", "relabel"])
def test_rows_that_were_selected_before_keep_their_order(rows: Dataset, found: ScanReport, on_poison: Any) -> None:
    order = list(range(12))[::-1]
    kept = vbdguard.guard(rows.select(order), report=found, on_poison=on_poison)
    assert kept["id"] == [index for index in order if index in KEPT or (on_poison == "relabel" and index != 10)]


def test_a_format_stays_and_the_scan_sees_past_it(rows: Dataset, found: ScanReport) -> None:
    for policy in ("drop", "relabel"):
        kept = vbdguard.guard(rows.with_format("torch", columns=["image", "label"]), report=found, on_poison=policy)
        assert set(kept[0]) == {"image", "label"}
        assert torch.equal(kept[0]["image"], torch.from_numpy(PIXELS[0]).permute(2, 0, 1))


def flip_and_scale(batch: dict[str, Any]) -> dict[str, Any]:
    """A random augmentation, of which the scan must see nothing."""
    images = [
        np.asarray(image, dtype=np.float32) / 64 - 2 + np.random.default_rng().random() for image in batch["image"]
    ]
    return {"pixel_values": images, "label": batch["label"], "id": batch["id"]}


@pytest.mark.parametrize("policy", ["drop", "relabel"])
def test_a_random_transform_stays_and_the_scan_sees_past_it(rows: Dataset, found: ScanReport, policy: Any) -> None:
    augmented = rows.with_transform(flip_and_scale)
    kept = vbdguard.guard(augmented, report=found, on_poison=policy)
    row = kept[0]
    assert (set(row), row["id"]) == ({"pixel_values", "label", "id"}, 0)
    # The format is scanned past in the class that a script may name itself, too.
    assert GuardedDataset(augmented, report=found).kept_indices.tolist() == KEPT


def test_a_column_under_another_name_can_be_scanned_but_not_relabelled(rows: Dataset, found: ScanReport) -> None:
    renamed = rows.rename_column("label", "species")
    kept = vbdguard.guard(renamed, report=found, raw=rows)
    assert kept["id"] == KEPT
    with pytest.raises(ConfigError, match="species"):
        vbdguard.guard(renamed, report=found, raw=rows, on_poison="relabel")


def test_rows_that_no_scan_has_seen_are_refused(rows: Dataset, found: ScanReport) -> None:
    with pytest.raises(UnscannedSampleError, match="expected the 12 samples that the report speaks of"):
        vbdguard.guard(concatenate_datasets([rows, rows.select([0])]), report=found)


def test_rows_added_behind_the_guard_are_not_taken_for_guarded(rows: Dataset, found: ScanReport) -> None:
    grown = concatenate_datasets([vbdguard.guard(rows, report=found), rows.select([1])])
    with pytest.raises(UnscannedSampleError):
        vbdguard.guard(grown, report=found)
    # What only looks at the same rows in another way stays guarded.
    narrowed = vbdguard.guard(rows, report=found).with_format("numpy").rename_column("id", "number")
    assert vbdguard.guard(narrowed) is narrowed


def collate(items: list[dict[str, Any]]) -> list[int]:
    return [item["id"] for item in items]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_over_rows_loads_the_kept_ones(rows: Dataset, found: ScanReport, workers: int) -> None:
    plain = DataLoader(
        rows,
        batch_size=4,
        shuffle=True,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    loader = vbdguard.guard(plain, report=found)
    assert type(loader.dataset) is Dataset
    numbers = [number for batch in loader for number in batch]
    assert Counter(numbers) == Counter(range(12)) - Counter(list(FLAGGED))
    assert vbdguard.guard(loader) is loader
