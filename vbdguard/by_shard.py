"""Where flagged samples lie: counted by shard, or by folder where samples are loose files."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from vbdguard.report import FlaggedSample, ScanReport

_PATTERN = re.compile(r"[*?\[{]")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class FlaggedPlace:
    """The flagged samples of one class in one shard or folder."""

    label: int
    place: str
    """The shard's name as the report has it, or the folder; "." for the top of the source."""
    samples: tuple[FlaggedSample, ...]
    """At least one; the surest first."""


def flagged_places(report: ScanReport) -> tuple[FlaggedPlace, ...]:
    """Return the flagged samples by class and place, sorted by both."""
    names = {shard.name for shard in report.dataset.shards}
    found: defaultdict[tuple[int, str], list[FlaggedSample]] = defaultdict(list)
    for sample in report.flagged:
        found[sample.label, place_of(sample.key, names)].append(sample)
    return tuple(
        FlaggedPlace(label, place, tuple(sorted(samples, key=lambda one: (-one.score, one.key))))
        for (label, place), samples in sorted(found.items())
    )


def flagged_per_place(report: ScanReport) -> dict[str, int]:
    """Return how many samples are flagged in each shard or folder that holds any, most first."""
    names = {shard.name for shard in report.dataset.shards}
    counts = Counter(place_of(sample.key, names) for sample in report.flagged)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def place_of(key: str, shard_names: Collection[str]) -> str:
    """Return the shard that a key begins with, the longest that fits; the key's folder where there is none."""
    for head in _heads(key):
        if head in shard_names:
            return head
    return posixpath.dirname(key) or "."


def _heads(key: str) -> Iterator[str]:
    """Yield what stands before each slash of a key, the longest first."""
    end = key.rfind("/")
    while end > 0:
        yield key[:end]
        end = key.rfind("/", 0, end)


def place_path(report: ScanReport, place: str) -> str:
    """Return where a shard or folder lies as far as what the user named tells: `shards/train-000003.tar`.

    Nothing is looked up on the disk: the report may be read elsewhere.
    """
    sources = report.dataset.sources
    if posixpath.splitext(place)[1]:  # a file, no class folder
        named = [source for source in sources if f"/{source}".endswith(f"/{place}") and not _PATTERN.search(source)]
        if len(named) == 1:
            return named[0]
    bases = {_base(source) for source in sources}
    if len(bases) != 1:
        return place
    base = bases.pop()
    return base if place == "." else posixpath.join(base, place) if base else place


def _base(source: str) -> str:
    """Return the folder that a source names or lies in."""
    match = _PATTERN.search(source)
    if match is None:
        is_file = bool(posixpath.splitext(source)[1])
        return posixpath.dirname(source) if is_file else source.rstrip("/") or source[:1]
    return posixpath.dirname(source[: match.start()] + "x")


def is_url(path: str) -> bool:
    """Return whether a path names something that is not a local file."""
    return _URL.match(path) is not None
