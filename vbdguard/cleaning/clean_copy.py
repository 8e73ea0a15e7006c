"""clean(): a copy of a data set without its poison, and a quarantine with the reasons.

    scan        or a report at hand, held against the data
    place       two folders apart from the source, claimed for this data and these findings
    copy        shard by shard, in processes: cut, write, read back, leave a record
    prove       kept + relabelled + quarantined + skipped = all that was scanned

The source is only ever read. Killed at any moment, the same call goes on where it stood.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from blake3 import blake3

from vbdguard import __version__
from vbdguard.atomic import replacing, write_atomically
from vbdguard.cleaning.places import (
    CleanFolders,
    check_fit,
    check_folders_apart,
    check_nothing_else,
    check_space,
    claimed,
    clean_folders,
    write_claim,
)
from vbdguard.cleaning.result import CleanCopy, counted_copy, expected_copy
from vbdguard.cleaning.shards import (
    CleanedShard,
    CleanTask,
    OnFlagged,
    clean_shard,
    read_entries,
    read_files,
)
from vbdguard.cleaning.tasks import Room, clean_tasks
from vbdguard.config import ScanConfig
from vbdguard.engines.base import WorkerDied
from vbdguard.engines.local import map_shards
from vbdguard.errors import ConfigError, ReportError, SourceError
from vbdguard.ingest.reader import ingest
from vbdguard.progress import Progress, Silent
from vbdguard.report import ScanReport
from vbdguard.report_building import renew_report
from vbdguard.scanner import opened_cache, scan
from vbdguard.sources.base import Source
from vbdguard.sources.cutting import Fate
from vbdguard.sources.folder import FolderShard
from vbdguard.sources.opening import open_source
from vbdguard.sources.parquet import ParquetShard
from vbdguard.sources.pointers import MissingShard, PointerShard
from vbdguard.sources.tar import TarShard

STAGE = "Writing the clean copy"


def clean(
    source: Any,
    dest: Path | str,
    config: ScanConfig | None = None,
    *,
    report: ScanReport | None = None,
    policy: OnFlagged = "drop",
    quarantine: Path | str | None = None,
    link: bool = False,
    dry_run: bool = False,
    cache_dir: Path | str | None = None,
    use_cache: bool = True,
    refresh: bool = False,
    progress: Progress | None = None,
) -> CleanCopy:
    """Write what a scan holds for clean to a new folder, in the layout of the source, and return what was written.

    Tar shards keep their names, and every member that stays keeps its bytes and its place; image folders keep their
    tree; parquet files keep schema, metadata and row order. What was flagged or skipped goes to the quarantine in
    the same layout, with the reasons in reasons.jsonl; what cannot be read as bytes is listed only.

    Args:
        source: tar shards, an image folder or parquet files, as `scan` takes them.
        dest: a folder that is new, empty, or left by an earlier run on the same data and findings.
        config: settings of the scan; None takes preset `default`.
        report: findings to go by instead of a scan; must speak of exactly these data.
        policy: what to do with flagged samples: `drop`, or `relabel` to the class that the scan suggests (without
            a suggestion they go).
        quarantine: where the rest goes; None takes `<dest>.quarantine`.
        link: make hard links to files that stay whole, where the file system can.
        dry_run: write nothing.
        cache_dir: where scans keep reports and pixels; None takes the user's cache directory.
        use_cache: whether to keep and use them.
        refresh: scan anew even where the cache holds the answer.
        progress: hears how it gets on.

    Raises:
        ConfigError: if the policy is none.
        SourceError: if the source cannot be copied, changes meanwhile, or the folders are not fit.
        ReportError: if the report speaks of other data.
        NothingToScanError: if there is too little to say anything.
        UnreadableError: if that is so and something in it could not be read.
        CacheError: if the cache cannot be written.
    """
    if policy not in get_args(OnFlagged):
        raise ConfigError(f"policy must be one of {', '.join(get_args(OnFlagged))}, got {policy!r}")
    config = config or ScanConfig()
    opened = open_source(source, label_key=config.label_key, folder_rule=config.folder_rule)
    folders = clean_folders(Path(dest), None if quarantine is None else Path(quarantine))
    _check_files(opened)
    check_folders_apart(folders, opened)
    check_fit(folders)
    options: dict[str, Any] = {"cache_dir": cache_dir, "use_cache": use_cache, "progress": progress}
    if report is None:
        found = scan(opened, config, refresh=refresh, **options)
    else:
        found = _renewed(opened, config, report, **options)
    tasks = clean_tasks(opened, found, folders, policy=policy, link=link)
    room = Room.of(tasks)
    outline = expected_copy(found, folders, tasks, policy, room)
    claim = _claim(found, policy)
    check_fit(folders, claim)
    check_space(folders, copy_bytes=room.copy_bytes, quarantine_bytes=room.quarantine_bytes)
    if dry_run:
        return outline
    with claimed(folders, claim):
        write_atomically(folders.report, found.to_json())
        _make_class_folders(opened, folders)
        cleaned = _clean_all(tasks, config.local_jobs if opened.is_picklable else 1, progress or Silent())
        copy = counted_copy(outline, found, cleaned)
        _finish(copy, folders, tasks)
    return copy


def _check_files(source: Source) -> None:
    for shard in source.shards:
        if type(shard) in (TarShard, ParquetShard, FolderShard, PointerShard, MissingShard):
            continue
        kind = "another kind of file" if hasattr(shard, "path") or hasattr(shard, "rows") else "a dataset in memory"
        raise SourceError(
            f"{shard.name}: expected tar or parquet files or a folder of images to copy, got {kind}; wrap the dataset "
            "with vbdguard.guard() instead"
        )


def _renewed(
    source: Source,
    config: ScanConfig,
    report: ScanReport,
    *,
    cache_dir: Path | str | None,
    use_cache: bool,
    progress: Progress | None,
) -> ScanReport:
    """Return a saved report under the names that the data bear now.

    Raises:
        ReportError: if the data are not those that it speaks of.
    """
    height, width, _ = report.dataset.image_shape
    with opened_cache(cache_dir, use_cache=use_cache) as cache:
        ingested = ingest(
            source,
            store_dir=cache.store_dir,
            image_size=(height, width),
            label_key=config.label_key,
            engine=config.engine,
            jobs=config.reading_jobs,
            limits=config.reading_limits,
            check_pixels=False,
            progress=progress,
        )
        renewed = renew_report(report, ingested, seconds=report.timings)
    if ingested.dataset_digest != report.dataset.digest:
        raise ReportError(
            f"expected the data that the report speaks of (digest {report.dataset.digest[:16]}, "
            f"{report.dataset.samples} samples), got digest {ingested.dataset_digest[:16]}, {len(ingested.store)} "
            "samples; pass the report on this data, the same --label-key, or none and let it be scanned"
        )
    if len(renewed.flagged) != len(report.flagged):
        raise ReportError(
            f"the report flags {len(report.flagged)} samples, the data have {len(renewed.flagged)} of them"
        )
    return renewed


def _claim(report: ScanReport, policy: OnFlagged) -> dict[str, Any]:
    """Return what makes a copy this one: the data, everything in the findings that it hangs on, the policy."""
    body = report.to_dict()
    findings = [body[name] for name in ("classes", "flagged", "skipped")] + [body["dataset"]["shards"]]
    return {
        "schema_version": 1,
        "source_digest": report.dataset.digest,
        "report_digest": blake3(json.dumps(findings, sort_keys=True).encode()).hexdigest(),
        "policy": policy,
    }


def _make_class_folders(source: Source, folders: CleanFolders) -> None:
    """Make a folder for every class, also where all its samples go: trainers number classes by their folders.

    By Hugging Face's rule a class may lie deeper, also in several folders; its name is then that of none at the top.
    """
    files = [file for shard in source.shards if isinstance(shard, FolderShard) for file in shard.files]
    for name in set((source.class_names or {}).values() if files else ()):
        if not any(label == name and PurePosixPath(path).parts[0] != name for path, label in files):
            (folders.dest / name).mkdir(exist_ok=True)


def _clean_all(tasks: Sequence[CleanTask], jobs: int, progress: Progress) -> list[CleanedShard]:
    cleaned = []
    progress.begin(STAGE, len(tasks))
    try:
        with closing(map_shards(clean_shard, tasks, jobs=jobs)) as done:
            for index, result in done:
                if isinstance(result, WorkerDied):
                    raise SourceError(f"{tasks[index].shard.name}: cannot be copied: {result.detail}; run it again")
                cleaned.append(result)
                progress.advance()
    finally:
        progress.end()
    return cleaned


def _finish(copy: CleanCopy, folders: CleanFolders, tasks: Sequence[CleanTask]) -> None:
    """Prove that nothing else lies in the copy, list the reasons, and call it complete."""
    check_nothing_else(folders.dest, set(_kept_files(tasks)))
    with replacing(folders.reasons) as file:
        for task in sorted(tasks, key=lambda one: one.shard.name):
            for entry in read_entries(task.record_path):
                file.write((json.dumps(entry) + "\n").encode("ascii"))
    body = {
        **_claim(copy.report, copy.policy),
        "status": "complete",
        "tool": {"name": "vbdguard", "version": __version__},
        "samples": {name: getattr(copy, name) for name in ("kept", "relabelled", "flagged", "skipped", "total")},
        "classes": [asdict(entry) for entry in copy.classes],
    }
    for folder in (folders.quarantine, folders.dest):
        write_claim(folder, body)


def _kept_files(tasks: Sequence[CleanTask]) -> Iterator[str]:
    prefix = f"{Fate.KEPT}/"
    for task in tasks:
        yield from (name.removeprefix(prefix) for name in read_files(task.record_path) if name.startswith(prefix))
