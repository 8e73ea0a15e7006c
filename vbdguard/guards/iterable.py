"""An iterable dataset without its poisoned samples, told by the digest of each sample as it comes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from vbdguard.config import ScanConfig
from vbdguard.errors import ReadError
from vbdguard.guards.counts import DropCounts
from vbdguard.guards.policy import OnPoison, OnUnscanned, Policy
from vbdguard.guards.relabel import NewLabel, relabelled
from vbdguard.guards.screen import Relabelled, Screen, StreamRecord, make_screen, scanned
from vbdguard.guards.stream_source import STREAM_REMEDY, StreamSource, stream_sample
from vbdguard.report import ScanReport

_STATE_METHODS = ("set_epoch", "state_dict", "load_state_dict")
"""Methods that say how the inner dataset stands and hand out no sample; loaders look for them by name."""
_ADVICE = f"the stream has changed since, or yields other pixels each time (random augmentation): {STREAM_REMEDY}"


class GuardedStream(IterableDataset[Any]):
    """A finite iterable dataset that yields only what a scan of it has kept.

    The stream is read and scanned here and now, in this process; then each sample is told by its digest, in whatever
    order and in whichever worker it comes. Where the dataset hands each rank its own part, each rank scans its part:
    guard the whole before it is split. A stream with a length has one here too, as long as it holds; samples whose
    image is not the one that was scanned meet `on_unscanned`.

    Args:
        dataset: yields (image, label) pairs or dicts, the same ones in each pass; images as encoded bytes, Pillow
            images, uint8 arrays or tensors, or floats in [0, 1].
        on_poison: `drop`, `relabel`, `warn` or `raise` (`vbdguard.guards.policy` says what they mean).
        on_unscanned: `raise`, `drop` or `warn`, for samples that no scan could read or has seen.
        config: settings of the scan; None takes the defaults.
        report: the outcome of an earlier scan of this stream; it is read once and compared with it.
        cache_dir: where reports, pixels and digests are kept; None takes the default place.

    Raises:
        ConfigError: if a policy is not one of its words.
        NothingToScanError: if there is too little in the stream to say anything.
        UnreadableError: if that is so and something in it could not be read.
        PoisonFoundError: under on_poison="raise", if there is poison.
        UnscannedSampleError: under on_unscanned="raise", if something cannot be scanned, or `report` speaks of other
            data; while training, if a sample comes that was not scanned.
    """

    def __new__(cls, dataset: Any = None, **_: Any) -> GuardedStream:
        """Make a stream with `__len__` where the dataset has one: loaders ask for the method, not for its answer."""
        return super().__new__(_SizedGuardedStream if hasattr(dataset, "__len__") else cls)

    def __init__(
        self,
        dataset: Any,
        *,
        on_poison: OnPoison = "drop",
        on_unscanned: OnUnscanned = "raise",
        config: ScanConfig | None = None,
        report: ScanReport | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        policy = Policy(on_poison=on_poison, on_unscanned=on_unscanned)
        self._inner = dataset
        name = type(dataset).__name__
        directory = None if cache_dir is None else Path(cache_dir)
        source = StreamSource(dataset)
        found, digests = scanned(source, config, report, name=name, cache_dir=directory)
        self._screen: Screen = make_screen(found, digests, policy, name=name, cache_dir=directory, advice=_ADVICE)
        self._record = StreamRecord(found, self._screen.tally)
        self._items = source.items
        self._kept = _count_kept(self._screen, digests) + (len(found.skipped) if on_unscanned == "warn" else 0)

    @property
    def unguarded(self) -> Any:
        """The inner dataset, with everything that the scan flagged still in it."""
        return self._inner

    @property
    def report(self) -> ScanReport:
        """The scan's outcome; stays in the process that made the guard."""
        return self._record.report

    @property
    def counts(self) -> DropCounts:
        """What the guard has done so far in all workers; `vbdguard.guards.tally` says what an epoch is."""
        return self._record.counts

    @property
    def vbdguard(self) -> StreamRecord:
        """Report and counts under the name that every guarded thing has for them."""
        return self._record

    def __iter__(self) -> Iterator[Any]:
        current = self._screen.begin()
        for place, item in enumerate(self._inner):
            key = f"{self._screen.name}/{place}"
            try:
                raw = stream_sample(key, item)
            except ReadError as error:
                if current.admit_unscanned(key, f"{error.reason}: {error.detail}"):
                    yield item
                continue
            verdict = current.admit(raw)
            if verdict is True:
                yield item
            elif isinstance(verdict, Relabelled):
                yield relabelled(item, NewLabel(old=raw.label, new=verdict.label))

    def __getattr__(self, name: str) -> Any:
        # Unpickling and copying look attributes up before there are any.
        if name in _STATE_METHODS and "_inner" in self.__dict__:
            return getattr(self._inner, name)
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}; take it from .unguarded, where samples come unguarded"
        )


class _SizedGuardedStream(GuardedStream):
    """A guarded stream whose inner dataset has a length."""

    def __len__(self) -> int:
        if len(self._inner) != self._items:
            # A wrong length is worse than none: schedulers and progress bars would believe it.
            raise TypeError(f"{self._screen.name} says {len(self._inner)} and has yielded {self._items} samples")
        return self._kept


def _count_kept(screen: Screen, digests: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """Return how many of the scanned samples pass or are relabelled; twins count each."""
    changes = screen.table.changes
    if screen.policy.on_poison == "warn" or not changes:
        return len(digests)
    marks = [screen.table.find(digest.tobytes()) for digest in digests]
    relabels = screen.policy.on_poison == "relabel"
    return sum(mark == 0 or (relabels and changes[mark - 1].new_label is not None) for mark in marks)
