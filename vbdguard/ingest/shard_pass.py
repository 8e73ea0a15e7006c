"""The pass over the shards of a source, or over a share of them, on an engine."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from vbdguard.engines.base import Engine, WorkerDied
from vbdguard.errors import CacheError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.packing import place_segment
from vbdguard.ingest.segments import DamagedSegmentError, known_sizes, remove_segment
from vbdguard.ingest.shards import ShardOutcome, ShardTask, has_segment, ingest_shard, leave_mark
from vbdguard.ingest.shares import Share
from vbdguard.ingest.sizing import Votes, canonical_size, probe_sizes
from vbdguard.ingest.staging import staging_area
from vbdguard.progress import Progress
from vbdguard.sources.base import ExifRule, Shard, Source, exif_rule

log = logging.getLogger(__name__)

_ADVICE = {"timeout": "give it more time (--shard-timeout) or leave it out", "worker-died": "leave it out or repair it"}


@dataclass(frozen=True, slots=True)
class ReadShard:
    """One shard and what became of it."""

    name: str
    exif: ExifRule
    outcome: ShardOutcome
    votes: Mapping[tuple[int, int], int]
    """For the canonical size (`vbdguard.ingest.sizing`); none where it was named."""


@dataclass(frozen=True, slots=True)
class ReadSource:
    """A source, or a share of one, whose shards were read."""

    names: tuple[str, ...]
    """What the user named."""
    class_names: Mapping[int, str] | None
    image_size: tuple[int, int]
    """Canonical height and width."""
    shards: tuple[ReadShard, ...]
    """Those that were read."""


def read_shards(
    source: Source,
    engine: Engine,
    *,
    store_dir: Path,
    progress: Progress,
    image_size: tuple[int, int] | None = None,
    label_key: str | None = None,
    share: Share | None = None,
    check_pixels: bool = True,
) -> ReadSource:
    """Return what became of the shards of a source, their segments standing in the store.

    Args:
        source: an opened source.
        engine: where the shards are read; entered here, and left before anything is torn down that it may write to.
        store_dir: where segments are kept and found again.
        progress: hears of one stage, "ingest", a step per shard.
        image_size: canonical height and width in pixels; None takes them from all shards, also for a share.
        label_key: what holds the label, where it is not one of the usual places.
        share: which shards to read; None reads all.
        check_pixels: whether to read the pixels of what stands in the store already.

    Raises:
        CacheError: if the store cannot be written.
        ConfigError: if the engine cannot be had.
        SourceError: if a package for the format is missing.
    """
    shards = source.shards
    places = (share or Share()).places([shard.name for shard in shards])
    progress.begin("ingest", len(places))
    try:
        with staging_area(store_dir) as staging, engine as workers:
            votes, lost = ({}, {}) if image_size else _look(shards, workers)
            size = image_size or canonical_size(sum(votes.values(), Counter()))
            mark, decoder = leave_mark(staging), decoder_id()
            tasks = {
                place: ShardTask(
                    shards[place],
                    store_dir,
                    staging,
                    size,
                    _label_key(shards[place], label_key),
                    mark,
                    decoder,
                    check_pixels,
                )
                for place in places
            }
            outcomes = _read(tasks, lost, workers, progress)
    finally:
        progress.end()
    read = (
        ReadShard(shards[place].name, exif_rule(shards[place]), outcomes[place], votes.get(place, {}))
        for place in places
    )
    return ReadSource(source.names, source.class_names, size, tuple(read))


def _look(shards: Sequence[Shard], workers: Engine) -> tuple[dict[int, Votes], dict[int, WorkerDied]]:
    """Return each shard's votes, and which were lost at this first look; nobody needs to lose them again."""
    votes: dict[int, Votes] = {}
    lost: dict[int, WorkerDied] = {}
    with closing(workers.map(probe_sizes, shards)) as done:
        for place, result in done:
            if isinstance(result, WorkerDied):
                lost[place] = result
            else:
                votes[place] = result
    return votes, lost


def _read(
    tasks: Mapping[int, ShardTask], lost: Mapping[int, WorkerDied], workers: Engine, progress: Progress
) -> dict[int, ShardOutcome]:
    """Return what became of the shard of each task."""
    outcomes = {place: _lost_shard(died) for place, died in lost.items() if place in tasks}
    if outcomes:
        progress.advance(len(outcomes))
    left = [place for place in tasks if place not in outcomes]
    known = known_sizes(tasks[left[0]].store_dir) if left else frozenset()
    while left:
        again: list[int] = []
        with closing(workers.map(partial(ingest_shard, known_sizes=known), [tasks[place] for place in left])) as done:
            for index, result in done:
                place = left[index]
                outcome = _lost_shard(result) if isinstance(result, WorkerDied) else _settled(result, tasks[place])
                if outcome is None:
                    again.append(place)
                    continue
                outcomes[place] = outcome
                progress.advance()
        left, known = again, frozenset()  # to those nothing is known now, so none comes back once more
    return outcomes


def _settled(outcome: ShardOutcome, task: ShardTask) -> ShardOutcome | None:
    """Return the outcome with its segment in the store; None where a worker that cannot see it was wrong about it."""
    if outcome.damage:
        log.warning("a stored segment was damaged and has been rebuilt: %s", outcome.damage)
    if outcome.packed is not None:
        return replace(outcome, segment=_placed(outcome, task), packed=None)
    if not outcome.is_hearsay or outcome.segment is None:
        return outcome
    try:
        is_there = has_segment(outcome.segment, task)
    except DamagedSegmentError as error:
        log.warning("a stored segment was damaged and is rebuilt: %s: %s", outcome.segment.name, error)
        remove_segment(outcome.segment)
        is_there = False
    return replace(outcome, is_hearsay=False, is_unchecked=not task.check_pixels) if is_there else None


def _placed(outcome: ShardOutcome, task: ShardTask) -> Path | None:
    if outcome.packed is None:
        return outcome.segment
    files = {name: (content,) for name, content in outcome.packed.files.items()}
    where = {"store_dir": task.store_dir, "staging": task.staging}
    try:
        return place_segment(outcome.packed.name, files, image_size=task.image_size, **where)
    except DamagedSegmentError as error:
        raise CacheError(f"{task.shard.name}: what a worker has read was damaged on its way: {error}") from error


def _lost_shard(died: WorkerDied) -> ShardOutcome:
    return ShardOutcome("", None, failure=(died.reason, f"{died.detail}; {_ADVICE[died.reason]}"))


def _label_key(shard: Shard, label_key: str | None) -> str | None:
    # A file's shard knows where it looked for labels, also when the source was opened elsewhere.
    return cast("str | None", getattr(shard, "label_key", label_key))
