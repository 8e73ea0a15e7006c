"""guard(): one function that goes around whatever feeds a training loop and hands back the same kind of thing.

    torch DataLoader                    a plain DataLoader with the same settings on guarded data
    Hugging Face Dataset                a `datasets.Dataset`, filtered by its own `select`
    WebDataset pipeline                 a pipeline of the same class with a filter on the raw bytes
    litdata, MosaicML, HF streaming     what their own filtering allows
    other torch IterableDataset         GuardedStream
    other map-style dataset             GuardedDataset (torchvision's, timm's, a list of pairs, anything with a length)

Where nothing can be filtered, the error says what to type instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from vbdguard.config import ScanConfig
from vbdguard.guards.guarded import is_guarded
from vbdguard.guards.kinds import is_a
from vbdguard.guards.options import GuardOptions, Keywords
from vbdguard.guards.policy import OnPoison, OnUnscanned
from vbdguard.guards.refusals import refuse_known, refuse_unknown
from vbdguard.report import ScanReport

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_Loader = TypeVar("_Loader", bound="DataLoader[Any]")


@overload
def guard(target: _Loader, **options: Unpack[Keywords]) -> _Loader: ...


@overload
def guard(target: Any, **options: Unpack[Keywords]) -> Any: ...


def guard(
    target: Any,
    *,
    on_poison: OnPoison = "drop",
    on_unscanned: OnUnscanned = "raise",
    raw: Any | None = None,
    config: ScanConfig | None = None,
    report: ScanReport | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """Return `target` without its poisoned samples, as the same kind of thing; the table above says which.

    What is guarded already comes back as it is.

    Args:
        target: a DataLoader, a dataset or a pipeline; not altered.
        on_poison: `drop`, `relabel`, `warn` or `raise` (`vbdguard.guards.policy` says what they mean).
        on_unscanned: `raise`, `drop` or `warn`, for samples that no scan could read or has seen.
        raw: for map-style datasets that transform their items and are not recognised: the untransformed samples,
            a dataset of the same length or a function from an index to (image, label).
        config: settings of the scan; None takes the defaults.
        report: the outcome of an earlier scan of these data; None scans, or takes the cached report.
        cache_dir: where reports and pixels are cached; None takes the default place.

    Raises:
        ConfigError: if a policy is not one of its words.
        SourceError: if `target` cannot be guarded or scanned; the message says what can.
        PoisonFoundError: under on_poison="raise"; for some kinds at first use.
        UnscannedSampleError: under on_unscanned="raise"; for some kinds at first use.
    """
    options = GuardOptions(
        on_poison=on_poison, on_unscanned=on_unscanned, raw=raw, config=config, report=report, cache_dir=cache_dir
    )
    if is_guarded(target):
        return target
    refuse_known(target)
    for kind in KINDS:
        if kind.is_kind(target):
            return kind.guard(target, options)
    raise refuse_unknown(target)


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: how to tell a kind of target, and how to guard it."""

    is_kind: Callable[[Any], bool]
    guard: Callable[[Any, GuardOptions], Any]


def _class(package: str, *names: str) -> Callable[[Any], bool]:
    return lambda target: is_a(target, package, *names)


def _guard_loader(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.loader import guard_loader

    return guard_loader(target, options, guard_stream=_guard_any)


def _guard_any(target: Any, options: GuardOptions) -> Any:
    return guard(target, **options.for_datasets())


def _guard_hugging_face(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.hugging_face import guard_hugging_face

    return guard_hugging_face(target, options)


def _guard_webdataset(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.stream import guard_webdataset

    return guard_webdataset(target, **options.for_streams())


def _guard_streaming_library(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.streaming_libraries import guard_streaming_library

    return guard_streaming_library(target, **options.for_streams())


def _guard_iterable(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.iterable import GuardedStream

    return GuardedStream(target, **options.for_streams())


def _guard_map_style(target: Any, options: GuardOptions) -> Any:
    from vbdguard.guards.dataset import GuardedDataset

    return GuardedDataset(target, **options.for_datasets())


def _is_map_style(target: Any) -> bool:
    return hasattr(target, "__getitem__") and hasattr(target, "__len__") and not isinstance(target, Mapping)


KINDS = (
    Kind(_class("webdataset", "DataPipeline"), _guard_webdataset),
    Kind(_class("datasets.arrow_dataset", "Dataset"), _guard_hugging_face),
    Kind(_class("datasets.iterable_dataset", "IterableDataset"), _guard_streaming_library),
    Kind(
        _class("litdata", "StreamingDataset", "StreamingDataLoader", "CombinedStreamingDataset"),
        _guard_streaming_library,
    ),
    Kind(_class("streaming.base", "StreamingDataset", "StreamingDataLoader"), _guard_streaming_library),
    Kind(_class("torch", "DataLoader"), _guard_loader),
    Kind(_class("torch", "IterableDataset"), _guard_iterable),
    Kind(_is_map_style, _guard_map_style),
)
"""Every kind of target, the narrower before the wider."""
