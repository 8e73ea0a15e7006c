"""torchdata's samplers, whose position can be saved; imported only where torchdata is in use."""

from __future__ import annotations

from typing import Any

from torchdata.stateful_dataloader.sampler import (  # type: ignore[import-untyped]  # ships no types
    RandomSampler,
    StatefulDistributedSampler,
)

from vbdguard.errors import SourceError
from vbdguard.guards.samplers import Kept, _SharesEpoch, distributed_settings, random_settings


class GuardedStatefulDistributedSampler(_SharesEpoch, StatefulDistributedSampler):  # type: ignore[misc]  # untyped base
    """torchdata's StatefulDistributedSampler on guarded data, with the epoch of the sampler it was made after."""

    def __init__(self, data: Any, first: Any) -> None:
        self.follow(first)
        epoch = first.epoch
        super().__init__(data, **distributed_settings(first))
        self.epoch = epoch


def rebuild_stateful_sampler(sampler: Any, kept: Kept) -> Any | None:
    """Return torchdata's sampler for guarded data, or None if it is none of torchdata's.

    Raises:
        SourceError: if a position was loaded into it, which counts unguarded samples.
    """
    if type(sampler) is RandomSampler:
        return RandomSampler(kept.data, **random_settings(sampler, kept))
    if type(sampler) is not StatefulDistributedSampler:
        return None
    kept.require_same_length(sampler.dataset, "StatefulDistributedSampler")
    if sampler.next_yielded is not None:
        raise SourceError(
            "expected a StatefulDistributedSampler at its start, got one with a loaded position among unguarded "
            "samples; guard the loader first, then load the state of a guarded loader"
        )
    return GuardedStatefulDistributedSampler(kept.data, sampler)
