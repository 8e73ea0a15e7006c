"""Samples of an iterable dataset, as one shard that is read in this process.

Streams may come in another order each time, so it is the set of samples that must agree between two reads, not
their sequence. This module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vbdguard.errors import ReadError, SourceError
from vbdguard.ingest.digest import DIGEST_BYTES, dataset_digest, sample_digest, skipped_digest
from vbdguard.sources.base import ExifRule, RawSample, Unreadable
from vbdguard.sources.torch_items import split_item, to_label, to_pixels

MAX_REPLAY = 128 << 20
"""Bytes of a stream that are kept after hashing, so that a short stream is read only once."""

STREAM_REMEDY = (
    "guard the stream before it is augmented, as it yields (image, label) or a dict with the raw image: its encoded "
    "bytes, a Pillow image, or uint8 pixels"
)


class StreamSource:
    """A finite iterable dataset as a source; it stays in this process.

    Args:
        dataset: yields (image, label) or dicts of them; images as encoded bytes, Pillow images, arrays or tensors.
        exif: whether the stream's own library turns encoded images by their EXIF orientation.
    """

    is_picklable = False
    class_names: Mapping[int, str] | None = None

    def __init__(self, dataset: Iterable[Any], *, exif: ExifRule = "stored") -> None:
        self._shard = StreamShard(dataset, exif)

    @property
    def names(self) -> tuple[str, ...]:
        """The dataset's type."""
        return (self._shard.name,)

    @property
    def shards(self) -> Sequence[StreamShard]:
        """The whole stream as one shard."""
        return [self._shard]

    @property
    def items(self) -> int:
        """How many items one pass has given.

        Raises:
            SourceError: before a whole pass.
        """
        if self._shard.items is None:
            raise SourceError(f"{self._shard.name}: expected a stream that has been read, got one that has not")
        return self._shard.items


@dataclass(slots=True)
class StreamShard:
    """A stream from its start to its end."""

    dataset: Iterable[Any]
    exif: ExifRule = "stored"
    items: int | None = None
    _digest: str | None = None
    _replay: list[RawSample | Unreadable] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The dataset's type."""
        return type(self.dataset).__name__

    def digest(self) -> str:
        """Read the stream once; return the hex digest over its samples, whatever their order."""
        check = _Check()
        kept: list[RawSample | Unreadable] | None = []
        size = 0
        for entry in self._entries():
            size += check.add(entry)
            if size > MAX_REPLAY:
                kept = None
            elif kept is not None:
                kept.append(entry)
        self.items, self._digest, self._replay = check.count, check.hexdigest(), kept
        return self._digest

    def read(self) -> Iterator[RawSample | Unreadable]:
        """Yield the samples; keys are `<type>/<place>`.

        Raises:
            ReadError: "changed" if they are not those of `digest()`.
        """
        if self._replay is not None:
            kept, self._replay = self._replay, None
            yield from kept
            return
        check = _Check()
        for entry in self._entries():
            check.add(entry)
            yield entry
        if self._digest is not None and check.hexdigest() != self._digest:
            raise ReadError("changed", f"{self.name} gave other samples when it was read again; {STREAM_REMEDY}")

    def _entries(self) -> Iterator[RawSample | Unreadable]:
        for place, item in enumerate(self.dataset):
            key = f"{self.name}/{place}"
            try:
                yield stream_sample(key, item)
            except ReadError as error:
                yield Unreadable(key, error.reason, error.detail)


class _Check:
    """The digest of a set of samples, 32 bytes each."""

    def __init__(self) -> None:
        self.count = 0
        self._digests = bytearray()
        self._skipped: list[bytes] = []

    def add(self, entry: RawSample | Unreadable) -> int:
        """Take a sample in; return how many bytes it holds."""
        self.count += 1
        if isinstance(entry, Unreadable):
            self._skipped.append(skipped_digest(entry.reason, b""))
            return 0
        self._digests += sample_digest(entry.image, entry.label)
        return len(entry.image) if isinstance(entry.image, bytes) else entry.image.nbytes

    def hexdigest(self) -> str:
        digests = np.frombuffer(bytes(self._digests), np.uint8).reshape(-1, DIGEST_BYTES)
        return dataset_digest(digests, self._skipped)


def stream_sample(key: str, item: Any) -> RawSample:
    """Return what identifies an item of a stream: its encoded bytes or its pixels, and its class.

    Args:
        key: the sample's key, passed through.
        item: (image, label, ...) or a mapping; an image may be encoded bytes, a mapping with `bytes` (as Hugging Face
            stores undecoded images), a Pillow image, an array or a tensor.

    Raises:
        ReadError: if there is no image or no class in it.
    """
    image, label = split_item(item)
    if isinstance(image, Mapping):
        image = image.get("bytes")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return RawSample(key, bytes(image), to_label(label))
    return RawSample(key, to_pixels(image), to_label(label))
