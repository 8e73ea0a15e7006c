"""Each sampler is made anew for what is kept, and draws as the old one would have."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader.sampler import BatchSampler as StatefulBatchSampler
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulRandomSampler
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from vbdguard.errors import SourceError
from vbdguard.guards.samplers import Kept, rebuild_batch_sampler, rebuild_sampler

LENGTH = 20
FLAGGED = {0, 3, 4, 19}
INDICES = np.array([index for index in range(LENGTH) if index not in FLAGGED])
INNER = range(LENGTH)
KEPT = Kept(data=range(len(INDICES)), indices=INDICES, length=LENGTH)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inner(sampler: Any) -> list[int]:
    """What a rebuilt sampler draws, as inner indices."""
    return [int(INDICES[place]) for place in sampler]


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(INNER),
        RandomSampler(INNER, generator=seeded()),
        RandomSampler(INNER, num_samples=LENGTH, generator=seeded()),
        StatefulRandomSampler(INNER, generator=seeded()),
        SubsetRandomSampler(INNER, generator=seeded()),
        WeightedRandomSampler([1.0] * LENGTH, LENGTH, replacement=False, generator=seeded()),
        DistributedSampler(INNER, num_replicas=1, rank=0),
        StatefulDistributedSampler(INNER, num_replicas=1, rank=0),
        list(INNER),
    ],
    ids=lambda sampler: f"{type(sampler).__module__.partition('.')[0]}-{type(sampler).__name__}",
)
def test_one_pass_draws_each_kept_sample_once(sampler: Any) -> None:
    before = sorted(sampler)
    rebuilt = rebuild_sampler(sampler, KEPT)
    assert isinstance(rebuilt, type(sampler))
    assert Counter(inner(rebuilt)) == Counter(before) - Counter(FLAGGED)
    assert len(rebuilt) == len(INDICES)


def test_the_generator_is_the_very_same_and_is_not_drawn_from() -> None:
    for make in (RandomSampler, StatefulRandomSampler):
        generator = seeded()
        state = generator.get_state()
        rebuilt = rebuild_sampler(make(INNER, generator=generator), KEPT)
        assert rebuilt.generator is generator
        assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(("draws", "expected"), [(None, 16), (7, 7), (20, 16), (40, 32), (30, 30)])
@pytest.mark.parametrize("replacement", [False, True])
def test_whole_passes_stay_whole_and_other_numbers_are_kept(
    draws: int | None, expected: int, replacement: bool
) -> None:
    rebuilt = rebuild_sampler(RandomSampler(INNER, replacement, draws, seeded()), KEPT)
    assert rebuilt.replacement is replacement
    drawn = inner(rebuilt)
    assert len(drawn) == len(rebuilt) == expected
    assert not FLAGGED & set(drawn)


def test_a_subset_keeps_its_order_of_indices_and_loses_the_flagged() -> None:
    sampler = SubsetRandomSampler([18, 3, 5, 2, -2], generator=seeded(3))
    rebuilt = rebuild_sampler(sampler, KEPT)
    assert [int(INDICES[place]) for place in rebuilt.indices] == [18, 5, 2, 18]
    assert sorted(inner(rebuilt)) == [2, 5, 18, 18]


def test_weights_stay_with_their_samples() -> None:
    weights = torch.zeros(LENGTH)
    weights[[3, 5, 7]] = torch.tensor([100.0, 1.0, 3.0])
    rebuilt = rebuild_sampler(WeightedRandomSampler(weights.tolist(), 4001, generator=seeded()), KEPT)
    counts = Counter(inner(rebuilt))
    assert set(counts) == {5, 7}
    # 3 of 4 draws, give or take five standard deviations of a binomial of 4,001.
    assert abs(counts[7] - 3000.75) < 5 * (4001 * 0.75 * 0.25) ** 0.5
    assert rebuilt.weights.tolist() == weights[torch.from_numpy(INDICES)].tolist()


def test_draws_without_replacement_end_with_the_samples() -> None:
    weights = [1.0 if index < 6 else 0.0 for index in range(LENGTH)]
    rebuilt = rebuild_sampler(WeightedRandomSampler(weights, 6, replacement=False, generator=seeded()), KEPT)
    assert sorted(inner(rebuilt)) == [1, 2, 5]


@pytest.mark.parametrize("kind", [DistributedSampler, StatefulDistributedSampler])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("replicas", [2, 3])
def test_ranks_together_draw_each_kept_sample_but_for_the_samplers_own_padding(
    kind: Any, shuffle: bool, drop_last: bool, replicas: int
) -> None:
    ranks = []
    for rank in range(replicas):
        first = kind(INNER, replicas, rank, shuffle=shuffle, seed=5, drop_last=drop_last)
        first.set_epoch(2)
        ranks.append(rebuild_sampler(first, KEPT))
    expected = []
    for rank in range(replicas):
        twin = DistributedSampler(range(16), replicas, rank, shuffle=shuffle, seed=5, drop_last=drop_last)
        twin.set_epoch(2)
        expected.append(list(twin))
    assert [list(rank) for rank in ranks] == expected
    assert len({len(drawn) for drawn in expected}) == 1


@pytest.mark.parametrize("kind", [DistributedSampler, StatefulDistributedSampler])
def test_the_epoch_is_set_on_either_sampler(kind: Any) -> None:
    first = kind(INNER, 1, 0)
    first.set_epoch(4)
    rebuilt = rebuild_sampler(first, KEPT)
    assert first.epoch == rebuilt.epoch == 4
    fourth = list(rebuilt)
    first.set_epoch(5)  # a script's own variable
    fifth = list(rebuilt)
    rebuilt.set_epoch(4)
    assert first.epoch == 4
    assert list(rebuilt) == fourth != fifth


def test_a_position_among_unguarded_samples_is_refused() -> None:
    sampler = StatefulDistributedSampler(INNER, 1, 0)
    sampler.load_state_dict({"yielded": 7})
    with pytest.raises(SourceError, match="guard the loader first"):
        rebuild_sampler(sampler, KEPT)


@settings(max_examples=30, deadline=None)
@given(flagged=st.sets(st.integers(0, 19), max_size=19), drawn=st.lists(st.integers(-20, 19), max_size=40))
def test_lists_of_indices_lose_the_flagged_and_nothing_else(flagged: set[int], drawn: list[int]) -> None:
    indices = np.array([index for index in range(20) if index not in flagged])
    kept = Kept(data=range(len(indices)), indices=indices, length=20)
    expected = [index % 20 for index in drawn if index % 20 not in flagged]
    assert [int(indices[place]) for place in rebuild_sampler(drawn, kept)] == expected


@pytest.mark.parametrize("kind", [BatchSampler, StatefulBatchSampler])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_filled_with_kept_samples(kind: Any, drop_last: bool) -> None:
    rebuilt = rebuild_batch_sampler(kind(SequentialSampler(INNER), 5, drop_last), KEPT)
    assert type(rebuilt) is kind
    batches = list(rebuilt)
    assert [len(batch) for batch in batches] == ([5, 5, 5] if drop_last else [5, 5, 5, 1])
    assert inner(place for batch in batches for place in batch) == INDICES[: 15 if drop_last else 16].tolist()


def test_listed_batches_lose_the_flagged_and_empty_ones_go() -> None:
    rebuilt = rebuild_batch_sampler([[0, 1], [3, 4], [18, 19, 2]], KEPT)
    assert [inner(batch) for batch in rebuilt] == [[1], [18, 2]]


class Own(Sampler[int]):
    """A sampler that nothing is known about."""

    def __iter__(self) -> Any:
        return iter(INNER)


class Backwards(RandomSampler):
    """A subclass of a known one, which may draw in any way."""


@pytest.mark.parametrize("sampler", [Own(), Backwards(INNER), iter([1, 2])])
def test_an_unknown_sampler_is_refused_with_the_remedy(sampler: Any) -> None:
    with pytest.raises(SourceError, match=rf"got {type(sampler).__name__}; build it on guarded data yourself"):
        rebuild_sampler(sampler, KEPT)


class OwnBatches(BatchSampler):
    """A subclass of the known one."""


@pytest.mark.parametrize("sampler", [OwnBatches(SequentialSampler(INNER), 2, False), Own()])
def test_an_unknown_batch_sampler_is_refused_with_the_remedy(sampler: Any) -> None:
    with pytest.raises(SourceError, match=r"DataLoader\(data, batch_sampler=Own"):
        rebuild_batch_sampler(sampler, KEPT)


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(range(21)),
        RandomSampler(range(19)),
        WeightedRandomSampler([1.0] * 21, 5),
        DistributedSampler(range(16), 1, 0),
        StatefulDistributedSampler(range(21), 1, 0),
        [3, 20],
        SubsetRandomSampler([-21]),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_sampler_for_other_data_is_refused(sampler: Any) -> None:
    with pytest.raises(SourceError, match=r"20 samples|length 20"):
        rebuild_sampler(sampler, KEPT)
