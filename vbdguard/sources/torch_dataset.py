"""Samples of a map-style dataset in memory: torchvision, Hugging Face, or anything with `__getitem__` and `__len__`.

The scan wants raw images: random augmentation would move the triggers, and normalised floats are no
pixels. Datasets of torchvision, timm and Hugging Face are therefore seen without their transforms, also inside
`Subset` and `ConcatDataset`; for any other dataset that transforms what it hands out, the caller passes `raw`.
This module loads neither torch nor torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vbdguard.errors import ReadError, SourceError
from vbdguard.sources.base import RawSample, Unreadable
from vbdguard.sources.torch_items import BAD_RANGE, IMAGE_NAMES, LABEL_NAMES, to_raw_sample
from vbdguard.sources.torch_views import class_names_of, raw_view

SAMPLES_PER_SHARD = 4096
_PROBED_SAMPLES = 32
"""An augmentation that fires once in ten still shows in one of so many pairs with a chance of 99.8 %."""

RAW_REMEDY = (
    "pass raw=: a dataset of the same length without the transform, or a function from an index to (image, label), "
    "where the image is a Pillow image, uint8, or floats in [0, 1]"
)

RawView = Any
"""A dataset as the caller holds it, or a function from an index to an item."""


class TorchDatasetSource:
    """A map-style dataset as a source; it stays in this process.

    Args:
        dataset: has `__len__` and `__getitem__` for 0 to N - 1; an item is (image, label) or a dict.
            Images: Pillow images, arrays or tensors, uint8 or floats in [0, 1]. Labels: int or str.
        raw: where to take the untransformed samples from: a dataset of equal length or a function
            from an index to (image, label); None takes `dataset`, torchvision's without transforms.

    Raises:
        SourceError: if it is no map-style dataset, its items cannot be understood, or one index
            gives different samples from one call to the next.
    """

    is_picklable = False

    def __init__(self, dataset: Any, *, raw: RawView | None = None) -> None:
        self._length = _length_of(dataset)
        self._dataset = dataset
        self._fetch = raw_fetcher(dataset, raw)
        self._name = type(dataset).__name__
        _probe(self._fetch, self._length, self._name)

    def __len__(self) -> int:
        return self._length

    @property
    def names(self) -> tuple[str, ...]:
        """The dataset's type."""
        return (self._name,)

    @property
    def shards(self) -> Sequence[IndexRange]:
        """The dataset in slices of `SAMPLES_PER_SHARD` indices."""
        starts = range(0, self._length, SAMPLES_PER_SHARD)
        return [
            IndexRange(self._name, start, min(start + SAMPLES_PER_SHARD, self._length), self._fetch) for start in starts
        ]

    @property
    def class_names(self) -> Mapping[int, str] | None:
        """Names of the class numbers from `classes` or from Hugging Face features, where there are any."""
        return class_names_of(self._dataset)


@dataclass(frozen=True, slots=True)
class IndexRange:
    """The samples of one slice of a dataset."""

    dataset_name: str
    start: int
    stop: int
    fetch: Callable[[int], Any]

    @property
    def name(self) -> str:
        """The dataset's type and the slice."""
        return f"{self.dataset_name}[{self.start}:{self.stop}]"

    def digest(self) -> str | None:
        """Return None: there is no file, the samples decide."""
        return None

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the samples in the order of their indices; keys are the indices as text."""
        for index in range(self.start, self.stop):
            yield read_one(self.fetch, index)


def _length_of(dataset: Any) -> int:
    if not hasattr(dataset, "__getitem__"):
        raise SourceError(f"expected a map-style dataset with __len__ and __getitem__, got {type(dataset).__name__}")
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise SourceError(
            f"expected a map-style dataset with a length, got {type(dataset).__name__}: {error}; "
            "give it a __len__, or scan the files that it reads"
        ) from error


def raw_fetcher(dataset: Any, raw: RawView | None) -> Callable[[int], Any]:
    """Return what gives the untransformed items of a dataset by their indices; see `TorchDatasetSource`.

    Raises:
        SourceError: if `raw` is neither a dataset of as many items nor a function.
    """
    view = dataset if raw is None else raw
    if hasattr(view, "__getitem__"):
        came, length = _length_of(view), _length_of(dataset)
        if came != length:
            raise SourceError(f"expected raw= of the dataset's length {length}, got one of length {came}")
        fetch: Callable[[int], Any] = raw_view(view).__getitem__
        return fetch
    if callable(view):
        call: Callable[[int], Any] = view
        return call
    raise SourceError(f"expected raw= to be a dataset or a function of an index, got {type(view).__name__}")


def read_one(fetch: Callable[[int], Any], index: int) -> RawSample | Unreadable:
    """Return one item of a dataset as a scan sees it; its key is the index as text."""
    key = str(index)
    try:
        return to_raw_sample(key, fetch(index))
    except ReadError as error:
        return Unreadable(key, error.reason, error.detail)
    except Exception as error:
        # Any error of the user's code: one bad item must not end the scan, nor pass for a clean one.
        return Unreadable(key, "item-failed", _stable_text(error))


def _stable_text(error: Exception) -> str:
    # Pillow prints the file object with its address, which differs from run to run.
    return f"{type(error).__name__}: " + re.sub(r" at 0x[0-9a-fA-F]+", "", str(error))


def _probe(fetch: Callable[[int], Any], length: int, name: str) -> None:
    """Refuse a dataset whose items are no raw images, before a scan spends time on it."""
    indices = np.unique(np.linspace(0, length - 1, num=min(length, _PROBED_SAMPLES)).astype(int)).tolist()
    pairs = [(read_one(fetch, index), read_one(fetch, index)) for index in indices]
    for first, second in pairs:
        if not _is_same(first, second):
            raise SourceError(
                f"{name}: expected the same sample at each call, got two different ones at index {first.key}; "
                f"random augmentation hides triggers from the scan; {RAW_REMEDY}"
            )
    failed = [first for first, _ in pairs if isinstance(first, Unreadable)]
    out_of_range = [entry for entry in failed if entry.reason == BAD_RANGE]
    if out_of_range:
        raise SourceError(f"{name}[{out_of_range[0].key}]: {out_of_range[0].detail}; {RAW_REMEDY}")
    if failed and len(failed) == len(pairs):
        raise SourceError(
            f"{name}: none of {len(pairs)} probed items can be read; first at {failed[0].key}: {failed[0].detail}; "
            f"items are (image, label), or dicts with {'|'.join(IMAGE_NAMES)} and {'|'.join(LABEL_NAMES)}; {RAW_REMEDY}"
        )


def _is_same(first: RawSample | Unreadable, second: RawSample | Unreadable) -> bool:
    if isinstance(first, RawSample) and isinstance(second, RawSample):
        return first.label == second.label and np.array_equal(first.image, second.image)
    return type(first) is type(second)
