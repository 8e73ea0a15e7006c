"""Samplers for guarded data, made after the samplers of the loader around the unguarded.

A sampler draws inner indices or counts by the inner length; used on guarded data as it is, it would run past the
end or draw the wrong samples. So each known one is made anew for what is kept, with the same generator object:
on clean data it draws what the old one would have drawn. One that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from vbdguard.errors import SourceError
from vbdguard.guards.kinds import is_exactly, is_made_in


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a sampler must know of a guarded dataset."""

    data: Any
    """The guarded dataset, of n samples."""
    indices: NDArray[np.int64]
    """(n,) ascending, the inner indices that pass."""
    length: int
    """N, of the inner dataset."""

    def places_of(self, inner_indices: Iterable[Any]) -> list[int]:
        """Return where inner indices stand in the guarded dataset, in the given order, without those taken out.

        Raises:
            SourceError: if one is out of range.
        """
        inner = np.fromiter((int(index) for index in inner_indices), dtype=np.int64)
        if len(inner) and not (-self.length <= inner.min() and inner.max() < self.length):
            raise SourceError(
                f"expected a sampler's indices below the dataset's length {self.length}, "
                f"got {inner.min()} to {inner.max()}: it was made for another dataset"
            )
        inner %= self.length
        places = np.searchsorted(self.indices, inner).clip(max=len(self.indices) - 1)
        found: list[int] = places[self.indices[places] == inner].tolist()
        return found

    def require_same_length(self, data: Sized, what: str) -> None:
        """Refuse a sampler that was made for another length, and so for other data.

        Raises:
            SourceError: if it was.
        """
        if len(data) != self.length:
            raise SourceError(
                f"expected the loader's {what} to be made for its dataset of {self.length} samples, got one for "
                f"{len(data)}; guard that dataset itself and build the sampler on the guard"
            )


class _SharesEpoch:
    """A sampler whose epoch is that of the sampler it was made after.

    A script that keeps its sampler in a variable goes on calling `set_epoch` there; without this, every epoch of the
    guarded loader would be in the same order.
    """

    _first: Any

    @property
    def epoch(self) -> int:
        """The epoch of the sampler that the script made."""
        epoch: int = self._first.epoch
        return epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._first.epoch = epoch

    def follow(self, first: Any) -> None:
        """Keep a reference to the sampler whose epoch counts from now on."""
        self._first = first


class GuardedDistributedSampler(_SharesEpoch, DistributedSampler[Any]):
    """torch's DistributedSampler on guarded data; `set_epoch` works here and on the sampler it was made after."""

    def __init__(self, data: Any, first: DistributedSampler[Any]) -> None:
        self.follow(first)
        epoch = first.epoch
        super().__init__(data, **distributed_settings(first))
        self.epoch = epoch  # torch's __init__ has set it to 0, and with it the first one's


def distributed_settings(sampler: Any) -> dict[str, Any]:
    """Return what a DistributedSampler was made with, but for its dataset."""
    return {name: getattr(sampler, name) for name in ("num_replicas", "rank", "shuffle", "seed", "drop_last")}


def rebuild_sampler(sampler: Any, kept: Kept) -> Any:
    """Return a sampler of the same kind and settings for guarded data.

    Args:
        sampler: of samples, not of batches: one of torch's or torchdata's, or a list of inner indices.
        kept: what is guarded.

    Raises:
        SourceError: if the sampler is not known, or was made for another dataset.
    """
    if isinstance(sampler, (list, tuple, range)):
        return kept.places_of(sampler)
    if is_made_in(type(sampler), "torchdata"):
        from vbdguard.guards.stateful_samplers import rebuild_stateful_sampler

        if (made := rebuild_stateful_sampler(sampler, kept)) is not None:
            return made
    for kind, rebuild in _REBUILDERS.items():
        if type(sampler) is kind:
            return rebuild(sampler, kept)
    raise _unknown(sampler, "sampler")


