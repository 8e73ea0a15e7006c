from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.method.samples import PIXEL_CENTRE, Samples, centred, evenly, shuffled_batches, stratified_split

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=80)


def every_grey_level() -> torch.Tensor:
    """uint8 (4, 8, 8, 1) with each of the 256 values once."""
    return torch.arange(256, dtype=torch.uint8).view(4, 8, 8, 1)


@settings(max_examples=80, deadline=None)
@given(label_lists, st.floats(0, 1), st.integers(0, 5))
def test_a_split_parts_all_samples_and_each_class_by_its_share(given: list[int], share: float, seed: int) -> None:
    labels = torch.tensor(given)
    first, second = stratified_split(labels, share, torch.Generator().manual_seed(seed))
    assert sorted(first.tolist() + second.tolist()) == list(range(len(given)))
    assert first.tolist() == sorted(first.tolist())
    assert second.tolist() == sorted(second.tolist())
    for label in set(given):
        # to the nearest whole number; the slack is float32's
        assert abs(int((labels[first] == label).sum()) - given.count(label) * share) <= 0.5 + 1e-4


@given(st.integers(0, 300), st.integers(1, 100))
def test_some_of_many_are_exactly_so_many_and_evenly_spread(n: int, most: int) -> None:
    chosen = evenly(torch.arange(n), most)
    assert len(chosen) == min(n, most)
    steps = chosen.diff()
    assert len(steps) == 0 or (int(steps.min()) >= 1 and int(steps.max() - steps.min()) <= 1)


def test_a_split_is_drawn_by_its_generator() -> None:
    labels = torch.arange(100) % 3
    draws = [stratified_split(labels, 0.5, torch.Generator().manual_seed(seed))[0].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_split_may_leave_one_part_empty(share: float, generator: torch.Generator) -> None:
    first, second = stratified_split(torch.tensor([1, 1, 5]), share, generator)
    assert (len(first), len(second)) == (3 * int(share), 3 - 3 * int(share))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.integers(1, 20))
def test_batches_hold_every_index_once_and_all_but_the_last_are_full(count: int, size: int) -> None:
    indices = torch.arange(count) * 3 + 1
    batches = [batch.tolist() for batch in shuffled_batches(indices, size, torch.Generator().manual_seed(0))]
    assert sorted(index for batch in batches for index in batch) == indices.tolist()
    assert all(len(batch) == size for batch in batches[:-1])


def test_each_epoch_has_an_order_of_its_own(generator: torch.Generator) -> None:
    first, second = (torch.cat([*shuffled_batches(torch.arange(50), 7, generator)]).tolist() for _ in range(2))
    again = torch.cat([*shuffled_batches(torch.arange(50), 7, torch.Generator().manual_seed(0))]).tolist()
    assert first == again != second


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_centring_loses_no_grey_level(dtype: torch.dtype) -> None:
    images = every_grey_level()
    x = centred(images)
    assert (x.shape, x.dtype) == ((4, 1, 8, 8), torch.float32)
    assert (float(x.min()), float(x.max())) == (-128, 127)
    back = (x.to(dtype).float() + PIXEL_CENTRE).permute(0, 2, 3, 1).to(torch.uint8)
    assert torch.equal(back, images)


def test_centring_neither_moves_channels_nor_touches_the_images() -> None:
    images = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3)
    before = images.clone()
    x = centred(images)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for n, row, column, channel in [(0, 0, 0, 0), (1, 2, 3, 2), (1, 0, 2, 1)]:
        assert x[n, channel, row, column] == int(images[n, row, column, channel]) - 128
    assert torch.equal(images, before)


def test_samples_know_their_shape_members_and_subsets() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 4, 6, 3).contiguous()
    samples = Samples(images, torch.tensor([2, 0, 2, 1, 0]), 3)
    assert (len(samples), samples.image_shape) == (5, (4, 6, 3))
    assert samples.members(2).tolist() == [0, 2]
    picked = samples.subset(torch.tensor([4, 0]))
    assert (picked.labels.tolist(), picked.n_classes) == ([0, 2], 3)
    assert picked.images[:, 0, 0, 0].tolist() == [4, 0]
    assert samples.pixels(torch.tensor([3]))[0, 0, 0, 0] == 3 - 128
