"""How a WebDataset pipeline is built: where its shards come from, and where its samples are still raw bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlparse

from vbdguard.errors import SourceError
from vbdguard.guards.kinds import is_a

_GUARD_THE_DATASET = "guard the dataset: vbdguard.guard(wds.WebDataset(shards)...), before it goes into a loader"


def shard_paths(stages: Sequence[Any]) -> list[str]:
    """Return the paths and URLs of the shards that a pipeline reads, each once.

    Args:
        stages: the pipeline's stages; the first one lists the shards.

    Raises:
        SourceError: if the shards are not known beforehand.
    """
    if not stages:
        raise SourceError("expected a WebDataset pipeline with stages, got an empty one; it has been closed")
    first = stages[0]
    urls = _urls(first)
    if urls is None:
        raise SourceError(
            f"expected a pipeline that begins with a list of shards (wds.SimpleShardList, wds.ResampledShards, a list "
            f"of urls), got {type(first).__name__}, whose shards are not known beforehand; {_GUARD_THE_DATASET}"
        )
    paths = dict.fromkeys(map(_path, urls))  # a shard that is named twice is trained on twice and scanned once
    if not paths:
        raise SourceError("expected shards to scan, the pipeline lists none; check its urls")
    return list(paths)


def raw_place(stages: Sequence[Any]) -> int:
    """Return where a filter on raw samples belongs: before this index, behind the grouping into samples.

    Behind `check_empty` too, which would take a worker whose samples are all poisoned for one without shards; and
    behind caches of raw samples, which may have been filled without a guard.

    Raises:
        SourceError: if the samples are not grouped by webdataset itself, or a cache holds unguarded samples.
    """
    grouping = [place for place, stage in enumerate(stages) if _is_grouping(stage)]
    if len(grouping) != 1:
        raise SourceError(
            f"expected a pipeline in which webdataset groups the files of a shard to samples once, found that "
            f"{len(grouping)} times: with wds.DataPipeline, put wds.tarfile_to_samples() behind the shards; samples "
            "that are transformed before they are grouped cannot be recognised"
        )
    place = grouping[0] + 1
    while place < len(stages) and (_is_empty_check(stages[place]) or _is_cache(stages[place])):
        place += 1
    if any(_is_filled(stage) for stage in stages[place:]):
        raise SourceError(
            "a cache in this pipeline holds samples of an earlier run, which come past the guard; put the cache "
            "directly behind the shards (wds.WebDataset(...).mcached()), or empty it"
        )
    return place


def _urls(stage: Any) -> Iterable[Any] | None:
    """Return the urls of a stage that lists shards, None for any other."""
    if is_a(stage, "webdataset", "DirectoryShardList"):
        raise SourceError(
            f"{stage.path}: a pipeline on a folder takes whatever appears there and renames it while reading; name "
            f"the shards: {stage.path}train-{{000..009}}.tar"
        )
    if is_a(stage, "webdataset", "MultiShardSample"):
        return [url for source in stage.sources for url in source.urls]
    urls = stage if isinstance(stage, (list, tuple)) else getattr(stage, "urls", None)
    if isinstance(urls, (list, tuple)) and all(isinstance(url, (str, dict)) for url in urls):
        return urls
    return None


def _path(url: Any) -> str:
    text = str(url["url"]) if isinstance(url, dict) else str(url)
    parsed = urlparse(text)
    return parsed.path if parsed.scheme == "file" else text


def _is_grouping(stage: Any) -> bool:
    from webdataset import tariterators

    function = getattr(stage, "f", stage)  # a curried stage holds its function as `f`
    return function in (tariterators.group_by_keys, tariterators.tarfile_samples)


def _is_empty_check(stage: Any) -> bool:
    return getattr(stage, "__name__", "") == "check_empty" and stage.__module__.startswith("webdataset.")


def _is_cache(stage: Any) -> bool:
    return is_a(stage, "webdataset", "Cached", "LMDBCached")


def _is_filled(stage: Any) -> bool:
    if is_a(stage, "webdataset", "LMDBCached"):
        return bool(stage.is_complete())
    return is_a(stage, "webdataset", "Cached") and stage.cached is not None
