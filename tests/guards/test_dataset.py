"""The guarded dataset behaves like its inner dataset minus what the scan flagged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import FakeData

from vbdguard.errors import ConfigError, PoisonFoundError, SourceError, UnscannedSampleError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.policy import GuardWarning
from vbdguard.report import ScanReport

from .conftest import ArrayData, make_report

KEPT = [index for index in range(24) if index not in (1, 4, 10)]


def raw_pairs(dataset: Any) -> list[tuple[Any, Any]]:
    return [(np.asarray(image), label) for image, label in (dataset[index] for index in range(len(dataset)))]


def fake(**arguments: Any) -> FakeData:
    return FakeData(size=12, image_size=(3, 6, 6), num_classes=3, **arguments)


def test_only_kept_samples_are_there(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    assert len(guarded) == len(KEPT)
    for place, index in enumerate(KEPT):
        np.testing.assert_array_equal(guarded[place][0], data.data[index])
        assert guarded[place][1] == data.targets[index]


def test_indices_of_both_kinds_are_told(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    assert guarded.kept_indices.tolist() == KEPT
    assert guarded.flagged_indices.tolist() == [1, 4, 10]
    assert guarded.kept_indices.dtype == guarded.flagged_indices.dtype == np.int64
    assert guarded.report is report


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 11)))
def test_kept_and_dropped_are_all(flagged: set[int]) -> None:
    data = ArrayData(12)
    guarded = GuardedDataset(data, report=make_report(raw_pairs(data), dict.fromkeys(flagged)))
    assert sorted([*guarded.kept_indices, *guarded.flagged_indices]) == list(range(12))
    assert set(guarded.flagged_indices.tolist()) == flagged


def test_the_same_data_in_another_order_lose_the_same_samples(data: Any, report: ScanReport) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    guarded = GuardedDataset(Subset(data, order), report=report)
    assert [order[index] for index in guarded.kept_indices] == [index for index in order if index in KEPT]


def test_every_twin_of_a_flagged_sample_goes(data: Any, report_on: Callable[..., ScanReport]) -> None:
    data.data[7], data.targets[7] = data.data[1], data.targets[1]
    guarded = GuardedDataset(data, report=report_on(raw_pairs(data), {1: None}))
    assert guarded.flagged_indices.tolist() == [1, 7]


def test_negative_indices_count_from_the_end(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    np.testing.assert_array_equal(guarded[-1][0], data.data[23])
    np.testing.assert_array_equal(guarded[-len(KEPT)][0], data.data[0])


@pytest.mark.parametrize("index", [len(KEPT), -len(KEPT) - 1])
def test_indices_out_of_range_are_refused(data: Any, report: ScanReport, index: int) -> None:
    with pytest.raises(IndexError, match=r"out of range for 21 kept samples"):
        GuardedDataset(data, report=report)[index]


@pytest.mark.parametrize("index", [slice(0, 3), [0, 1], "0", 1.0, None])
def test_anything_but_one_integer_is_refused(data: Any, report: ScanReport, index: Any) -> None:
    with pytest.raises(TypeError, match=r"expected one integer index, got .*Subset"):
        GuardedDataset(data, report=report)[index]


@pytest.mark.parametrize("index", [3, np.int64(3), torch.tensor(3)])
def test_integers_of_every_kind_are_taken(data: Any, report: ScanReport, index: Any) -> None:
    np.testing.assert_array_equal(GuardedDataset(data, report=report)[index][0], data.data[KEPT[3]])


def test_iteration_ends(data: Any, report: ScanReport) -> None:
    assert [label for _, label in GuardedDataset(data, report=report)] == [data.targets[index] for index in KEPT]


class Batched(TensorDataset):
    """Has a batched getter, as Hugging Face's datasets and Subset do, and no other."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        assert all(type(index) is int for index in indices)
        return [super(Batched, self).__getitem__(index) for index in indices]


def test_a_batched_getter_of_the_inner_dataset_gets_inner_indices(report_on: Callable[..., ScanReport]) -> None:
    inner = Batched(torch.arange(10, dtype=torch.uint8)[:, None, None].expand(10, 2, 2), torch.arange(10))
    guarded = GuardedDataset(inner, report=report_on(raw_pairs(inner), dict.fromkeys(range(5))))
    assert [int(label) for _, label in guarded.__getitems__([0, 1, 2, -1])] == [5, 6, 7, 9]


