"""What a verification says, for a person who has nothing but its log."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from vbdguard.escaping import printable
from vbdguard.gate import Judgement
from vbdguard.receipt import Receipt, sources_from
from vbdguard.verification import Differences
from vbdguard.wording import count_words, finding_words

_SHOWN = 20
"""Shards named per kind of change; a log of thousands of names helps nobody."""


def change_lines(receipt: Receipt, differences: Differences, sources: Sequence[str], path: Path) -> Iterator[str]:
    """Yield which shards are not those of the receipt, and what to type next; at least two lines."""
    kinds = (
        ("changed", differences.changed),
        ("missing", differences.missing),
        ("added", differences.added),
        ("unreadable", differences.unreadable),
    )
    counts = ", ".join(f"{len(names):,} {kind}" for kind, names in kinds if names)
    yield f"CHANGED: the data are not those of {printable(str(path))} ({_size(receipt)}): {counts}"
    for kind, names in kinds:
        yield from (f"  {kind:<10}  {printable(name)}" for name in names[:_SHOWN])
        if len(names) > _SHOWN:
            yield f"  {kind:<10}  and {len(names) - _SHOWN:,} more"
    yield "No scan has seen these data. Next:"
    yield f"  {rescan_command(receipt, sources, path)}"


def verdict_lines(receipt: Receipt, judgement: Judgement, path: Path) -> Iterator[str]:
    """Yield what the scan had found in data that are still the same, and what to type next where it counts."""
    same = f"{_size(receipt)}, unchanged since the scan behind {printable(str(path))}"
    if receipt.verdict == "poisoned":
        yield f"POISONED: {same}, which flagged {receipt.flagged:,} of {count_words(receipt.samples, 'sample')}"
        yield from (f"  {finding_words(finding)}" for finding in judgement.counting)
        yield from _flagged_places(receipt) if judgement.counting else ()
    elif receipt.status == "complete":
        yield f"CLEAN: {same}, which found no trigger"
    if receipt.status == "incomplete":
        yield f"INCOMPLETE: {same}, which could not read {count_words(receipt.skipped, 'entry', 'entries')}"
    if judgement.exit_code == 1:
        yield "Next, to see the images and to take them out:"
        yield f"  {rescan_command(receipt, (), path)} -o report.html"
        yield f"  {_source_words('clean', receipt, (), path)} clean/"
    elif judgement.exit_code:
        yield "Next, once what could not be read is repaired or removed:"
        yield f"  {rescan_command(receipt, (), path)}"


def rescan_command(receipt: Receipt, sources: Sequence[str], path: Path) -> str:
    """Return the command that scans again under the receipt's settings and renews it.

    Args:
        receipt: what it was scanned as.
        sources: what to scan; empty takes what the receipt names.
        path: where the receipt stands.
    """
    return f"{_source_words('scan', receipt, sources, path)} --receipt {shlex.quote(printable(str(path)))}"


def _source_words(command: str, receipt: Receipt, sources: Sequence[str], path: Path) -> str:
    """Return a command on the data, with the receipt's settings where they are not the usual ones."""
    config = receipt.config
    options = {
        "--preset": None if config.get("preset") == "default" else config.get("preset"),
        "--seed": receipt.seed or None,
        "--image-size": "x".join(map(str, config["image_size"])) if config.get("image_size") else None,
        "--label-key": config.get("label_key"),
        "--folder-rule": config.get("folder_rule"),
    }
    flags = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    names = map(shlex.quote, sources or sources_from(receipt, path))
    return printable(" ".join(["vbdguard", command, *flags, *names]))


def _flagged_places(receipt: Receipt) -> Iterator[str]:
    ranked = sorted(receipt.flagged_in.items(), key=lambda item: (-item[1], item[0]))
    for place, count in ranked[:_SHOWN]:
        yield f"  flagged in {printable(place)}: {count:,}"
    if len(ranked) > _SHOWN:
        yield f"  and in {len(ranked) - _SHOWN:,} more"


def _size(receipt: Receipt) -> str:
    return f"{count_words(len(receipt.shards), 'shard')}, {count_words(receipt.samples, 'sample')}"
