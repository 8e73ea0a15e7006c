"""Whether data are still those that a receipt speaks of: every byte hashed, nothing decoded, no torch.

A receipt is refused unless this very version made it under the settings that hold now: other code or other settings
might have found something. Then each shard's bytes are hashed and held against the receipt's. Shards that bear other
names than they did are the same data; shards that were cut anew are not recognised and want a scan, which takes its
answer from the cache.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from vbdguard import __version__
from vbdguard.build import build, code_digest
from vbdguard.config import FolderRule, ScanConfig
from vbdguard.errors import ReadError, ReceiptError, SourceError
from vbdguard.ingest.reading import ShardReading
from vbdguard.progress import Progress, Silent
from vbdguard.receipt import Receipt
from vbdguard.sources.base import Shard, Source
from vbdguard.sources.opening import open_source
from vbdguard.sources.pointers import PointerShard

_FLAGS = {
    "preset": "--preset",
    "image_size": "--image-size",
    "label_key": "--label-key",
    "folder_rule": "--folder-rule",
    "seed": "--seed",
}


@dataclass(frozen=True, slots=True)
class Differences:
    """How shards differ from those of a receipt; each list is sorted."""

    changed: tuple[str, ...]
    """Shards of the same name and other content."""
    missing: tuple[str, ...]
    added: tuple[str, ...]
    unreadable: tuple[str, ...]
    """Shards that cannot be read now, each with the reason behind its name."""

    def __bool__(self) -> bool:
        return any((self.changed, self.missing, self.added, self.unreadable))


def check_terms(receipt: Receipt, config: ScanConfig, path: Path) -> None:
    """Refuse a receipt that another version made, or that was made under other settings.

    Args:
        receipt: what `path` holds.
        config: the settings that hold now.
        path: for the message.

    Raises:
        ReceiptError: that says what differs and what to type.
    """
    again = f"scan again: vbdguard scan SOURCE --receipt {path}"
    version = receipt.tool.get("version")
    if version != __version__:
        raise ReceiptError(f"{path}: refused: vbdguard {version} made it and this is {__version__}; {again}")
    if receipt.tool.get("code") != code_digest():
        raise ReceiptError(f"{path}: refused: another build of vbdguard {version} made it; {again}")
    now = {**config.result_settings(), "seed": config.seed}
    then = {**receipt.config, "seed": receipt.seed}
    differing = _differing(then, json.loads(json.dumps(now)))
    if differing:
        words = ", ".join(f"{name} {_shown(then, name)} (now {_shown(now, name)})" for name in differing)
        flags = " ".join(_FLAGS[name] for name in differing if name in _FLAGS)
        advice = f"pass the same {flags} here, or {again}" if flags else again
        raise ReceiptError(f"{path}: refused: it was made with other settings: {words}; {advice}")


def compare(receipt: Receipt, sources: Sequence[str], *, progress: Progress | None = None) -> Differences:
    """Return how the shards of the sources differ from the receipt's; every byte of them is read.

    Args:
        receipt: what they were.
        sources: what to read now, as `vbdguard.scan` takes it.
        progress: hears of one stage, "verify", a step per shard.

    Raises:
        SourceError: if a source cannot be understood, or is not there.
        NothingToScanError: if there is no shard in it.
    """
    opened = _opened(sources, receipt.config.get("label_key"), receipt.config.get("folder_rule"))
    return _differences(receipt, _digests(opened, progress or Silent()))


def shards_digest(
    sources: Sequence[str], *, label_key: str | None = None, folder_rule: FolderRule | None = None
) -> str:
    """Return a hex digest of the content of all shards, whatever their order and names, and of vbdguard's build.

    Args:
        sources: what to read, as `vbdguard.scan` takes it.
        label_key: what holds the label.
        folder_rule: whose rule labels a folder of images.

    Raises:
        SourceError: if a source cannot be understood, or a shard cannot be read.
    """
    digests = []
    for name, digest in _digests(_opened(sources, label_key, folder_rule), Silent()):
        if isinstance(digest, ReadError):
            raise SourceError(f"{name}: cannot be read: {digest}")
        digests.append(digest)
    return blake3("\n".join([build(), *sorted(digests)]).encode("ascii")).hexdigest()


def _opened(sources: Sequence[str], label_key: str | None, folder_rule: FolderRule | None) -> Source:
    named = sources[0] if len(sources) == 1 else list(sources)
    return open_source(named, label_key=label_key, folder_rule=folder_rule)


def _digests(source: Source, progress: Progress) -> list[tuple[str, str | ReadError]]:
    """Return the name of each shard with its digest, or why there is none."""
    found: list[tuple[str, str | ReadError]] = []
    progress.begin("verify", len(source.shards))
    try:
        # Hashing gives up the interpreter's lock, so threads share the cores.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for shard, digest in zip(source.shards, pool.map(_digest, source.shards), strict=True):
                found.append((shard.name, digest))
                progress.advance()
    finally:
        progress.end()
    return found


def _digest(shard: Shard) -> str | ReadError:
    reading = ShardReading(shard)
    try:
        if isinstance(shard, PointerShard):
            next(shard.read())  # says what it is and how to fetch the data
        reading.hash()
    except ReadError as error:
        return error
    return reading.digest


def _differences(receipt: Receipt, found: Sequence[tuple[str, str | ReadError]]) -> Differences:
    failed = {name: f"{name} ({error})" for name, error in found if isinstance(error, ReadError)}
    then = Counter((shard.name, shard.digest) for shard in receipt.shards)
    now = Counter((name, digest) for name, digest in found if isinstance(digest, str))
    # What only changed its name is the same data; as often as it stands there, since a copy is more data.
    lost = _names_without(then - now, Counter(digest for _, digest in (now - then).elements()))
    gained = _names_without(now - then, Counter(digest for _, digest in (then - now).elements()))
    return Differences(
        changed=tuple(sorted(lost & gained)),
        missing=tuple(sorted(lost - gained - failed.keys())),
        added=tuple(sorted(gained - lost)),
        unreadable=tuple(sorted(failed.values())),
    )


def _names_without(shards: Counter[tuple[str, str]], elsewhere: Counter[str]) -> set[str]:
    """Return the names of the shards whose content does not stand elsewhere."""
    names = set()
    for name, digest in sorted(shards.elements()):
        if elsewhere[digest] > 0:
            elsewhere[digest] -= 1
        else:
            names.add(name)
    return names


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = sorted({*then, *now})
    differing = [name for name in names if then.get(name) != now.get(name)]
    # The preset brings a whole method with it, which says no more than its name.
    return [name for name in differing if name != "method"] if "preset" in differing else differing


def _shown(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return "of its own" if isinstance(value, Mapping) else json.dumps(value)
