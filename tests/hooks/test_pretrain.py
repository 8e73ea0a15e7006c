"""guard_training in one process and in jobs of several, with nothing replaced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hook_data import COUNT, QUICK, Named, indices_of, make_tensors
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from vbdguard.errors import PoisonFoundError, SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.hooks.inspecting import counts_of, is_guarded, report_of
from vbdguard.hooks.pretrain import guard_training


def seen_in(loader: DataLoader[Any]) -> list[int]:
    return [index for images, _ in loader for index in indices_of(images)]


def test_a_loader_yields_all_but_the_poison(tensors: TensorDataset, kept: list[int]) -> None:
    guarded = guard_training(DataLoader(tensors, batch_size=8, shuffle=True), config=QUICK)
    assert sorted(seen_in(guarded)) == kept
    assert sorted(seen_in(guarded)) == kept


def test_spawned_workers_yield_the_same(tensors: TensorDataset, kept: list[int]) -> None:
    plain = DataLoader(tensors, batch_size=8, num_workers=2, multiprocessing_context="spawn", persistent_workers=True)
    guarded = guard_training(plain, config=QUICK)
    assert [seen_in(guarded), seen_in(guarded)] == [kept, kept]


def test_a_dataset_is_scanned_before_it_comes_back(tensors: TensorDataset, kept: list[int]) -> None:
    guarded = guard_training(tensors, config=QUICK)
    assert "not scanned" not in repr(guarded)
    assert guarded.kept_indices.tolist() == kept


def test_dicts_are_guarded_too(kept: list[int]) -> None:
    assert [int(item["comment"].split()[1]) for item in guard_training(Named(), config=QUICK)] == kept


def test_the_summary_is_short_and_on_stderr(tensors: TensorDataset, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(guard_training(DataLoader(tensors), config=QUICK))
    out, err = capsys.readouterr()
    assert out == ""
    summary = [line for line in err.splitlines() if not re.search(r", \d+ of \d+$", line)]
    assert 3 <= len(summary) <= 10
    assert summary[0].startswith("vbdguard: POISONED. ")
    assert f"{len(report.flagged)} of {COUNT} samples flagged" in summary[0]
    assert 'on_poison="drop"' in summary[-1]


def test_quiet_says_nothing(tensors: TensorDataset, capsys: pytest.CaptureFixture[str]) -> None:
    guard_training(DataLoader(tensors), config=QUICK, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_raise_stops_before_training_and_after_the_summary(
    tensors: TensorDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PoisonFoundError, match="poisoned samples"):
        guard_training(tensors, config=QUICK, on_poison="raise")
    assert "Training stops here" in capsys.readouterr().err


def test_what_is_guarded_stays_as_it_is(tensors: TensorDataset, kept: list[int]) -> None:
    guarded = DataLoader(GuardedDataset(tensors, config=QUICK))
    assert guard_training(guarded) is guarded
    assert seen_in(guarded) == kept


def test_the_counts_can_be_read_after_training(tensors: TensorDataset, kept: list[int]) -> None:
    guarded = guard_training(DataLoader(tensors), config=QUICK)
    seen_in(guarded)
    total = counts_of(guarded).total
    assert (total.passed, sum(total.dropped.values())) == (len(kept), COUNT - len(kept))


def test_data_in_parts_are_guarded_only_if_all_parts_are(tensors: TensorDataset) -> None:
    guarded = GuardedDataset(tensors, config=QUICK)
    assert is_guarded(DataLoader(ConcatDataset([guarded, guarded])))
    assert not is_guarded(DataLoader(ConcatDataset([guarded, tensors])))
    with pytest.raises(SourceError, match="a plain TensorDataset"):
        report_of(ConcatDataset([guarded, tensors]))


def test_a_wrapper_that_adds_samples_or_passes_the_record_on_is_not_guarded(tensors: TensorDataset) -> None:
    guarded = GuardedDataset(tensors, config=QUICK)

    class Wrapper(Dataset[Any]):
        def __init__(self, dataset: Any, more: Any = ()) -> None:
            self.dataset, self.more = dataset, more

        def __len__(self) -> int:
            return len(self.dataset) + len(self.more)

        def __getitem__(self, index: int) -> Any:
            return self.dataset[index] if index < len(self.dataset) else self.more[index - len(self.dataset)]

    class Delegating(Wrapper):
        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["dataset"], name)

    assert is_guarded(DataLoader(Wrapper(guarded)))
    assert not is_guarded(DataLoader(Wrapper(guarded, tensors)))
    assert not is_guarded(Delegating(guarded, tensors))
    impostor = Wrapper(tensors)
    impostor.__dict__["vbdguard"] = "a word"
    assert not is_guarded(impostor)


# jobs of two processes -------------------------------------------------------------------------------------------


def test_two_processes_share_all_but_the_poison(
    kept: list[int], run_job: Callable[..., Any], read_all: Callable[..., Any]
) -> None:
    finished = run_job("plain_job.py", "nothing")
    first, second = read_all(finished)
    padding = len(kept) % 2  # DistributedSampler gives each rank the same number
    together = Counter(first) + Counter(second)
    assert sorted(together) == kept
    assert len(first) == len(second)
    assert together.total() == len(kept) + padding
    assert [process.stderr.count("POISONED") for process in finished] == [1, 0]


def test_without_a_process_group_the_cache_is_shared(
    kept: list[int], run_job: Callable[..., Any], read_all: Callable[..., Any]
) -> None:
    finished = run_job("plain_job.py", "no-group")
    assert read_all(finished) == [kept, kept]
    assert [process.stderr.count("POISONED") for process in finished] == [1, 0]


@pytest.mark.parametrize(
    ("event", "first", "second"),
    [
        ("poison", "PoisonFoundError", "rank 0 could not guard the data, so no process trains"),
        ("other-data", "rank 1 could not guard the data, so no process trains", "UnscannedSampleError"),
        ("death", "", "a process ended before the data were guarded"),
        ("slow", "a process ended before the data were guarded", "waited 0:00:02 for rank 0, still scanning or stuck"),
        ("late", "", "waited 0:00:02 for all 2 processes of the job"),
    ],
)
def test_where_one_process_cannot_train_none_does(
    event: str, first: str, second: str, run_job: Callable[..., Any]
) -> None:
    finished = run_job("plain_job.py", event)
    assert all(process.returncode != 0 for process in finished)
    assert [process.stdout for process in finished] == ["", ""]
    for process, message in zip(finished, (first, second), strict=True):
        assert message in process.stderr, process.stderr


def test_the_data_of_the_tests_are_told_apart_by_their_first_value() -> None:
    assert indices_of(torch.stack([image for image, _ in make_tensors()])) == list(range(COUNT))
