"""A Hugging Face IterableDataset, guarded by its own `filter` on the bytes that its images are decoded from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vbdguard.config import ScanConfig
from vbdguard.errors import ReadError, SourceError
from vbdguard.guards.kinds import is_a
from vbdguard.guards.screen import Pass, Screen, StreamRecord
from vbdguard.guards.stream_request import StreamRequest
from vbdguard.guards.stream_source import stream_sample
from vbdguard.sources.base import ExifRule, RawSample
from vbdguard.sources.files import open_binary
from vbdguard.sources.torch_items import LABEL_NAMES, to_label


def guard_hugging_face_stream(dataset: Any, request: StreamRequest) -> Any:
    """Return a `datasets.IterableDataset` without the flagged samples; its report and counts stand in `.vbdguard`.

    Raises:
        SourceError: if the features are not known, or there is not one column of images and one of classes.
    """
    from datasets import Image  # type: ignore[import-untyped]  # ships no annotations

    columns = _columns(dataset, request.config)
    original = dataset.features[columns.image]
    formatting = getattr(dataset, "_formatting", None)
    raw = dataset.with_format(None).cast_column(columns.image, Image(mode=original.mode, decode=False))
    # The library turns what it decodes; who decodes on his own sees what is stored.
    exif: ExifRule = "turned" if original.decode else "stored"
    report, screen = request.scan(_HuggingFaceItems(raw, columns), name="IterableDataset", exif=exif)
    guarded = raw.filter(_Admits(screen, columns), with_indices=True)
    # Casting the column back would not decode it: behind a filter, the library takes examples for decoded.
    decode = original.decode_example if original.decode else None
    guarded = guarded.map(_Restored(screen, columns, decode), features=dataset.features)
    if formatting is not None:
        guarded = guarded.with_format(formatting.format_type)
    guarded.vbdguard = StreamRecord(report, screen.tally)
    return guarded


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of an example hold the image and the class."""

    image: str
    label: str

    def sample(self, key: str, example: Mapping[str, Any]) -> RawSample:
        """Return what identifies an undecoded example."""
        image = example[self.image]
        content = image.get("bytes") if isinstance(image, Mapping) else image
        if content is None and isinstance(image, Mapping) and image.get("path"):
            with open_binary(image["path"]) as file:
                content = file.read()
        return stream_sample(key, (content, to_label(example[self.label])))


def _columns(dataset: Any, config: ScanConfig | None) -> _Columns:
    features = dataset.features
    if features is None:
        raise SourceError(
            "expected a stream whose features are known, got one behind a map or filter, which decode images: guard "
            "what load_dataset(..., streaming=True) returns, then .map() it; or name the features: .map(..., features=)"
        )
    images = [name for name, feature in features.items() if is_a(feature, "datasets", "Image")]
    wanted = (config.label_key,) if config is not None and config.label_key else LABEL_NAMES
    labels = [name for name in wanted if name in features]
    if len(images) != 1 or not labels:
        raise SourceError(
            f"expected one column of images and one of {', '.join(wanted)}, got {', '.join(features)}; rename or "
            "remove columns, or name the class's column with ScanConfig(label_key=...)"
        )
    return _Columns(images[0], labels[0])


@dataclass(frozen=True, slots=True)
class _HuggingFaceItems:
    """The undecoded examples as pairs."""

    raw: Any
    columns: _Columns

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for example in self.raw:
            try:
                sample = self.columns.sample("", example)
            except ReadError:
                yield None, example[self.columns.label]  # reported as unreadable, with its place in the stream
                continue
            yield sample.image, sample.label


class _Admits:
    """The predicate for `filter`; picklable, one per process counts its passes.

    Args:
        screen: what is known.
        columns: where an example holds what.
    """

    def __init__(self, screen: Screen, columns: _Columns) -> None:
        self._screen = screen
        self._columns = columns
        self._pass: Pass | None = None
        self._last = -1

    def __call__(self, example: Mapping[str, Any], index: int) -> bool:
        if self._pass is None or index <= self._last:
            self._pass = self._screen.begin()
        self._last = index
        key = f"{self._screen.name}/{index}"
        try:
            raw = self._columns.sample(key, example)
        except ReadError as error:
            return self._pass.admit_unscanned(key, f"{error.reason}: {error.detail}")
        return bool(self._pass.admit(raw))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pass": None, "_last": -1}


@dataclass(frozen=True, slots=True)
class _Restored:
    """The function for `map` that hands on what the predicate has let through, decoded and relabelled."""

    screen: Screen
    columns: _Columns
    decode: Callable[[Any], Any] | None
    """The image feature's own way from bytes to a picture; None where the stream was not to decode."""

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        restored = dict(example)
        if self.decode is not None:
            restored[self.columns.image] = self.decode(example[self.columns.image])
        if (new := self._new_label(example)) is not None:
            restored[self.columns.label] = new
        return restored

    def _new_label(self, example: Mapping[str, Any]) -> int | str | None:
        if self.screen.policy.on_poison != "relabel":
            return None
        try:
            return self.screen.new_label(self.columns.sample("", example))
        except ReadError:  # let pass by on_unscanned="warn"
            return None