def test_a_batched_getter_that_loses_items_is_noticed(data: Any, report: ScanReport) -> None:
    data.__class__ = type("Losing", (type(data),), {"__getitems__": lambda self, indices: [self[0]]})
    with pytest.raises(SourceError, match="Losing: expected 2 items from its __getitems__, got 1"):
        GuardedDataset(data, report=report).__getitems__([0, 1])


def test_batches_are_taken_one_by_one_where_there_is_no_batched_getter(data: Any, report: ScanReport) -> None:
    items = GuardedDataset(data, report=report).__getitems__([2, -1])
    np.testing.assert_array_equal([image for image, _ in items], data.data[[3, 23]])


def test_warn_lets_everything_pass_and_warns_once(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report, on_poison="warn")
    with pytest.warns(GuardWarning, match="ArrayData: 3 poisoned samples"):
        len(guarded)
    # A second warning would be an error.
    assert len(guarded) == 24
    assert guarded[1][1] == data.targets[1]
    assert guarded.flagged_indices.tolist() == [1, 4, 10]


def test_raise_stops_every_use_but_the_report(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report, on_poison="raise")
    for use in (len, lambda g: g[0], lambda g: g.targets, lambda g: g.kept_indices, pickle.dumps):
        with pytest.raises(PoisonFoundError, match="3 poisoned samples"):
            use(guarded)
    assert guarded.report is report


def test_raise_lets_clean_data_pass(data: Any, report_on: Callable[..., ScanReport]) -> None:
    assert len(GuardedDataset(data, report=report_on(raw_pairs(data), {}), on_poison="raise")) == 24


def test_relabel_replaces_classes_and_drops_what_has_no_suggestion(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report, on_poison="relabel")
    expected = {index: data.targets[index] for index in range(24) if index != 10} | {1: 2, 4: 0}
    assert guarded.kept_indices.tolist() == list(expected)
    assert [label for _, label in guarded] == list(expected.values())
    assert [label for _, label in guarded.__getitems__(range(len(guarded)))] == list(expected.values())
    assert guarded.targets == list(expected.values())
    assert data.targets == [index % 3 for index in range(24)]


def test_relabel_speaks_the_names_of_a_dataset_with_names(report_on: Callable[..., ScanReport]) -> None:
    items = [(np.full((4, 4), index, np.uint8), ("ant", "bee", "cat")[index % 3]) for index in range(6)]
    guarded = GuardedDataset(items, report=report_on(items, {1: 2}), on_poison="relabel")
    assert [label for _, label in guarded] == ["ant", "cat", "cat", "ant", "bee", "cat"]


def test_relabel_passes_through_the_label_transform(report_on: Callable[..., ScanReport]) -> None:
    bare = fake()
    wrapped = ConcatDataset([fake(target_transform=lambda label: 10 + label)])
    old = bare[5][1]
    guarded = GuardedDataset(
        Subset(wrapped, range(12)), report=report_on(raw_pairs(bare), {5: (old + 1) % 3}), on_poison="relabel"
    )
    assert guarded[5][1] == 10 + (old + 1) % 3
    assert guarded[4][1] == 10 + bare[4][1]


def test_relabel_refuses_labels_that_changed_on_the_way(report_on: Callable[..., ScanReport], data: Any) -> None:
    raw = raw_pairs(data)
    shifted = [(image, label + 10) for image, label in raw]
    guarded = GuardedDataset(shifted, raw=raw, report=report_on(raw, {1: 2}), on_poison="relabel")
    with pytest.raises(ConfigError, match="expected the class 1 that the scan saw, got 11"):
        guarded[1]


class WithUnreadable(list[Any]):
    """A list of items of which the second raises."""

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise OSError("gone")
        return super().__getitem__(index)


def unreadable(report_on: Callable[..., ScanReport]) -> tuple[Any, ScanReport]:
    items = [(np.full((4, 4), index, np.uint8), index % 3) for index in range(6)]
    return WithUnreadable(items), report_on(items, {3: None}, skipped={1: "item-failed"})


def test_unreadable_samples_stop_the_guard(report_on: Callable[..., ScanReport]) -> None:
    items, report = unreadable(report_on)
    with pytest.raises(UnscannedSampleError, match=r"1 samples could not be scanned \(1: item-failed, OSError: gone\)"):
        len(GuardedDataset(items, report=report))


def test_unreadable_samples_are_dropped_on_request(report_on: Callable[..., ScanReport]) -> None:
    items, report = unreadable(report_on)
    assert GuardedDataset(items, report=report, on_unscanned="drop").kept_indices.tolist() == [0, 2, 4, 5]


