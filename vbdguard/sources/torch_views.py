"""Torch datasets seen from the outside: without their transforms, and with their class names.

torch, torchvision and the like are looked up among the loaded modules, never loaded: a dataset made with them
has loaded them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

from vbdguard.sources.timm_images import TimmImages, is_timm_dataset
from vbdguard.sources.torch_items import LABEL_NAMES


def raw_view(dataset: Any) -> Any:
    """Return a dataset that hands out untransformed items, at the same indices as `dataset`.

    The caller's object is not touched: torchvision datasets are copied shallowly and the copy loses
    its transforms, Hugging Face's lose their format (and with it a transform), timm's are read past theirs, and a
    guard says itself what it keeps; `Subset` and `ConcatDataset` are rebuilt around such views. Others come back as
    they are.
    """
    if is_vision_dataset(dataset):
        # Not copy.copy: it would run a class's own __getstate__, and with it whatever that opens or drops.
        view = object.__new__(type(dataset))
        view.__dict__.update(dataset.__dict__, transform=None, target_transform=None, transforms=None)
        return view
    if is_timm_dataset(dataset):
        return TimmImages(dataset)
    if _is_hugging_face(dataset):
        return dataset.with_format(None)
    if _is_guard(dataset):
        return dataset.untransformed
    if is_plain(dataset, "Subset"):
        return type(dataset)(raw_view(dataset.dataset), dataset.indices)
    if is_plain(dataset, "ConcatDataset"):
        return type(dataset)([raw_view(part) for part in dataset.datasets])
    return dataset


def label_transform_of(dataset: Any, index: int) -> Callable[[Any], Any] | None:
    """Return what torchvision's or timm's dataset does to the label of its raw view at `index`, or None for nothing."""
    leaf, _ = leaf_of(dataset, index)
    if not (is_vision_dataset(leaf) or is_timm_dataset(leaf)):
        return None
    transform: Callable[[Any], Any] | None = getattr(leaf, "target_transform", None)
    return transform


def leaf_of(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the dataset that an item really comes from and its index there, through `Subset` and `ConcatDataset`."""
    if is_plain(dataset, "Subset"):
        return leaf_of(dataset.dataset, int(dataset.indices[index]))
    if is_plain(dataset, "ConcatDataset"):
        part = bisect_right(dataset.cumulative_sizes, index)
        before = dataset.cumulative_sizes[part - 1] if part else 0
        return leaf_of(dataset.datasets[part], index - before)
    return dataset, index


def class_names_of(dataset: Any) -> Mapping[int, str] | None:
    """Return the names of a dataset's class numbers, or None where it does not tell."""
    if is_plain(dataset, "Subset"):
        return class_names_of(dataset.dataset)
    if is_plain(dataset, "ConcatDataset"):
        candidates = [class_names_of(part) for part in dataset.datasets]
        return candidates[0] if all(names == candidates[0] for names in candidates) else None
    if (names := _names_in_features(dataset)) is not None:
        return names
    return _names_in_classes(dataset)


def _names_in_features(dataset: Any) -> Mapping[int, str] | None:
    """Hugging Face: `features` maps a column to its type, and a ClassLabel has `names`."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    column = next((name for name in LABEL_NAMES if name in features), None)
    names = getattr(features[column], "names", None) if column is not None else None
    return MappingProxyType(dict(enumerate(names))) if _is_list_of(names, str) else None


def _names_in_classes(dataset: Any) -> Mapping[int, str] | None:
    """torchvision: `classes` lists the names in the order of their numbers; ImageNet has several names for one."""
    classes = getattr(dataset, "classes", None)
    if _is_list_of(classes, (tuple, list)):
        classes = [", ".join(map(str, synonyms)) for synonyms in classes]
    if not _is_list_of(classes, str):
        return None
    numbers = getattr(dataset, "class_to_idx", None)
    numbers = numbers if isinstance(numbers, Mapping) else {}
    return MappingProxyType({int(numbers.get(name, place)): name for place, name in enumerate(classes)})


def _is_list_of(value: Any, kind: type | tuple[type, ...]) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(entry, kind) for entry in value)


def is_plain(dataset: Any, name: str) -> bool:
    """Return whether `dataset` is torch's own `Subset` or `ConcatDataset`; a subclass may transform on its own."""
    return type(dataset) is _loaded_class("torch.utils.data.dataset", name)


def is_vision_dataset(dataset: Any) -> bool:
    """Return whether `dataset` is one of torchvision's, or made after them."""
    return isinstance(dataset, _loaded_class("torchvision.datasets.vision", "VisionDataset") or ())


def _is_hugging_face(dataset: Any) -> bool:
    return isinstance(dataset, _loaded_class("datasets.arrow_dataset", "Dataset") or ())


def _is_guard(dataset: Any) -> bool:
    return isinstance(dataset, _loaded_class("vbdguard.guards.dataset", "GuardedDataset") or ())


def _loaded_class(module: str, name: str) -> type | None:
    kind: type | None = getattr(sys.modules.get(module), name, None)
    return kind
