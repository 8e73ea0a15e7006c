"""Which file an item of a map-style dataset is read from, where the dataset says so.

torchvision's folders and file lists (`ImageFolder`, `Food101`, ...) and timm's `ImageDataset` over a folder keep a list
with an entry for each item. Everything else holds its images in memory, in one file for many, or where only its own
code knows: then there is no answer.
"""

from __future__ import annotations

import os
from typing import Any

from vbdguard.sources.timm_images import is_timm_dataset
from vbdguard.sources.torch_views import is_vision_dataset, leaf_of

_LISTS = ("samples", "_samples", "_image_files")
"""Where torchvision's datasets keep paths, alone or in front of a class; the first that is there."""


def file_of(dataset: Any, index: int) -> str | None:
    """Return the path of the file behind an item, through `Subset` and `ConcatDataset`; None where nobody tells."""
    leaf, place = leaf_of(dataset, index)
    entry = _entry(leaf, place)
    if isinstance(entry, (tuple, list)) and entry:
        entry = entry[0]
    if type(entry) is str:  # nearly always; asking for a PathLike takes longer than all the rest
        return entry
    return os.fspath(entry) if isinstance(entry, (str, os.PathLike)) else None


def _entry(leaf: Any, place: int) -> Any:
    """Return what a dataset's list says about an item."""
    if is_timm_dataset(leaf):
        return _at(getattr(leaf.reader, "samples", None), place) if _reads_folder(leaf.reader) else None
    if not is_vision_dataset(leaf):
        return None
    for name in _LISTS:
        if (entries := getattr(leaf, name, None)) is not None:
            return _at(entries, place)
    return None


def _reads_folder(reader: Any) -> bool:
    # timm's other readers name members of an archive.
    return type(reader).__name__ == "ReaderImageFolder"


def _at(entries: Any, place: int) -> Any:
    return entries[place] if isinstance(entries, (list, tuple)) and place < len(entries) else None