def test_unreadable_samples_pass_on_request_with_a_warning(report_on: Callable[..., ScanReport]) -> None:
    items, report = unreadable(report_on)
    guarded = GuardedDataset(items, report=report, on_unscanned="warn")
    with pytest.warns(GuardWarning, match="could not be scanned"):
        assert guarded.kept_indices.tolist() == [0, 1, 2, 4, 5]
    with pytest.raises(OSError, match="gone"):
        guarded[1]


@pytest.mark.parametrize("words", [{"on_poison": "keep"}, {"on_unscanned": "relabel"}])
def test_unknown_words_are_refused_before_any_scan(data: Any, words: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GuardedDataset(data, **words)


def test_a_report_on_other_data_is_refused(data: Any, report: ScanReport) -> None:
    data.data[5] = 0
    guarded = GuardedDataset(data, report=report, on_unscanned="warn")
    with pytest.raises(UnscannedSampleError, match="scan this dataset as it is now"):
        len(guarded)


def test_a_dataset_that_grows_after_its_scan_is_refused(report_on: Callable[..., ScanReport], data: Any) -> None:
    items = raw_pairs(data)
    guarded = GuardedDataset(items, report=report_on(items, {}))
    assert len(guarded) == 24
    items.append(items[0])
    for use in (lambda: guarded[0], lambda: guarded.__getitems__([0])):
        with pytest.raises(UnscannedSampleError, match="expected the 24 samples that were scanned, got 25"):
            use()


def test_parallel_lists_come_filtered(data: Any, report: ScanReport) -> None:
    data.samples = [(f"{index}.png", label) for index, label in enumerate(data.targets)]
    data.imgs = tuple(data.samples)
    data.labels = np.array(data.targets)
    guarded = GuardedDataset(data, report=report)
    assert guarded.targets == [data.targets[index] for index in KEPT]
    assert guarded.samples == [data.samples[index] for index in KEPT]
    assert guarded.imgs == tuple(guarded.samples)
    np.testing.assert_array_equal(guarded.labels, data.labels[KEPT])


def test_parallel_lists_come_relabelled(data: Any, report: ScanReport) -> None:
    data.samples = [(f"{index}.png", label) for index, label in enumerate(data.targets)]
    data.labels = torch.tensor(data.targets)
    guarded = GuardedDataset(data, report=report, on_poison="relabel")
    assert (guarded.samples[1], guarded.samples[4]) == (("1.png", 2), ("4.png", 0))
    assert guarded.labels.tolist() == guarded.targets
    assert data.labels.tolist() == data.targets


def test_a_weighted_sampler_over_the_targets_draws_the_items_it_means(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    weights = [float(label == 2) for label in guarded.targets]
    sampler = WeightedRandomSampler(weights, 50, generator=torch.Generator().manual_seed(0))
    assert {guarded[index][1] for index in sampler} == {2}


def test_an_attribute_that_would_be_misaligned_is_refused(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    with pytest.raises(AttributeError, match=r"does not pass 'data' through.*\.unguarded\.data.*\.kept_indices"):
        _ = guarded.data
    assert not hasattr(guarded, "data")
    np.testing.assert_array_equal(guarded.unguarded.data[guarded.kept_indices[3]], guarded[3][0])


def test_nobody_unwraps_the_guard_by_the_way_of_a_subset(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(Subset(data, range(len(data))), report=report)
    with pytest.raises(AttributeError, match="does not pass 'dataset' through"):
        _ = guarded.dataset
    assert guarded.unguarded.dataset is data


def test_class_attributes_pass_even_with_as_many_samples_as_classes(report_on: Callable[..., ScanReport]) -> None:
    data = ArrayData(3)
    guarded = GuardedDataset(data, report=report_on(raw_pairs(data), {}))
    assert guarded.classes == ["ant", "bee", "cat"]
    assert guarded.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}


def test_plain_attributes_pass_without_a_scan(data: Any) -> None:
    data.root, data.loader = "somewhere", len
    guarded = GuardedDataset(data)
    assert (guarded.root, guarded.loader, guarded.classes) == ("somewhere", len, data.classes)
    assert "not scanned yet" in repr(guarded)


def test_methods_that_could_hand_out_samples_are_refused(data: Any, report: ScanReport) -> None:
    type(data).select = lambda self, indices: [self[index] for index in indices]
    try:
        with pytest.raises(AttributeError, match=r"'select'.*a method"):
            GuardedDataset(data, report=report).select([1])
    finally:
        del type(data).select


def test_loaders_reach_the_methods_that_set_the_state(data: Any) -> None:
    class Resumable(type(data)):  # type: ignore[misc]
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    data.__class__ = Resumable
    GuardedDataset(data).set_epoch(3)
    assert data.epoch == 3


@pytest.mark.parametrize("name", ["__getitems__", "__array__", "__arrow_array__", "__iter__", "_data"])
def test_dunders_and_private_names_never_reach_the_inner_dataset(data: Any, name: str) -> None:
    setattr(data, name, lambda *_: pytest.fail("the inner dataset was reached"))
    guarded = GuardedDataset(data)
    assert getattr(guarded, name, None) != getattr(data, name)


def test_an_unknown_attribute_is_missing(data: Any) -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = GuardedDataset(data).nothing_like_it


@pytest.mark.parametrize("name", ["transform", "target_transform", "transforms"])
def test_transforms_are_read_and_set_through_the_guard(name: str) -> None:
    inner = fake()
    guarded = GuardedDataset(inner)
    assert getattr(guarded, name) is None
    setattr(guarded, name, transforms.ToTensor())
    assert getattr(inner, name) is getattr(guarded, name)
    assert isinstance(getattr(inner, name), transforms.ToTensor)


def test_a_transform_set_later_applies_to_the_kept_samples(report_on: Callable[..., ScanReport]) -> None:
    inner = fake()
    guarded = GuardedDataset(inner, report=report_on(raw_pairs(inner), {0: None}))
    assert len(guarded) == 11
    guarded.transform = transforms.ToTensor()
    torch.testing.assert_close(guarded[0][0], inner[1][0])
    assert len(guarded) == 11


def test_augmentation_does_not_disturb_the_digests(report_on: Callable[..., ScanReport]) -> None:
    augmented = fake(transform=transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]))
    guarded = GuardedDataset(augmented, report=report_on(raw_pairs(fake()), {2: None}))
    assert guarded.flagged_indices.tolist() == [2]


def test_setting_an_attribute_of_the_inner_dataset_is_refused(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    with pytest.raises(AttributeError, match=r"passes only transform, .*set 'targets' on \.unguarded"):
        guarded.targets = [0] * 24
    guarded.note = "mine"
    assert guarded.note == "mine"
    assert not hasattr(data, "note")


def test_pickling_carries_the_verdict_and_leaves_raw_behind(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report, raw=lambda index: (data.data[index], data.targets[index]))
    twin = pickle.loads(pickle.dumps(guarded))
    assert twin.kept_indices.tolist() == KEPT
    assert twin.report == report
    np.testing.assert_array_equal(twin[-1][0], guarded[-1][0])
    assert guarded.kept_indices.tolist() == KEPT


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_stand_on_their_own(data: Any, report: ScanReport, duplicate: Callable[[Any], Any]) -> None:
    twin = duplicate(GuardedDataset(data, report=report))
    assert len(twin) == len(KEPT)
    assert twin.classes == data.classes


def test_an_instance_without_state_has_no_attributes_and_no_recursion() -> None:
    bare = GuardedDataset.__new__(GuardedDataset)
    for name in ("targets", "transform", "_verdict", "anything"):
        with pytest.raises(AttributeError):
            getattr(bare, name)


def test_an_attribute_error_in_the_data_does_not_vanish(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vbdguard.guards import dataset

    monkeypatch.setattr(dataset, "Ledger", lambda _: data.no_such_attribute)
    with pytest.raises(SourceError, match="no_such_attribute"):
        _ = GuardedDataset(data).report


def test_a_dataset_that_cannot_be_scanned_says_so(report: ScanReport) -> None:
    normalised = TensorDataset(torch.randn(24, 3, 4, 4), torch.arange(24))
    with pytest.raises(SourceError, match="pass raw="):
        len(GuardedDataset(normalised, report=report))


def test_it_is_a_torch_dataset_that_shows_what_it_holds(data: Any, report: ScanReport) -> None:
    guarded = GuardedDataset(data, report=report)
    assert isinstance(guarded, Dataset)
    len(guarded)
    assert repr(guarded) == "GuardedDataset(ArrayData, 21 of 24 samples kept, verdict poisoned)"
    assert len(guarded + guarded) == 2 * len(KEPT)
