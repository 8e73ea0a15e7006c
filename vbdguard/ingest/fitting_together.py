"""Whether partial scans are all parts of one scan, and all of it.

A merged report must be the one that a scan of the whole data set gives, or there must be none: whatever makes that
doubtful is an error that says which file to make anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vbdguard.build import build
from vbdguard.errors import PartialError
from vbdguard.ingest.decode import decoder_id
from vbdguard.ingest.partial import Partial, names_shown
from vbdguard.ingest.sizing import Votes, canonical_size


def require_fit(partials: Mapping[Path, Partial]) -> None:
    """Refuse partial scans that are not, together, one scan of one data set.

    Args:
        partials: by file, at least one.

    Raises:
        PartialError: if one comes of another version, decoder, configuration, data set or canonical size, if shards
            are missing or stand in two files.
    """
    for path, partial in partials.items():
        _require_same(path, "vbdguard", partial.version, "this", build())
        _require_same(path, "image decoder", partial.decoder, "this machine's", decoder_id())
    (first, model), *others = partials.items()
    for path, partial in others:
        _require_same_settings(path, partial, first, model)
        _require_same(path, "source", ", ".join(partial.sources), str(first), ", ".join(model.sources))
        _require_same(path, "class names", partial.class_names, str(first), model.class_names)
        _require_same_listing(path, partial, first, model)
    _require_each_once(partials)
    _require_all(partials)
    _require_size(partials)


def _require_same(path: Path, what: str, got: object, whose: str, expected: object) -> None:
    if got != expected:
        raise PartialError(
            f"{path}: its {what} is {got}, {whose} {'is ' if whose == 'this' else ''}{expected}; "
            "make all partial scans of one data set in the same way"
        )


def _require_same_settings(path: Path, partial: Partial, first: Path, model: Partial) -> None:
    got, expected = ({**_flat(one.config), "seed": one.seed} for one in (partial, model))
    differing = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
    if differing:
        shown = "; ".join(f"{name} {got.get(name)} and {expected.get(name)}" for name in differing[:3])
        raise PartialError(
            f"{path} and {first} were made with other settings: {shown}; make all partial scans with the same options"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _require_same_listing(path: Path, partial: Partial, first: Path, model: Partial) -> None:
    got, expected = set(partial.listing), set(model.listing)
    only = [name for name in partial.listing if name not in expected]
    missing = [name for name in model.listing if name not in got]
    if only or missing:
        seen = f"{path} knows {names_shown(only)}" if only else f"{path} does not know {names_shown(missing)}"
        raise PartialError(
            f"{seen}, other than {first}: the data set changed between the jobs; run them again, what stands in their "
            "caches is not read again"
        )


def _require_each_once(partials: Mapping[Path, Partial]) -> None:
    holders: dict[str, Path] = {}
    for path, partial in partials.items():
        doubled = [shard.name for shard in partial.shards if shard.name in holders]
        if doubled:
            raise PartialError(
                f"{path} (share {partial.share}) and {holders[doubled[0]]} both hold {names_shown(doubled)}; pass each "
                "shard once"
            )
        holders |= {shard.name: path for shard in partial.shards}


def _require_all(partials: Mapping[Path, Partial]) -> None:
    model = next(iter(partials.values()))
    held = {shard.name for partial in partials.values() for shard in partial.shards}
    missing = [name for name in model.listing if name not in held]
    if missing:
        raise PartialError(
            f"{len(missing)} of {len(model.listing)} shards are in none of the files: {names_shown(missing)}"
            f"{_missing_shares(list(partials.values()))}"
        )


def _missing_shares(partials: Sequence[Partial]) -> str:
    counts = {partial.share.count for partial in partials}
    if len(counts) > 1:
        shares = ", ".join(sorted(str(partial.share) for partial in partials))
        return f"; the files are shares {shares}; scan what is missing, or all in one number of shares"
    (count,) = counts
    there = {partial.share.number for partial in partials}
    absent = [f"{number}/{count}" for number in range(1, count + 1) if number not in there]
    if not absent:
        return ""
    return f"; missing: share {names_shown(absent, 8)} (vbdguard scan ... --shard {absent[0]} --partial FILE)"


def _require_size(partials: Mapping[Path, Partial]) -> None:
    """Hold the size of each file against the one that all shards together elect, unless it was named."""
    model = next(iter(partials.values()))
    named = model.config.get("image_size")
    if named is not None:
        expected: tuple[int, ...] = tuple(named)
    else:
        votes: Votes = Counter()
        for partial in partials.values():
            for shard in partial.shards:
                votes.update({(height, width): count for height, width, count in shard.votes})
        expected = canonical_size(votes)
    for path, partial in partials.items():
        if partial.image_size != expected:
            got, wanted = ("x".join(map(str, size)) for size in (partial.image_size, expected))
            raise PartialError(
                f"{path}: its images are {got} pixels large, all shards together want {wanted}: some could not be "
                f"read, or were others, when it looked; make all partial scans with --image-size {wanted}"
            )
