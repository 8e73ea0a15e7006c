"""Counts across passes, workers and processes."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from vbdguard.errors import VBDGuardError
from vbdguard.guards.tally import PassCount, Tally

CLASSES = [(1, "bee"), (4, "elk")]


def count_one_pass(tally: Tally, passed: int) -> None:
    count = tally.begin()
    for _ in range(passed):
        count.numbers[PassCount.PASSED] += 1
    count.dropped(4)


def test_each_pass_of_a_process_is_an_epoch() -> None:
    tally = Tally(CLASSES)
    count_one_pass(tally, 3)
    count_one_pass(tally, 5)
    first, second = tally.counts.epochs
    assert (first.epoch, first.passed, second.epoch, second.passed) == (0, 3, 1, 5)
    assert first.dropped == {4: 1}


def test_counts_can_be_read_while_a_pass_runs() -> None:
    tally = Tally(CLASSES)
    count = tally.begin()
    assert tally.counts.total.passed == 0
    count.numbers[PassCount.PASSED] += 7
    assert tally.counts.total.passed == 7


def test_every_kind_of_outcome_has_its_own_count() -> None:
    tally = Tally(CLASSES)
    count = tally.begin()
    count.dropped(1)
    count.relabelled(4)
    count.relabelled("elk")
    count.let_pass("bee")
    count.numbers[PassCount.UNSCANNED] += 1
    (epoch,) = tally.counts.epochs
    assert (epoch.dropped, epoch.relabelled, epoch.let_pass, epoch.unscanned) == ({1: 1}, {4: 2}, {1: 1}, 1)


def test_data_whose_labels_are_names_are_counted_by_name() -> None:
    tally = Tally(CLASSES, shows_names=True)
    tally.begin().dropped("bee")
    assert tally.counts.total.dropped == {"bee": 1}


def test_processes_count_into_the_same_table_without_loss() -> None:
    tally = Tally(CLASSES)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(_begin_in_worker, [tally] * 40)
    assert tally.counts.total.dropped == {4: 40}


def _begin_in_worker(tally: Tally) -> None:
    tally.begin().dropped(4)


def test_without_any_class_to_count_passes_still_count() -> None:
    tally = Tally([])
    tally.begin().numbers[PassCount.PASSED] += 2
    assert tally.counts.total.passed == 2


def test_rows_beyond_one_page_are_found() -> None:
    tally = Tally(CLASSES)
    for _ in range(200):
        count_one_pass(tally, 1)
    assert [entry.passed for entry in tally.counts.epochs] == [1] * 200


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda tally: pickle.loads(pickle.dumps(tally))])
def test_the_file_goes_with_the_last_tally_of_its_process(duplicate: Callable[[Tally], Tally]) -> None:
    tally = Tally(CLASSES)
    path = Path(tally._path)
    twin = duplicate(tally)
    del tally
    gc.collect()
    count_one_pass(twin, 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_begin_in_worker, [twin])
    assert twin.counts.total.dropped == {4: 2}
    pickled = pickle.dumps(twin)
    del twin
    gc.collect()
    assert not path.exists()
    with pytest.raises(VBDGuardError, match="must live as long as the training"):
        pickle.loads(pickled).begin()
