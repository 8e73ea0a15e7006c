"""The part of the text report about single samples: where the flagged ones lie, and what could not be read."""

from __future__ import annotations

from collections import Counter, defaultdict

from rich.console import Console
from rich.text import Text

from vbdguard.by_shard import flagged_places, place_path
from vbdguard.escaping import printable
from vbdguard.report import ScanReport
from vbdguard.wording import class_words

from .layout import make_table, print_section

MAX_VERBOSE = 50
_MAX_SAMPLES, _MAX_SKIPPED, _MAX_PLACES, _MAX_LABELS = 5, 3, 10, 3


def print_places(report: ScanReport, console: Console, *, verbose: bool) -> None:
    """Print which shards the flagged samples lie in, and of which classes they are."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for place in flagged_places(report):
        counts[place.place][place.label] += len(place.samples)
    if not counts:
        return
    ranked = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    shown = ranked[: MAX_VERBOSE if verbose else _MAX_PLACES]
    table = make_table(console, "Shard or folder", ">Flagged", "Classes")
    for name, labels in shown:
        named = ", ".join(f"{label} ({count:,})" for label, count in labels.most_common(_MAX_LABELS))
        more = ", ..." if len(labels) > _MAX_LABELS else ""
        path = Text(printable(place_path(report, name)), overflow="fold")
        table.add_row(path, f"{labels.total():,}", Text(f"{named}{more}"))
    largest = "" if len(shown) == len(ranked) else f", the {len(shown)} largest of {len(ranked):,}"
    print_section(console, f"Where the flagged samples lie{largest}", table)


def print_flagged(report: ScanReport, console: Console, *, verbose: bool) -> None:
    """Print the surest of the flagged samples."""
    count = MAX_VERBOSE if verbose else _MAX_SAMPLES
    shown = sorted(report.flagged, key=lambda sample: -sample.score)[:count]
    if not shown:
        return
    names = {c.label: class_words(c) for c in report.classes}
    table = make_table(console, "Sample", "Label", ">Score", "Looks like")
    for sample in shown:
        suggested = sample.suggested_label
        table.add_row(
            Text(printable(sample.key), overflow="fold"),
            Text(names.get(sample.label, str(sample.label))),
            f"{sample.score:.3f}",
            Text("-" if suggested is None else names.get(suggested, str(suggested))),
        )
    surest = "" if len(shown) == len(report.flagged) else f", the surest {len(shown)} of {len(report.flagged):,}"
    print_section(console, f"Flagged samples{surest}", table)


def print_skipped(report: ScanReport, console: Console, *, verbose: bool) -> None:
    """Print why data could not be read, and the first of them."""
    shown = report.skipped[: MAX_VERBOSE if verbose else _MAX_SKIPPED]
    reasons = Counter(sample.reason for sample in report.skipped)
    lines = [Text(f"{printable(s.key)}: {printable(s.reason)}: {printable(s.detail)}") for s in shown]
    if len(report.skipped) > len(shown):
        lines.append(Text(f"{len(report.skipped) - len(shown):,} more: -o report.json lists them all", "dim"))
    named = {sample.key for sample in report.skipped}
    unread = [s for s in report.dataset.shards if s.status != "complete" and s.name not in named]
    lines += [Text(f"{printable(shard.name)}: {shard.status}") for shard in unread[:MAX_VERBOSE]]
    counts = ", ".join(f"{count:,} {printable(reason)}" for reason, count in reasons.most_common())
    print_section(console, f"Could not be read: {counts}" if counts else "Could not be read", *lines)
