"""timm's ImageDataset as the scan wants it: untransformed, and each index its own sample.

timm puts the next sample in the place of one that it cannot read. A scan must see the broken one instead.
timm and Pillow are looked up among the loaded modules, never loaded: whoever made the dataset has loaded them.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

_STATELESS_READERS = ("ReaderImageFolder", "ReaderHfds")
"""Readers that keep no file open between two items."""


def is_timm_dataset(dataset: Any) -> bool:
    """Return whether `dataset` is timm's own ImageDataset; a subclass may transform on its own."""
    module = sys.modules.get("timm.data.dataset")
    return module is not None and type(dataset) is getattr(module, "ImageDataset", None)


class TimmImages:
    """The untransformed samples of timm's ImageDataset, at the same indices.

    Args:
        dataset: timm's ImageDataset; not touched.
    """

    def __init__(self, dataset: Any) -> None:
        reader = dataset.reader
        # An archive that is opened here and inherited by a forked worker would be read by both at one file position.
        self._reader = reader if type(reader).__name__ in _STATELESS_READERS else copy.deepcopy(reader)
        self._mode = dataset.input_img_mode

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the Pillow image and the class; -1 where there is none, as timm does."""
        from PIL import Image

        file, label, *_ = self._reader[index]
        with file, Image.open(file) as picture:
            image = picture.convert(self._mode) if self._mode else picture.copy()
        return image, -1 if label is None else label
