"""Streams of other libraries, guarded by what their own filtering allows.

    Hugging Face IterableDataset    its own `filter` on the undecoded bytes; comes back as an IterableDataset
    litdata StreamingDataset        its own `subset` of the kept samples, each compared with the scan when it is read
    MosaicML StreamingDataset       has no way to leave samples out; the error says what to do

Each is told by its class's name: no library is imported that the user has not imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vbdguard.config import ScanConfig
from vbdguard.errors import SourceError
from vbdguard.guards.counts import GuardRecord
from vbdguard.guards.kinds import is_a
from vbdguard.guards.policy import OnPoison, OnUnscanned, Policy
from vbdguard.guards.screen import StreamRecord
from vbdguard.guards.stream_request import StreamRequest
from vbdguard.report import ScanReport

_REFUSALS = {
    ("litdata", "StreamingDataLoader"): "guard the dataset inside: StreamingDataLoader(vbdguard.guard(dataset), ...)",
    ("litdata", "CombinedStreamingDataset"): "guard each dataset before they are combined",
    ("streaming.base", "StreamingDataLoader"): "guard the data inside it first",
    ("streaming.base", "StreamingDataset"): (
        "MosaicML's streams have no way to leave samples out: write the samples that "
        "vbdguard.guards.iterable.GuardedStream(dataset) yields to new shards with streaming.MDSWriter and train on "
        "those; or train on that GuardedStream in a plain torch DataLoader"
    ),
}


def guard_streaming_library(
    dataset: Any,
    *,
    on_poison: OnPoison = "drop",
    on_unscanned: OnUnscanned = "raise",
    config: ScanConfig | None = None,
    report: ScanReport | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """Return a dataset of the same library that yields only what a scan has kept; the table above says how.

    Args:
        dataset: a `datasets.IterableDataset` or a `litdata.StreamingDataset`; not altered.
        on_poison: `drop`, `relabel`, `warn` or `raise` (`vbdguard.guards.policy` says what they mean).
        on_unscanned: `raise`, `drop` or `warn`, for samples that no scan could read or has seen.
        config: settings of the scan; `label_key` names the column of the class.
        report: the outcome of an earlier scan of this dataset; it is read once and compared with it.
        cache_dir: where reports, pixels and digests are kept; None takes the default place.

    Raises:
        ConfigError: if a policy is not one of its words.
        SourceError: if the library cannot filter, or the raw images are not in reach; says what to do.
        PoisonFoundError: under on_poison="raise", if there is poison.
        UnscannedSampleError: under on_unscanned="raise", if something cannot be scanned, or `report` speaks of other
            data; while training, if a sample comes that was not scanned.
    """
    for (package, name), remedy in _REFUSALS.items():
        if is_a(dataset, package, name):
            raise SourceError(f"{name} cannot be guarded as it is: {remedy}")
    policy = Policy(on_poison=on_poison, on_unscanned=on_unscanned)
    request = StreamRequest(policy, config, report, None if cache_dir is None else Path(cache_dir))
    if isinstance(getattr(dataset, "vbdguard", None), (StreamRecord, GuardRecord)):
        return dataset
    if is_a(dataset, "datasets", "IterableDataset"):
        from vbdguard.guards.hugging_face_stream import guard_hugging_face_stream

        return guard_hugging_face_stream(dataset, request)
    if is_a(dataset, "litdata", "StreamingDataset"):
        from vbdguard.guards.litdata_stream import guard_litdata

        return guard_litdata(dataset, request)
    raise SourceError(
        f"expected a streaming dataset of Hugging Face datasets or litdata, got {type(dataset).__name__}; "
        "vbdguard.guards.iterable.GuardedStream goes around any iterable dataset"
    )