def rebuild_batch_sampler(sampler: Any, kept: Kept) -> Any:
    """Return a batch sampler of the same kind and settings for guarded data.

    Args:
        sampler: torch's or torchdata's BatchSampler over a known sampler, or a list of batches of inner indices.
        kept: what is guarded.

    Raises:
        SourceError: if it is not known, or was made for another dataset.
    """
    if isinstance(sampler, (list, tuple)):
        return [batch for batch in map(kept.places_of, sampler) if batch]
    if is_batch_sampler(sampler):
        return type(sampler)(rebuild_sampler(sampler.sampler, kept), sampler.batch_size, sampler.drop_last)
    raise _unknown(sampler, "batch sampler")


def is_batch_sampler(sampler: Any) -> bool:
    """Return whether a sampler is torch's or torchdata's BatchSampler itself."""
    return type(sampler) is BatchSampler or is_exactly(sampler, "torchdata", "BatchSampler")


def scaled_draws(draws: int | None, kept: Kept) -> int | None:
    """Return how many samples an epoch draws: whole passes stay whole passes, any other number is the user's choice."""
    if draws is None or draws % kept.length:
        return draws
    return draws // kept.length * len(kept.indices)


def random_settings(sampler: Any, kept: Kept) -> dict[str, Any]:
    """Return what a RandomSampler on guarded data is made with, its generator the very same."""
    kept.require_same_length(sampler.data_source, type(sampler).__name__)
    return {
        "replacement": sampler.replacement,
        "num_samples": scaled_draws(sampler._num_samples, kept),
        "generator": sampler.generator,
    }


def _sequential(sampler: Any, kept: Kept) -> Any:
    kept.require_same_length(sampler.data_source, "SequentialSampler")
    return SequentialSampler(kept.data)


def _random(sampler: Any, kept: Kept) -> Any:
    return RandomSampler(kept.data, **random_settings(sampler, kept))


def _subset(sampler: Any, kept: Kept) -> Any:
    return SubsetRandomSampler(kept.places_of(sampler.indices), generator=sampler.generator)


def _weighted(sampler: Any, kept: Kept) -> Any:
    kept.require_same_length(sampler.weights, "WeightedRandomSampler")
    weights = sampler.weights[torch.from_numpy(kept.indices)]
    if not (weights > 0).any():
        raise SourceError("WeightedRandomSampler: expected a weight above 0 among the kept samples, got none")
    draws = scaled_draws(sampler.num_samples, kept) or 0
    if not sampler.replacement:
        # Each sample comes once at most, so there cannot be more draws than samples that may be drawn.
        draws = min(draws, int((weights > 0).sum()))
    return WeightedRandomSampler(weights, draws, sampler.replacement, generator=sampler.generator)


def _distributed(sampler: Any, kept: Kept) -> Any:
    kept.require_same_length(sampler.dataset, "DistributedSampler")
    return GuardedDistributedSampler(kept.data, sampler)


_REBUILDERS: Mapping[type, Callable[[Any, Kept], Any]] = MappingProxyType(
    {
        SequentialSampler: _sequential,
        RandomSampler: _random,
        SubsetRandomSampler: _subset,
        WeightedRandomSampler: _weighted,
        DistributedSampler: _distributed,
    }
)


def _unknown(sampler: Any, what: str) -> SourceError:
    name = type(sampler).__name__
    known: Sequence[str] = [*(kind.__name__ for kind in _REBUILDERS), "BatchSampler", "a list of indices"]
    return SourceError(
        f"expected a {what} that can be rebuilt for fewer samples ({', '.join(known)}, not a subclass), got {name}; "
        f"build it on guarded data yourself: data = vbdguard.guard(dataset), then DataLoader(data, "
        f"{what.replace(' ', '_')}={name}(...)) with what it needs of data: len(data), data.targets, data.kept_indices"
    )
