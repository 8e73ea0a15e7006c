"""Which samples the fit looks at."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vbdguard.config import SampleConfig
from vbdguard.errors import ConfigError
from vbdguard.method.contrast import ClassMeans
from vbdguard.method.population import Population, class_cap
from vbdguard.method.samples import Samples, halved

CAPPED = SampleConfig(per_class=100)


def population(counts: list[int], draw: int = 0, side: int = 2) -> Population:
    """A population in random order, whose images are all different."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(0, 256, (len(labels), side, side, 3), dtype=torch.uint8, generator=generator)
    whole = Population.of(Samples(images, labels, len(counts)))
    return Population(whole.images, labels, len(counts), draw)


def of_class(data: Population, drawn: Tensor) -> list[int]:
    found: list[int] = data.labels[drawn].bincount(minlength=data.n_classes).tolist()
    return found


def test_small_classes_are_taken_whole_and_large_ones_to_the_cap() -> None:
    data = population([300, 20, 100, 0, 101])
    drawn = data.fit_sample(CAPPED, seed=0)
    assert of_class(data, drawn) == [100, 20, 100, 0, 100]
    assert torch.equal(drawn, drawn.unique())  # ascending, none twice


def test_below_the_cap_the_sample_is_everything_and_no_copy() -> None:
    data = population([100, 100, 7])
    drawn = data.fit_sample(CAPPED, seed=0)
    assert torch.equal(drawn, torch.arange(207))
    assert data.at(drawn).images.data_ptr() == data.whole().images.data_ptr()


def test_the_draw_hangs_on_the_data_and_the_seed() -> None:
    data = population([1000, 50])
    drawn = data.fit_sample(CAPPED, seed=0)
    assert torch.equal(drawn, data.fit_sample(CAPPED, seed=0))
    others = [data.fit_sample(CAPPED, seed=1), population([1000, 50], draw=99).fit_sample(CAPPED, seed=0)]
    for other in others:
        assert of_class(data, other) == [100, 50]
        # a tenth of the large class would be drawn again by chance
        assert int(torch.isin(other, drawn).sum()) < 50 + 30


def test_every_sample_of_a_large_class_has_the_same_chance() -> None:
    data = population([400, 30])
    chosen = torch.zeros(430)
    for seed in range(200):
        chosen[data.fit_sample(CAPPED, seed)] += 1
    shares = chosen[data.labels == 0] / 200
    assert float(shares.mean()) == pytest.approx(0.25)
    # binomial: standard deviation 0.031 each
    assert float(shares.min()) > 0.1
    assert float(shares.max()) < 0.4
    assert float(shares.std()) < 0.04


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(100, 3000), st.integers(1, 20))
def test_the_caps_hold_and_nothing_is_left_out_without_need(counts: list[int], per_class: int, megabytes: int) -> None:
    image_bytes = 3072
    cap = class_cap(counts, SampleConfig(per_class=per_class, megabytes=megabytes), image_bytes)
    room = (megabytes << 20) // image_bytes
    taken = sum(min(count, cap) for count in counts)
    assert 1 <= cap <= per_class
    assert taken <= max(room, len(counts))
    if cap < min(per_class, max(counts)):  # one more of each would be too much
        assert sum(min(count, cap + 1) for count in counts) > room


def test_little_room_is_shared_out_among_the_classes() -> None:
    little = SampleConfig(per_class=10_000, megabytes=1)
    assert class_cap([10_000] * 10, little, 1 << 10) == 102
    # what small classes leave goes to the others
    assert class_cap([10_000, 24, 10_000], little, 1 << 10) == 500
    assert class_cap([10_000] * 5000, little, 1 << 10) == 1


def test_chunks_hold_all_samples_once_in_order() -> None:
    data = population([900, 500], side=32)
    chunks = list(data.chunks())
    assert len(chunks) > 2
    assert torch.equal(torch.cat([indices for indices, _ in chunks]), torch.arange(1400))
    assert torch.equal(torch.cat([samples.images for _, samples in chunks]), data.whole().images)
    assert torch.equal(torch.cat([samples.labels for _, samples in chunks]), data.labels)
    wanted = torch.tensor([7, 3, 1200])
    ((indices, samples),) = data.chunks(wanted)
    assert torch.equal(indices, wanted)
    assert torch.equal(samples.images, data.whole().images[wanted])
    assert list(data.chunks(wanted[:0])) == []


def test_class_means_are_those_of_all_samples_in_chunks_of_any_size() -> None:
    data = population([900, 500], side=32)
    fine, coarse = ClassMeans.of_views(data, [lambda images: images, lambda images: halved(images, 8)])
    whole = data.whole()
    for label in (0, 1):
        own = whole.images[whole.labels == label].double()
        torch.testing.assert_close(fine.means[label], own.mean(0), rtol=0, atol=1e-12)
    assert torch.equal(coarse.means, ClassMeans.of(whole.halved_to(8)).means)


@pytest.mark.parametrize("settings", [{"per_class": 99}, {"megabytes": 0}])
def test_caps_that_leave_nothing_to_learn_from_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be at least"):
        SampleConfig(**settings)
