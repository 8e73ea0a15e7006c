"""Another class for a sample: in the items of a dataset, and in the attributes that list its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vbdguard.errors import ConfigError, ReadError
from vbdguard.sources.torch_items import is_tensor, label_name, split_item, to_label

LabelTransform = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class NewLabel:
    """The class that the scan saw on a sample, and the one that it suggests instead; both as the raw data have them."""

    old: int | str
    new: int | str


def relabelled(item: Any, change: NewLabel, *, transform: LabelTransform | None = None) -> Any:
    """Return the item with its class replaced, in the same container and of the same type.

    Args:
        item: (image, label, ...) as tuple, named tuple or list, or a mapping; not altered.
        change: what to replace by what.
        transform: what the dataset does to a raw label before it hands it out, if anything.

    Raises:
        ConfigError: if the item's class is not the one that the scan saw.
    """
    try:
        _, label = split_item(item)
    except ReadError as error:
        raise ConfigError(f'on_poison="relabel" finds no class to replace: {error.detail}; use "drop"') from error
    return _with_label(item, new_label(label, change, transform=transform))


def new_label(label: Any, change: NewLabel, *, transform: LabelTransform | None = None) -> Any:
    """Return the suggested class in the type and shape of `label`.

    Raises:
        ConfigError: if `label` is not the class that the scan saw; then nobody knows what the new one would be.
    """
    expected = change.old if transform is None else transform(change.old)
    if not _is_same_label(label, expected):
        raise ConfigError(
            f'on_poison="relabel" expected the class {expected!r} that the scan saw, got {label!r}; the dataset '
            'changes its labels on the way: use on_poison="drop", or pass raw= with the labels that training sees'
        )
    return _in_type_of(label, change.new) if transform is None else transform(change.new)


def _is_same_label(label: Any, expected: Any) -> bool:
    try:
        return to_label(label) == to_label(expected)
    except ReadError:
        # No plain class but a vector, such as one-hot.
        return bool(np.array_equal(np.asarray(label), np.asarray(expected)))


def _in_type_of(label: Any, new: int | str) -> Any:
    if is_tensor(label):
        return label.new_full(tuple(label.shape), new)
    if isinstance(label, np.ndarray):
        return np.full_like(label, new)
    if isinstance(label, np.generic):
        return type(label)(new)
    return new


def _with_label(item: Any, label: Any) -> Any:
    if isinstance(item, Mapping):
        return {**item, label_name(item): label}
    fields = [item[0], label, *item[2:]]
    if isinstance(item, list):
        return fields
    make: Callable[[list[Any]], Any] = getattr(type(item), "_make", tuple)
    return make(fields)
