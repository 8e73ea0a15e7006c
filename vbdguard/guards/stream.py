"""A WebDataset pipeline without its poisoned samples.

The guard is one stage of the pipeline, where samples are still the bytes of their files: behind the grouping,
before shuffle buffers and decoding. There a sample is told by the digest of its image and label, never by its name, so
shuffled, renamed, resampled and split shards need no special case, and bytes that no scan has seen do not pass
unnoticed. Other fields of a sample are not looked at and pass as they are.

No handler can swallow the guard's errors: webdataset's stages give theirs what goes wrong in their own work, not what
comes from the stages before them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vbdguard.config import ScanConfig
from vbdguard.errors import ReadError
from vbdguard.guards.digest_table import PASSES
from vbdguard.guards.glance import Glance, RawFields
from vbdguard.guards.kinds import is_a
from vbdguard.guards.pipelines import raw_place, shard_paths
from vbdguard.guards.policy import OnPoison, OnUnscanned, Policy
from vbdguard.guards.screen import Pass, Relabelled, Screen, StreamRecord, make_screen, scanned
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.labels import rewritten_label
from vbdguard.sources.opening import open_source
from vbdguard.sources.tar import read_sample

_TOGETHER = 16
_READ_AHEAD = 1 << 20


def guard_webdataset(
    pipeline: Any,
    *,
    on_poison: OnPoison = "drop",
    on_unscanned: OnUnscanned = "raise",
    config: ScanConfig | None = None,
    report: ScanReport | None = None,
    cache_dir: str | Path | None = None,
) -> Any:
    """Return a copy of a WebDataset pipeline that yields only what a scan of its shards has kept.

    The copy has the same class and stages, those that keep a state (such as the epoch of resampled shards) with one
    of their own. It can be pickled where the pipeline can, and be extended by `.map()` and the like. `.vbdguard.report`
    is the scan's report, `.vbdguard.counts` says what was dropped, in whatever process.

    All shards are scanned, also those that other nodes train on. Ranks lose different numbers of samples: where that
    matters, see `vbdguard.guards.equal_steps`.

    Args:
        pipeline: a `wds.WebDataset` or `wds.DataPipeline`; not altered.
        on_poison: `drop`, `relabel` (rewrites the field that the label was read from), `warn` or `raise`; see
            `vbdguard.guards.policy`.
        on_unscanned: `raise`, `drop` or `warn`, for samples that no scan has seen.
        config: settings of the scan; `label_key` says where the label stands.
        report: the outcome of an earlier scan of these shards; they are read and compared with it.
        cache_dir: where reports, pixels and digests are kept; None takes the default place. It must stay there while
            training starts workers.

    Raises:
        ConfigError: if a policy is not one of its words.
        SourceError: if the shards are not known beforehand, cannot be read as files, or are not grouped by webdataset.
        PoisonFoundError: under on_poison="raise", if there is poison.
        UnscannedSampleError: under on_unscanned="raise", if something cannot be scanned, or `report` speaks of other
            data; while training, if a sample comes that was not scanned.
        CacheError: if the cache cannot be written, or has gone when a worker starts.
    """
    policy = Policy(on_poison=on_poison, on_unscanned=on_unscanned)
    stages = list(pipeline.pipeline)
    if any(isinstance(stage, RawGuard) for stage in stages):
        return pipeline
    if stages and is_a(stages[0], "webdataset", "DataPipeline") and not is_a(stages[0], "webdataset", "WebLoader"):
        options: dict[str, Any] = {"config": config, "report": report, "cache_dir": cache_dir}
        inner = guard_webdataset(stages[0], on_poison=on_poison, on_unscanned=on_unscanned, **options)
        return _rebuilt(pipeline, [inner, *map(copy.copy, stages[1:])], inner.vbdguard)
    paths = shard_paths(stages)
    place = raw_place(stages)
    name = f"{type(pipeline).__name__} of {len(paths)} shards ({Path(paths[0]).name}{', ...' if paths[1:] else ''})"
    directory = None if cache_dir is None else Path(cache_dir)
    label_key = _label_key(config, report)
    # Opened here, since what a pipeline reads is a shard by its place in it, whatever its content looks like.
    source = open_source(paths, label_key=label_key)
    found, digests = scanned(source, config, report, name=name, cache_dir=directory)
    screen = make_screen(found, digests, policy, name=name, cache_dir=directory)
    own = [copy.copy(stage) for stage in stages]
    record = StreamRecord(found, screen.tally)
    return _rebuilt(pipeline, [*own[:place], RawGuard(screen, label_key), *own[place:]], record)


@dataclass(frozen=True, slots=True)
class RawGuard:
    """The stage: raw samples in, those that the screen admits out."""

    screen: Screen
    label_key: str | None

    def __call__(self, source: Iterable[RawFields]) -> Iterator[RawFields]:
        """Yield the samples that pass, relabelled where the policy says so.

        Raises:
            UnscannedSampleError: at a sample that no scan has seen, under on_unscanned="raise".
        """
        current = self.screen.begin()
        glance = Glance(self.label_key)
        for handful in _handfuls(source):
            marks = [current.mark(glance.digest(sample)) for sample in handful]
            for sample, mark in zip(handful, marks, strict=True):
                if mark == PASSES:
                    current.count_passed()
                    yield sample
                else:
                    yield from self._look_closely(sample, current, glance)

    def _look_closely(self, sample: RawFields, current: Pass, glance: Glance) -> Iterator[RawFields]:
        """Yield what becomes of a sample that is flagged, unknown, or the first of its kind."""
        try:
            raw = identify(sample, self.label_key)
        except ReadError as error:
            if current.admit_unscanned(_key(sample), f"{error.reason}: {error.detail}"):
                yield sample
            return
        glance.learn(sample, raw)
        verdict = current.admit(replace(raw, key=_key(sample)))
        if isinstance(verdict, Relabelled):
            yield _with_label(sample, verdict.label, self.label_key)
        elif verdict:
            yield sample


def _handfuls(source: Iterable[RawFields]) -> Iterator[list[RawFields]]:
    """Yield the samples a few at a time, less than `_READ_AHEAD` bytes more than one.

    Looked at together they cost a third: hashing and searching alternate with decoding otherwise, and each finds its
    code gone from the processor's cache.
    """
    samples = iter(source)
    count, failure = 1, None
    while failure is None:
        handful: list[RawFields] = []
        try:
            handful.extend(islice(samples, count))  # keeps what came before an error
        except Exception as error:
            failure = error
        if handful:
            yield handful
        if failure is None and len(handful) < count:
            return
        if handful:
            size = sum(len(value) for value in handful[-1].values() if isinstance(value, bytes))
            count = min(_TOGETHER, max(1, _READ_AHEAD // max(1, size)))
    raise failure


def identify(sample: RawFields, label_key: str | None) -> RawSample:
    """Return what a scan of the shard sees in a sample; without a key, since hardly anybody asks for it.

    Raises:
        ReadError: if it holds no image, no label, or two images; or something that is not bytes ("not-raw").
    """
    try:
        # Names such as `__key__` are among the fields; they hold neither image nor label.
        raw = read_sample("", sample, sample.__getitem__, label_key)
    except TypeError as error:
        raise ReadError("not-raw", f"expected the bytes of each field, got something decoded: {error}") from error
    if raw is None:
        names = ", ".join(name for name in sample if not name.startswith("__"))
        raise ReadError("no-image", f"expected an image and a label, got {names or 'no field'}")
    if not isinstance(raw.image, bytes):
        raise ReadError("not-raw", f"expected the image's bytes, got {type(raw.image).__name__}")
    return raw


def _key(sample: RawFields) -> str:
    return f"{sample.get('__url__', '?')}/{sample.get('__key__', '?')}"


def _with_label(sample: RawFields, label: int | str, label_key: str | None) -> dict[str, Any]:
    """Return a copy of a sample with the fields rewritten that its label stands in."""
    return {**sample, **rewritten_label(sample, sample.__getitem__, label_key, label)}


def _label_key(config: ScanConfig | None, report: ScanReport | None) -> str | None:
    if config is not None or report is None:
        return None if config is None else config.label_key
    key = report.config.get("label_key")
    return key if isinstance(key, str) else None


def _rebuilt(pipeline: Any, stages: list[Any], record: StreamRecord) -> Any:
    result = copy.copy(pipeline)
    result.pipeline = stages
    result.vbdguard = record
    return result
