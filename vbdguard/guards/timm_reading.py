"""timm's ImageDataset without its way around the guard.

For a sample that it cannot read, timm hands out the next one, whatever it is: a flagged one as well. The view
here lets a kept sample stand in, as training without the guard would, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbdguard.errors import UnscannedSampleError
from vbdguard.guards.verdict import Verdict
from vbdguard.sources.timm_images import is_timm_dataset
from vbdguard.sources.torch_views import is_plain


def trusted_view(dataset: Any, verdict: Verdict) -> Any:
    """Return a dataset whose item at a kept index is that item, or another kept one where timm skips broken files.

    Args:
        dataset: any map-style dataset; comes back as it is unless timm's is in it, also inside Subset or ConcatDataset.
        verdict: what passes.
    """
    if is_timm_dataset(dataset):
        may_stand_in = np.zeros(verdict.length, dtype=np.bool_)
        may_stand_in[verdict.kept] = True
        # A sample under a new class stands in for nobody: the change belongs to its own index.
        may_stand_in[list(verdict.new_labels)] = False
        return TrustedImages(dataset, may_stand_in)
    return _without_stand_ins(dataset) if _holds_timm(dataset) else dataset


def _holds_timm(dataset: Any) -> bool:
    if is_plain(dataset, "Subset"):
        return _holds_timm(dataset.dataset)
    if is_plain(dataset, "ConcatDataset"):
        return any(_holds_timm(part) for part in dataset.datasets)
    return is_timm_dataset(dataset)


def _without_stand_ins(dataset: Any) -> Any:
    if is_plain(dataset, "Subset"):
        return type(dataset)(_without_stand_ins(dataset.dataset), dataset.indices)
    if is_plain(dataset, "ConcatDataset"):
        return type(dataset)([_without_stand_ins(part) for part in dataset.datasets])
    return TrustedImages(dataset, None) if is_timm_dataset(dataset) else dataset


@dataclass(frozen=True, slots=True, eq=False)
class TrustedImages:
    """timm's ImageDataset, with its transforms as they stand at each call."""

    dataset: Any
    may_stand_in: NDArray[np.bool_] | None
    """(N,) which samples may come in the place of one that cannot be read; None for none."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        # A copy for one item: the transforms that a loader sets later are seen, and the user's reader stays in place.
        one = object.__new__(type(self.dataset))
        one.__dict__.update(self.dataset.__dict__, reader=_OneSample(self.dataset.reader, index, self.may_stand_in))
        return one[index]


@dataclass(frozen=True, slots=True, eq=False)
class _OneSample:
    """A timm reader that hands out the sample that was asked for first, or one that may stand in for it."""

    reader: Any
    wanted: int
    may_stand_in: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Any:
        if index == self.wanted:
            return self.reader[index]
        if self.may_stand_in is None or not self.may_stand_in[self.wanted]:
            raise UnscannedSampleError(
                f"sample {self.wanted}: the scan could read it and training cannot (timm's warning says why), and "
                "timm would take another sample in its place; make it readable and guard the dataset anew"
            )
        if not self.may_stand_in[index]:
            raise OSError("the guard has taken this sample out")  # which sends timm on to the next
        return self.reader[index]
