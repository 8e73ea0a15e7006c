"""The digest of a raw sample at a glance.

Which field is the image, and what a label's bytes mean, is the same for nearly all samples of a stream. It is worked
out once, by the code that a scan reads shards with, and remembered; what is hashed is the bytes at hand all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vbdguard.ingest.digest import file_digest, label_frame
from vbdguard.sources.base import RawSample
from vbdguard.sources.labels import has_one_place, label_field
from vbdguard.sources.tar import image_field

RawFields = Mapping[str, Any]
"""A sample as webdataset groups it: `__key__`, `__url__` and the bytes of each field."""

_REMEMBERED = 4096
"""Arrangements, and labels of each, that are remembered at most: whoever makes the data chooses them."""


class Glance:
    """What earlier samples of a stream have taught.

    Args:
        label_key: where the label stands, as for a scan; None looks in the usual places.
    """

    def __init__(self, label_key: str | None) -> None:
        self._label_key = label_key
        self._arrangements: dict[tuple[str, ...], tuple[str, str, dict[bytes, bytes]]] = {}
        """Field names: image field, label field, and the frame of each label's bytes."""

    def digest(self, sample: RawFields) -> bytes | None:
        """Return a sample's digest, or None where it must be read first: `learn` then spares the next one that."""
        try:
            image_name, label_name, frames = self._arrangements[tuple(sample)]
            image = sample[image_name]
            return file_digest(frames[sample[label_name]], image) if type(image) is bytes else None
        except (KeyError, TypeError):
            return None

    def learn(self, sample: RawFields, raw: RawSample) -> None:
        """Remember how a sample was read; labels in JSON stand among other things and are read each time."""
        if not has_one_place(sample, self._label_key) or len(self._arrangements) >= _REMEMBERED:
            return
        names, label_name = tuple(sample), label_field(sample, self._label_key)
        if names not in self._arrangements:
            self._arrangements[names] = (image_field(sample), label_name, {})
        frames = self._arrangements[names][2]
        if len(frames) < _REMEMBERED:
            frames[sample[label_name]] = label_frame(raw.label)
