"""A guarded loader is the user's loader minus the poison, with every setting it had."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)
from torchdata.stateful_dataloader import StatefulDataLoader

import vbdguard
from vbdguard.errors import ConfigError, PoisonFoundError, SourceError
from vbdguard.guards.dataset import GuardedDataset
from vbdguard.guards.loader import CARRIED, REBUILT, STATEFUL_CARRIED
from vbdguard.report import ScanReport

from .conftest import ArrayData, make_report

FLAGGED = (1, 4, 10)
KEPT = [index for index in range(24) if index not in FLAGGED]


class Numbered(Dataset[Any]):
    """ArrayData that hands out its index as well, so that a batch tells which samples are in it."""

    def __init__(self, count: int = 24) -> None:
        self.inner = ArrayData(count)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        return (*self.inner[index], range(len(self.inner))[index])


OLD_CALL = "ignore:'set_vital' is deprecated, please do not call:UserWarning"
"""torchdata 0.11 calls what torch 2.15 has given up."""


def number_of(_: int, value: int) -> None:
    """A worker_init_fn that can be pickled."""


def drawn(loader: Any) -> list[int]:
    """The inner indices that a loader over Numbered hands out, in order."""
    return [int(number) for batch in loader for number in torch.atleast_1d(torch.as_tensor(batch[2]))]


@pytest.fixture
def numbered() -> Numbered:
    return Numbered()


def guard(loader: Any, report: ScanReport, **options: Any) -> Any:
    return vbdguard.guard(loader, report=report, **options)


@pytest.mark.parametrize("batch_size", [1, 5, 21, 100, None])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_holds_every_kept_sample_once(
    numbered: Numbered, report: ScanReport, batch_size: int | None, shuffle: bool
) -> None:
    plain = DataLoader(numbered, batch_size=batch_size, shuffle=shuffle)
    loader = guard(plain, report)
    expected = Counter(drawn(plain)) - Counter(FLAGGED)
    assert Counter(drawn(loader)) == expected
    assert type(loader) is DataLoader
    assert plain.dataset is numbered  # the user's loader stays as it was


def test_the_order_without_shuffle_is_the_plain_loaders(numbered: Numbered, report: ScanReport) -> None:
    loader = guard(DataLoader(numbered, batch_size=4, drop_last=True), report)
    assert drawn(loader) == KEPT[:20]
    assert len(loader) == 5


@pytest.mark.filterwarnings(OLD_CALL)
@pytest.mark.parametrize("stateful", [False, True])
def test_clean_data_come_in_the_same_batches_in_the_same_order(numbered: Numbered, stateful: bool) -> None:
    clean = make_report([numbered.inner[index] for index in range(24)], {})
    kind = StatefulDataLoader if stateful else DataLoader
    plain, twin = (
        kind(numbered, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    loader = guard(twin, clean)
    for _ in range(2):
        batches = [batch[2].tolist() for batch in plain]
        assert [batch[2].tolist() for batch in loader] == batches
    assert len({tuple(batch) for batch in batches}) == 5


def test_clean_data_come_in_the_same_order_by_the_global_seed_too(numbered: Numbered) -> None:
    clean = make_report([numbered.inner[index] for index in range(24)], {})
    plain = DataLoader(numbered, shuffle=True)
    torch.manual_seed(3)
    expected = drawn(plain)
    torch.manual_seed(3)
    loader = guard(plain, clean)
    assert drawn(loader) == expected


def loading_arguments() -> dict[str, Any]:
    """Every argument of a loader away from its default."""
    return {
        "batch_size": 3,
        "num_workers": 1,
        "collate_fn": torch.utils.data.default_convert,
        "pin_memory": True,
        "drop_last": True,
        "timeout": 9.0,
        "worker_init_fn": partial(number_of, value=1),
        "multiprocessing_context": "spawn",
        "generator": torch.Generator().manual_seed(1),
        "prefetch_factor": 5,
        "persistent_workers": True,
        "pin_memory_device": "cpu",
        "in_order": False,
    }


@pytest.mark.filterwarnings(OLD_CALL)
@pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])
def test_every_setting_is_carried_over(numbered: Numbered, report: ScanReport, kind: Any) -> None:
    arguments = loading_arguments() | ({"snapshot_every_n_steps": 4} if kind is StatefulDataLoader else {})
    plain = kind(numbered, **arguments)
    loader = guard(plain, report)
    assert type(loader) is kind
    for name in arguments:
        assert getattr(loader, name) == getattr(plain, name), name
        assert getattr(loader, name) != getattr(kind(numbered), name), f"the default of {name} would pass unnoticed"


@pytest.mark.parametrize(("kind", "carried"), [(DataLoader, CARRIED), (StatefulDataLoader, CARRIED + STATEFUL_CARRIED)])
def test_a_loader_has_no_setting_that_is_not_known(kind: Any, carried: tuple[str, ...]) -> None:
    # A new torch with a new argument fails here, before it silently loses that setting for somebody.
    assert set(inspect.signature(kind.__init__).parameters) == {"self", *carried, *REBUILT}


def test_a_guarded_loader_comes_back_as_it_is(numbered: Numbered, report: ScanReport) -> None:
    loader = guard(DataLoader(numbered), report)
    assert vbdguard.guard(loader) is loader


def test_a_loader_over_parts_of_guards_comes_back_as_it_is(numbered: Numbered, report: ScanReport) -> None:
    guarded = guard(numbered, report)
    train, held_out = random_split(guarded, [0.75, 0.25], torch.Generator().manual_seed(0))
    both = DataLoader(ConcatDataset([train, held_out]), batch_size=6)
    assert vbdguard.guard(both) is both
    assert sorted(drawn(both)) == KEPT


def test_a_half_guarded_dataset_is_guarded_whole(numbered: Numbered, report: ScanReport) -> None:
    guarded = guard(numbered, report)
    pairs = [numbered.inner[index] for index in [*KEPT, *range(24)]]
    # The second half still holds what the guard of the first has taken out.
    later = make_report(pairs, {21 + index: None for index in FLAGGED})
    loader = guard(DataLoader(ConcatDataset([guarded, numbered]), batch_size=6), later)
    assert sorted(drawn(loader)) == sorted(KEPT * 2)


def test_raise_stops_before_the_first_batch(numbered: Numbered, report: ScanReport) -> None:
    with pytest.raises(PoisonFoundError, match="Numbered: 3 poisoned samples"):
        guard(DataLoader(numbered), report, on_poison="raise")


def test_relabelled_samples_come_under_their_new_class(numbered: Numbered, report: ScanReport) -> None:
    loader = guard(DataLoader(numbered, batch_size=4), report, on_poison="relabel")
    labels = {int(number): int(label) for _, y, n in loader for label, number in zip(y, n, strict=True)}
    expected = {index: index % 3 for index in range(24) if index != 10} | {1: 2, 4: 0}
    assert labels == expected
    counts = loader.dataset.counts.total
    assert (counts.relabelled, counts.dropped, counts.passed) == ({1: 2}, {1: 1}, 23)


def test_data_that_are_poison_throughout_are_refused(numbered: Numbered) -> None:
    report = make_report([numbered.inner[index] for index in range(24)], dict.fromkeys(range(24)))
    with pytest.raises(SourceError, match="nothing is left to train on"):
        guard(DataLoader(numbered), report)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sampler": SubsetRandomSampler([1, 4])},
        {"sampler": [10, 10]},
        {"batch_sampler": [[1], [4, 10]]},
        {"batch_size": 22, "drop_last": True},
        {"sampler": WeightedRandomSampler([float(index == 4) for index in range(24)], 24)},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_loader_that_would_have_nothing_to_load_is_refused(
    numbered: Numbered, report: ScanReport, arguments: dict[str, Any]
) -> None:
    assert len(DataLoader(numbered, **arguments)) > 0
    with pytest.raises(SourceError, match="none is left|got none"):
        guard(DataLoader(numbered, **arguments), report)


class Shuffling(DataLoader[Any]):
    """A loader that does more than its settings say."""


def test_a_subclass_of_the_loader_is_refused_with_the_remedy(numbered: Numbered, report: ScanReport) -> None:
    with pytest.raises(SourceError, match=r"subclass Shuffling.*Shuffling\(vbdguard.guard\(dataset\)"):
        guard(Shuffling(numbered), report)


class Stream(IterableDataset[Any]):
    """The same samples one after the other."""

    def __iter__(self) -> Any:
        data = ArrayData()
        return iter([data[index] for index in range(24)])


def test_a_loader_over_a_stream_is_rebuilt_around_a_guarded_stream(report: ScanReport) -> None:
    plain = DataLoader(Stream(), batch_size=4, drop_last=True)
    loader = guard(plain, report)
    assert type(loader) is DataLoader
    data = ArrayData()
    expected = torch.from_numpy(data.data[KEPT[:20]]).split(4)
    assert all(torch.equal(images, batch) for (images, _), batch in zip(loader, expected, strict=True))
    assert vbdguard.guard(loader) is loader


def test_raw_makes_no_sense_for_a_stream(report: ScanReport) -> None:
    with pytest.raises(ConfigError, match="raw= is for map-style datasets"):
        guard(DataLoader(Stream()), report, raw=[])


@pytest.mark.parametrize(("persistent", "batch_size"), [(False, 4), (True, None)])
def test_spawned_workers_give_each_kept_sample_once_in_both_epochs(
    numbered: Numbered, report: ScanReport, persistent: bool, batch_size: int | None
) -> None:
    plain = DataLoader(
        numbered,
        batch_size=batch_size,
        shuffle=True,
        num_workers=2,
        multiprocessing_context="spawn",
        persistent_workers=persistent,
        generator=torch.Generator().manual_seed(0),
    )
    loader = guard(plain, report)
    first, second = drawn(loader), drawn(loader)
    assert sorted(first) == sorted(second) == KEPT
    assert first != second


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_pinned_batches_hold_the_same(numbered: Numbered, report: ScanReport) -> None:
    loader = guard(DataLoader(numbered, batch_size=5, pin_memory=True), report)
    assert drawn(loader) == KEPT


@pytest.mark.filterwarnings(OLD_CALL)
def test_a_stateful_loader_goes_on_where_it_was_stopped(numbered: Numbered, report: ScanReport) -> None:
    def make() -> Any:
        generator = torch.Generator().manual_seed(5)
        return guard(StatefulDataLoader(numbered, batch_size=4, shuffle=True, generator=generator), report)

    whole = drawn(make())
    stopped = make()
    batches = iter(stopped)
    begun = drawn([next(batches), next(batches)])
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert begun + drawn(resumed) == whole
    assert sorted(whole) == KEPT


@settings(max_examples=15, deadline=None)
@given(
    flagged=st.sets(st.integers(0, 23), max_size=23),
    batch_size=st.integers(1, 30),
    nesting=st.sampled_from(["guard", "subset in guard", "guard in subset", "concatenation in guard"]),
)
def test_whatever_is_flagged_the_rest_comes_once(flagged: set[int], batch_size: int, nesting: str) -> None:
    numbered = Numbered()
    report = make_report([numbered.inner[index] for index in range(24)], dict.fromkeys(flagged))
    build: dict[str, Callable[[], Any]] = {
        "guard": lambda: guard(numbered, report),
        "subset in guard": lambda: guard(Subset(numbered, list(range(24))[::-1]), report),
        "guard in subset": lambda: Subset(guard(numbered, report), range(24 - len(flagged))),
        "concatenation in guard": lambda: guard(
            ConcatDataset([Subset(numbered, range(9)), Subset(numbered, range(9, 24))]), report
        ),
    }
    loader = DataLoader(build[nesting](), batch_size=batch_size)
    assert sorted(drawn(loader)) == sorted(set(range(24)) - flagged)


def test_counts_are_there_after_training(numbered: Numbered, report: ScanReport) -> None:
    loader = guard(DataLoader(numbered, batch_size=5), report)
    drawn(loader)
    assert isinstance(loader.dataset, GuardedDataset)
    (epoch,) = loader.dataset.counts.epochs
    assert (epoch.passed, dict(epoch.dropped), dict(epoch.relabelled), epoch.unscanned) == (21, {1: 3}, {}, 0)
    assert loader.dataset.vbdguard.report is report
