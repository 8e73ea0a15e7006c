"""A scan in parts: each job reads a share of the shards, and one merges what they have read into the report.

For batch systems that start jobs and no more: Slurm arrays, CI matrices, Kubernetes jobs. The report is that of
`scan`, bit for bit apart from its times: reading is the part that can be shared out; stages 1 to 6 run in the merge.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbdguard.build import build
from vbdguard.cache import Cache
from vbdguard.config import ScanConfig
from vbdguard.errors import PartialError, SourceError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.fitting_together import require_fit
from vbdguard.ingest.partial import (
    Partial,
    believed_digest,
    partial_shards,
    place_segments,
    read_partial,
    write_partial,
)
from vbdguard.ingest.reader import engine_for, joined, left_out
from vbdguard.ingest.shard_pass import ReadSource, read_shards
from vbdguard.ingest.shares import Share
from vbdguard.ingest.staging import staging_area
from vbdguard.progress import Progress, current_listener
from vbdguard.report import SkippedSample
from vbdguard.scanner import opened_cache, report_on, wanted_kind
from vbdguard.sources.base import Source
from vbdguard.sources.opening import open_source

if TYPE_CHECKING:
    from vbdguard.report import ScanReport


@dataclass(frozen=True, slots=True)
class ShareRead:
    """What a job has read."""

    share: Share
    shards: int
    samples: int
    skipped: tuple[SkippedSample, ...]
    """What could not be read; it stands in the file as well, and in the merged report."""


def scan_share(
    source: Any,
    share: Share | str,
    partial: Path | str,
    config: ScanConfig | None = None,
    *,
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    progress: Progress | None = None,
) -> ShareRead:
    """Read a share of a data set's shards, write it to a file for `merge`, and return what was read.

    Shards whose segments stand in the cache, whoever put them there, are hashed and not read again.

    Args:
        source: as `vbdguard.scan` takes it; all jobs name the same one in the same way.
        share: which part of its shards, such as "1/8".
        partial: the file to write.
        config: settings; all jobs take the same ones. None takes preset `default`.
        cache_dir: where what was read is kept; None takes the user's cache directory.
        use_cache: whether to keep and use it.
        progress: hears how it gets on.

    Raises:
        ConfigError: if the share is none, or the engine cannot be had.
        SourceError: if the source cannot be understood, or its shards are not told apart by their names.
        CacheError: if the cache cannot be written.
        OSError: if the file cannot be written.
    """
    config = config or ScanConfig()
    wanted = Share.parse(share) if isinstance(share, str) else share
    with opened_cache(cache_dir, use_cache=use_cache) as cache:
        opened = open_source(
            source, label_key=config.label_key, folder_rule=config.folder_rule, run_commands=config.run_commands
        )
        _require_names(opened)
        read = read_shards(
            opened,
            engine_for(opened, config.engine, jobs=config.reading_jobs, limits=config.reading_limits),
            store_dir=cache.store_dir,
            image_size=config.canonical_size,
            label_key=config.label_key,
            progress=progress or current_listener(),
            share=wanted,
        )
        samples, skipped = left_out(read)
        write_partial(
            Path(partial),
            Partial(
                version=build(),
                decoder=decoder_id(),
                config=config.result_settings(),
                seed=config.seed,
                share=wanted,
                sources=tuple(read.names),
                class_names=None if read.class_names is None else {str(k): v for k, v in read.class_names.items()},
                listing=tuple(shard.name for shard in opened.shards),
                image_size=read.image_size,
                shards=partial_shards(read),
            ),
            cache.store_dir,
        )
    return ShareRead(wanted, len(read.shards), samples, skipped)


def _require_names(source: Source) -> None:
    """Refuse shards that their names do not tell apart: jobs agree on shards by name."""
    name, times = Counter(shard.name for shard in source.shards).most_common(1)[0]
    if times > 1:
        raise SourceError(f"expected shards of different names, got {times} called {name}; scan them in one piece")


def merge(
    files: Sequence[Path | str],
    config: ScanConfig | None = None,
    *,
    device: str = "auto",
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    refresh: bool = False,
    progress: Progress | None = None,
) -> ScanReport:
    """Return the report that `scan` gives on the whole data set, from the partial scans of all its shards.

    Args:
        files: as `scan_share` has written them, in any order, of any number of shares, each shard in one of them.
        config: the settings that they were made with, where those are not of a preset; None takes them from the files.
        device: where stages 1 to 6 run, as in `ScanConfig`; counts where `config` is None.
        cache_dir: where what they hold is kept, and the report; None takes the user's cache directory.
        use_cache: whether to keep and use it; otherwise everything goes to a temporary directory.
        refresh: compute anew even where the cache holds the answer.
        progress: hears how it gets on.

    Raises:
        PartialError: if a file is damaged, or they are not one whole scan together.
        NothingToScanError: if the data set holds too little to say anything.
        UnreadableError: if that is so and something in it could not be read.
        CacheError: if the cache cannot be written.
    """
    start = time.perf_counter()
    if not files:
        raise PartialError("expected the files of partial scans, got none")
    paths = [Path(file) for file in files]
    partials = {path: read_partial(path) for path in paths}
    if len(partials) < len(paths):
        raise PartialError(f"{next(path for path in paths if paths.count(path) > 1)} is named twice; name it once")
    require_fit(partials)
    model = partials[paths[0]]
    config = _settings_of(paths[0], model, config, device)
    kind = wanted_kind(config)
    heard = progress or current_listener()
    with opened_cache(cache_dir, use_cache=use_cache) as cache:
        cache.merged.prepare()
        read = _placed(partials, cache, heard)
        ingested = replace(joined(read), believed=believed_digest(list(partials.values()), cache.merged.store_dir))
        return report_on(ingested, config, cache.merged, kind=kind, start=start, refresh=refresh, progress=heard)


def _settings_of(path: Path, partial: Partial, config: ScanConfig | None, device: str) -> ScanConfig:
    """Return the settings that a partial scan was made with.

    Raises:
        PartialError: if they are neither those of `config` nor, without one, of a preset.
    """
    stated = dict(partial.config)
    named: dict[str, Any] = {name: stated.get(name) for name in ("preset", "label_key", "folder_rule")}
    size = partial.image_size if stated.get("image_size") else None
    settings = config or ScanConfig(**named, image_size=size, seed=partial.seed, device=device)
    if json.loads(json.dumps(settings.result_settings())) != stated or settings.seed != partial.seed:
        wanted = "other settings than those of config" if config else "settings of its own, which are no preset's"
        raise PartialError(f"{path} was made with {wanted}; pass those as config")
    return settings


def _placed(partials: Mapping[Path, Partial], cache: Cache, progress: Progress) -> ReadSource:
    """Return the whole source, the segments of all its shards standing in the cache of partial scans."""
    store_dir = cache.merged.store_dir
    model = next(iter(partials.values()))
    progress.begin("ingest", len(model.listing))
    try:
        with staging_area(store_dir) as staging:
            for path, partial in partials.items():
                own = cache.store_dir
                for _ in place_segments(path, partial, store_dir=store_dir, staging=staging, own_store=own):
                    progress.advance()
    finally:
        progress.end()
    sources = [partial.read_source(store_dir) for partial in partials.values()]
    by_name = {shard.name: shard for source in sources for shard in source.shards}
    return replace(sources[0], shards=tuple(by_name[name] for name in model.listing))
