"""The guarded dataset with real scans: once, at first use, cached, and before workers start."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scans import ACCUSING
from torch.utils.data import DataLoader, Subset, TensorDataset

from vbdguard.errors import PoisonFoundError, UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.wrapping import guard
from vbdguard.scanner import scan

COUNT = 90


@pytest.fixture
def tensors() -> TensorDataset:
    """Three classes of 16 x 16 noise around a brightness of their own."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % 3
    noise = torch.randint(0, 150, (COUNT, 3, 16, 16), generator=generator)
    return TensorDataset((noise + 50 * labels[:, None, None, None]).to(torch.uint8), labels)


class Counted(torch.utils.data.Dataset[Any]):
    """Counts how often it is read."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.reads = 0
        self.classes = ["ant", "bee", "cat"]

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.inner[index]


def test_nothing_is_read_before_the_first_use(tensors: TensorDataset) -> None:
    counted = Counted(tensors)
    guarded = GuardedDataset(counted, config=ACCUSING)
    assert guarded.classes == ["ant", "bee", "cat"]
    assert counted.reads == 0
    kept = len(guarded)
    assert counted.reads > 0
    reads = counted.reads
    assert (len(guarded), len(guarded.kept_indices)) == (kept, kept)
    assert guarded.report.dataset.samples == COUNT
    assert counted.reads == reads


def test_every_sample_is_kept_or_flagged_as_the_report_says(tensors: TensorDataset) -> None:
    guarded = GuardedDataset(tensors, config=ACCUSING)
    assert 0 < len(guarded.flagged_indices) < COUNT
    assert guarded.flagged_indices.tolist() == sorted(int(entry.key) for entry in guarded.report.flagged)
    assert sorted([*guarded.kept_indices, *guarded.flagged_indices]) == list(range(COUNT))
    for place in (0, -1):
        assert torch.equal(guarded[place][0], tensors[int(guarded.kept_indices[place])][0])


def test_a_scan_draws_from_nobodys_random_numbers(tensors: TensorDataset, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    plain = DataLoader(tensors, batch_size=9, shuffle=True, generator=generator)
    states = [torch.get_rng_state(), np.random.get_state()[1], generator.get_state()]  # noqa: NPY002
    loader = guard(plain, config=ACCUSING, cache_dir=tmp_path)
    assert not loader.dataset.report.from_cache
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(states[2], generator.get_state())


def test_a_loader_loads_all_but_what_a_real_scan_flags(tensors: TensorDataset, tmp_path: Path) -> None:
    plain = DataLoader(tensors, batch_size=7)
    loader = guard(plain, config=ACCUSING, cache_dir=tmp_path)
    flagged = {int(entry.key) for entry in loader.dataset.report.flagged}
    assert 0 < len(flagged) < COUNT
    expected = [tensors[index] for index in range(COUNT) if index not in flagged]
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [int(label) for _, label in expected]
    assert sum(loader.dataset.counts.total.dropped.values()) == len(flagged)


def test_a_second_guard_on_the_same_data_takes_the_cached_report(tensors: TensorDataset, tmp_path: Path) -> None:
    first = GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path)
    second = GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path)
    assert not first.report.from_cache
    assert second.report.from_cache
    assert second.report.flagged == first.report.flagged
    assert second.kept_indices.tolist() == first.kept_indices.tolist()


def test_the_same_data_in_another_order_take_the_cached_report_too(tensors: TensorDataset, tmp_path: Path) -> None:
    first = GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).tolist()
    assert not first.report.from_cache
    second = GuardedDataset(Subset(tensors, order), config=ACCUSING, cache_dir=tmp_path)
    assert second.report.from_cache
    assert len(second.flagged_indices) > 0
    assert sorted(order[index] for index in second.flagged_indices) == first.flagged_indices.tolist()


def test_a_changed_sample_is_a_new_scan(tensors: TensorDataset, tmp_path: Path) -> None:
    assert not GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path).report.from_cache
    tensors.tensors[0][5, 0, 0, 0] ^= 1
    assert not GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path).report.from_cache


def test_a_report_from_an_earlier_scan_is_taken_as_it_is(tensors: TensorDataset, tmp_path: Path) -> None:
    report = scan(tensors, ACCUSING, cache_dir=tmp_path)
    guarded = GuardedDataset(tensors, report=report, cache_dir=tmp_path / "never used")
    assert guarded.report is report
    assert len(guarded.flagged_indices) == len(report.flagged) > 0
    assert not (tmp_path / "never used").exists()


def test_raw_is_what_the_scan_sees(tensors: TensorDataset, tmp_path: Path) -> None:
    normalised = TensorDataset(tensors.tensors[0] / 64 - 2, tensors.tensors[1])
    guarded = GuardedDataset(normalised, raw=tensors, config=ACCUSING, cache_dir=tmp_path)
    assert guarded.report.dataset.digest == scan(tensors, ACCUSING, cache_dir=tmp_path).dataset.digest
    assert torch.equal(guarded[0][0], normalised[int(guarded.kept_indices[0])][0])


def test_relabel_gives_flagged_samples_the_suggested_classes(tensors: TensorDataset) -> None:
    guarded = GuardedDataset(tensors, config=ACCUSING, on_poison="relabel")
    suggestions = {int(entry.key): entry.suggested_label for entry in guarded.report.flagged}
    assert set(suggestions) <= set(guarded.kept_indices.tolist())
    expected = [suggestions.get(index, int(tensors[index][1])) for index in range(COUNT)]
    assert [int(label) for _, label in guarded] == expected
    assert expected != tensors.tensors[1].tolist()


def test_raise_stops_after_a_scan_that_found_poison(tensors: TensorDataset) -> None:
    guarded = GuardedDataset(tensors, config=ACCUSING, on_poison="raise")
    with pytest.raises(PoisonFoundError, match=r"TensorDataset: \d+ poisoned samples"):
        len(guarded)
    assert guarded.report.verdict == "poisoned"


def test_unreadable_items_leave_the_scan_incomplete_and_are_dropped_on_request(tensors: TensorDataset) -> None:
    items = [(image, label) for image, label in tensors]
    items[7] = (None, items[7][1])
    with pytest.raises(UnscannedSampleError, match="7: bad-layout"):
        len(GuardedDataset(items, config=ACCUSING))
    guarded = GuardedDataset(items, config=ACCUSING, on_unscanned="drop")
    assert guarded.report.status == "incomplete"
    assert 7 not in guarded.kept_indices
    assert len(guarded) + len(guarded.flagged_indices) == COUNT - 1


def test_pickling_scans_first(tensors: TensorDataset) -> None:
    guarded = pickle.loads(pickle.dumps(GuardedDataset(tensors, config=ACCUSING)))
    assert "not scanned" not in repr(guarded)
    assert guarded.report.dataset.samples == COUNT


@pytest.mark.parametrize("context", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_that_start_before_the_first_use_give_the_same_batches(
    tensors: TensorDataset, context: str, tmp_path: Path
) -> None:
    guarded = GuardedDataset(tensors, config=ACCUSING, cache_dir=tmp_path)
    loader = DataLoader(guarded, batch_size=16, num_workers=2, multiprocessing_context=context)
    images = torch.cat([images for images, _ in loader])
    assert "not scanned" not in repr(guarded)
    assert torch.equal(images, tensors.tensors[0][torch.from_numpy(guarded.kept_indices)])


def test_class_names_of_the_dataset_reach_the_report(tensors: TensorDataset) -> None:
    report = GuardedDataset(Counted(tensors), config=ACCUSING).report
    assert [entry.name for entry in report.classes] == ["ant", "bee", "cat"]
    np.testing.assert_array_equal([entry.samples for entry in report.classes], COUNT // 3)
