"""A litdata StreamingDataset, guarded by its own `subset`, each sample compared with the scan when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vbdguard.errors import ReadError
from vbdguard.guards.counts import DropCounts, GuardRecord
from vbdguard.guards.relabel import NewLabel, relabelled
from vbdguard.guards.screen import Screen
from vbdguard.guards.stream_request import StreamRequest
from vbdguard.guards.stream_source import stream_sample


def guard_litdata(dataset: Any, request: StreamRequest) -> Any:
    """Return a `litdata.StreamingDataset` of the kept samples; report and counts of one pass stand in `.vbdguard`."""
    name = type(dataset).__name__
    items = _LitdataItems(dataset)
    report, screen = request.scan(items, name=name)
    kept, counts = _litdata_verdict(items, screen)
    guarded = dataset.subset(kept)
    transform = getattr(guarded, "transform", [])
    guarded.transform = [_Checked(screen), *(transform if isinstance(transform, list) else [transform])]
    guarded.vbdguard = GuardRecord(report=report, counts=counts)
    return guarded


class _LitdataItems:
    """The items of a litdata stream by index, before its transforms, whatever a subclass makes of them.

    Args:
        dataset: stays as it is; a copy is read.
    """

    def __init__(self, dataset: Any) -> None:
        # len(dataset) is what one process of a distributed training gets of it.
        self._length = sum(end - start for start, end in dataset.region_of_interest)
        self._raw = dataset.subset(range(self._length))
        if hasattr(self._raw, "transform"):
            del self._raw.transform

    def __iter__(self) -> Iterator[Any]:
        from litdata import StreamingDataset  # type: ignore[import-untyped]  # ships no annotations

        for index in range(self._length):
            yield StreamingDataset.__getitem__(self._raw, index)


def _litdata_verdict(items: _LitdataItems, screen: Screen) -> tuple[list[int], DropCounts]:
    """Return the indices that pass, and the counts of one pass over all."""
    current = screen.begin()
    kept: list[int] = []
    for index, item in enumerate(items):
        key = f"{screen.name}/{index}"
        try:
            passes = bool(current.admit(stream_sample(key, item)))
        except ReadError as error:
            passes = current.admit_unscanned(key, f"{error.reason}: {error.detail}")
        if passes:
            kept.append(index)
    return kept, screen.tally.counts


@dataclass(frozen=True, slots=True)
class _Checked:
    """The first transform: compares each item with the scan, and relabels it where the policy says so."""

    screen: Screen

    def __call__(self, item: Any) -> Any:
        key = self.screen.name
        try:
            raw = stream_sample(key, item)
        except ReadError as error:
            self._meet(key, f"{error.reason}: {error.detail}")
            return item
        if not self.screen.knows(raw):
            self._meet(key, f"no scan has seen its bytes with the label {raw.label!r}")
        new = self.screen.new_label(raw)
        return item if new is None else relabelled(item, NewLabel(old=raw.label, new=new))

    def _meet(self, key: str, why: str) -> None:
        if self.screen.policy.on_unscanned != "warn":  # a transform cannot leave anything out
            raise self.screen.unscanned_error(key, why)
