"""What a verification says, for a person who has nothing but its log."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from vbdguard.escaping import printable
from vbdguard.gate import Judgement
from vbdguard.receipt import Receipt
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
        for finding in judgement.counting:
            yield f"  {finding_words(finding)}"
    elif receipt.status == "complete":
        yield f"CLEAN: {same}, which found no trigger"
    if receipt.status == "incomplete":
        yield f"INCOMPLETE: {same}, which could not read {count_words(receipt.skipped, 'entry', 'entries')}"
    if judgement.exit_code:
        yield "Next:"
        yield f"  {rescan_command(receipt, (), path)}"


def rescan_command(receipt: Receipt, sources: Sequence[str], path: Path) -> str:
    """Return the command that scans again under the receipt's settings and renews it.

    Args:
        receipt: what it was scanned as.
        sources: what to scan; empty takes what the receipt names.
        path: where the receipt stands.
    """
    from vbdguard.receipt import sources_from

    names = sources or sources_from(receipt, path)
    config = receipt.config
    options = {
        "--preset": None if config.get("preset") == "default" else config.get("preset"),
        "--seed": receipt.seed or None,
        "--image-size": "x".join(map(str, config["image_size"])) if config.get("image_size") else None,
        "--label-key": config.get("label_key"),
        "--receipt": path,
    }
    flags = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    return printable(" ".join(["vbdguard scan", *map(shlex.quote, names), *flags]))


def _size(receipt: Receipt) -> str:
    return f"{count_words(len(receipt.shards), 'shard')}, {count_words(receipt.samples, 'sample')}"
