"""`vbdguard scan --dry-run`: what the scan will take, and nothing done."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from vbdguard.escaping import printable
from vbdguard.wording import count_words, seconds_words

from .scan_options import scan_config

if TYPE_CHECKING:
    from vbdguard.estimate import Estimate

_UNITS = ((1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


def dry_run(sources: tuple[str, ...], options: dict[str, Any]) -> int:
    """Print the estimate, as text or JSON, and return the exit code: 0, since nothing was found or missed."""
    from vbdguard.estimate import estimate

    from .at_work import at_work, one_or_all

    if options["format_"] not in ("text", "json"):
        raise click.UsageError("--dry-run tells its estimate as --format text or json")
    with at_work({**options, "quiet": True}):
        found = estimate(one_or_all(sources), scan_config(options))
    if options["format_"] == "json":
        sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
        return 0
    for line in lines(found):
        click.echo(printable(line))
    return 0


def lines(found: Estimate) -> list[str]:
    """Return an estimate in words."""
    height, width = found.image_size
    size = "" if found.source_bytes is None else f" of {_range(found.source_bytes, byte_words)} together"
    judging, memory = found.judging_seconds, found.memory_bytes
    return [
        f"Data     {count_words(found.shards, 'shard')}{size}, {_range(found.samples, '{:,}'.format)} samples "
        f"of {_range(found.classes, '{:,}'.format)} classes, scanned at {height} x {width}",
        f"Reading  {_range(found.reading_seconds, seconds_words)}",
        f"Judging  {'not measured' if judging is None else _range(judging, seconds_words)}",
        f"Memory   {'not measured' if memory is None else _range(memory, byte_words)} at the peak, "
        "all processes together",
        f"Disk     {_range(found.disk_bytes, byte_words)} in the cache",
        f"Estimated from {found.looked_at:,} samples of this data, and from figures of two cores without a GPU;",
        "what the cache holds already is not read again. Nothing was scanned.",
        *(f"Note: {note}" for note in found.notes),
    ]


def byte_words(count: float) -> str:
    """Return a number of bytes in the unit that fits."""
    for unit, word in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {word}"
    return f"{count:.0f} bytes"


def _range(ends: tuple[float, float], words: Any) -> str:
    low, high = map(words, ends)
    return low if low == high else f"{low} to {high}"
