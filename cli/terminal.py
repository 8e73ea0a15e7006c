"""The scan report as a person reads it: the verdict first, the evidence, then what to type next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vbdguard.escaping import printable
from vbdguard.findings import findings_of
from vbdguard.formats.trigger_picture import TriggerPicture
from vbdguard.next_steps import next_steps
from vbdguard.report import STAGES, ClassReport, ScanReport, TriggerReport
from vbdguard.wording import (
    WHOLE_IMAGE,
    artefact_words,
    attack_words,
    blend_words,
    class_words,
    count_words,
    p_value_words,
    percent,
    place_words,
    seconds_words,
    trigger_words,
)

from .layout import draws, has_colour, make_table, print_section
from .picture import draw_letters, draw_place, draw_trigger
from .terminal_samples import print_flagged, print_places, print_skipped

_CARDS = 2
"""Up to so many triggers are drawn large, each beside its facts; more form a gallery."""
_MAX_CLASSES, _MAX_PICTURES, _MAX_NAMED = 20, 12, 5
_BLIND_SPOTS = (
    "Looked for triggers that repeat across images (BadNets, Blended). VBD does not see clean-label poison, "
    "sample-specific triggers or warping."
)


def render(report: ScanReport, console: Console, *, verbose: bool = False) -> None:
    """Print a report; with `verbose` every class, more samples, and every setting."""
    render_verdict(report, console)
    _print_dataset(report, console, verbose=verbose)
    if findings_of(report) or report.marked_classes or verbose:
        print_section(console, "Evidence", _classes_table(report, console, verbose=verbose))
    if report.poisoned_classes:
        _print_triggers(report, console, verbose=verbose)
        print_places(report, console, verbose=verbose)
        print_flagged(report, console, verbose=verbose)
    if report.status == "incomplete":
        print_skipped(report, console, verbose=verbose)
    if verbose:
        _print_settings(report, console)
    _print_ending(report, console)


def render_verdict(report: ScanReport, console: Console) -> None:
    """Print the verdict with its counts, in one line or two."""
    data = report.dataset
    if report.verdict == "poisoned":
        share = len(report.flagged) / data.samples if data.samples else 0.0
        found = len(report.poisoned_classes)
        where = f"trigger in {found:,} of {count_words(data.classes, 'class', 'classes')}"
        flagged = f"{len(report.flagged):,} of {data.samples:,} samples flagged ({share:.1%})"
        _print_badge(console, "POISONED", "bold white on red", f"{where}; {flagged}")
        if report.status == "incomplete":
            _print_badge(console, "INCOMPLETE", "bold black on yellow", f"and {_unread(report)} could not be read")
    elif report.status == "incomplete":
        counts = f"no trigger found, but {_unread(report)} could not be read: not cleared"
        _print_badge(console, "INCOMPLETE", "bold black on yellow", counts)
    else:
        counts = f"{count_words(data.samples, 'sample')} of {count_words(data.classes, 'class', 'classes')}"
        _print_badge(console, "CLEAN", "bold black on green", f"no trigger found in {counts}")


def _print_badge(console: Console, word: str, style: str, rest: str) -> None:
    badge = Text(f" {word} ", style) if has_colour(console) else Text(f"{word}:")
    console.print(Text.assemble(badge, " ", (rest, "bold")))


def _print_dataset(report: ScanReport, console: Console, *, verbose: bool) -> None:
    data = report.dataset
    height, width, _ = data.image_shape
    facts = [
        ", ".join(printable(source) for source in data.sources[:3]) + (", ..." if len(data.sources) > 3 else ""),
        f"{count_words(len(data.shards), 'shard')}, {count_words(data.samples, 'sample')}, "
        f"{count_words(data.classes, 'class', 'classes')}, scanned at {height} x {width}",
        f"{printable(str(report.config.get('preset', '')))} settings, seed {report.seed}, "
        f"{printable(report.device)}, data {data.digest if verbose else data.digest[:12]}".strip(),
    ]
    console.print(Text("\n".join(facts), "dim"))


# the evidence ---------------------------------------------------------------------------------------------------


def _classes_table(report: ScanReport, console: Console, *, verbose: bool) -> RenderableType:
    poisoned = report.poisoned_classes
    shown = report.classes if verbose else poisoned[:_MAX_CLASSES]
    has_attack = any(c.attack_success_rate is not None for c in shown)  # preset `default` measures none
    attack = [">Attack"] if has_attack else []
    table = make_table(console, "Class", ">Samples", ">Flagged", ">p-value", *attack, "Trigger", ">Blend")
    for c in shown:
        table.add_row(
            Text(class_words(c), "bold red" if c.poisoned else ""),
            f"{c.samples:,}",
            f"{c.flagged:,}",
            p_value_words(c.p_value),
            *([percent(c.attack_success_rate)] if has_attack else []),
            "-" if c.trigger is None else trigger_words(c.trigger, report.dataset.image_shape),
            "-" if c.trigger is None else blend_words(c.trigger),
        )
    lines: list[RenderableType] = [table] if shown else []
    if any(c.p_value is not None for c in poisoned):
        lines.append(Text("p-value: chance of such evidence in a clean class", "dim"))
    if len(poisoned) > len(shown):
        lines.append(Text(f"{len(poisoned) - len(shown)} more poisoned classes: --verbose", "dim"))
    suspicious = [finding for finding in findings_of(report) if finding.rule == "suspicious-class"]
    if suspicious:
        named = ", ".join(f"{class_words(one)} (p {p_value_words(one.p_value)})" for one in suspicious[:_MAX_NAMED])
        more = ", ..." if len(suspicious) > _MAX_NAMED else ""
        lines.append(Text(f"suspicious, short of proof: {named}{more}", "yellow"))
    marked = report.marked_classes
    lines += [Text(artefact_words(one, report.dataset.image_shape)) for one in marked[:_MAX_NAMED]]
    if len(marked) > _MAX_NAMED:
        lines.append(Text(f"{len(marked) - _MAX_NAMED} more classes with an artefact", "dim"))
    told = {*(c.label for c in (*poisoned, *marked)), *(one.label for one in suspicious)}
    if others := 0 if verbose else len(report.classes) - len(told):
        lines.append(Text(f"{others} other {'class' if others == 1 else 'classes'}: nothing found", "dim"))
    return Group(*lines)


# the pictures ---------------------------------------------------------------------------------------------------


def _print_triggers(report: ScanReport, console: Console, *, verbose: bool) -> None:
    found = [(c, c.trigger) for c in report.poisoned_classes if c.trigger is not None]
    if not found:
        return
    title = "Trigger" if len(found) == 1 else "Triggers"
    if len(found) <= _CARDS:
        cards = [_card(c, trigger, report, console) for c, trigger in found]
        print_section(console, title, *cards, spaced=True)
        return
    shown = found[: len(found) if verbose else _MAX_PICTURES]
    parts = [_gallery(shown, console)]
    if len(found) > len(shown):
        parts.append(Text(f"{len(found) - len(shown)} more: --verbose", "dim"))
    print_section(console, title, *parts)


def _card(c: ClassReport, trigger: TriggerReport, report: ScanReport, console: Console) -> RenderableType:
    """One trigger, large, with its place in the image and the facts beside it."""
    top, left, height, width = trigger.bbox
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("turns", Text(attack_words(c.attack_success_rate)))
    facts.add_row("into", Text(class_words(c), "bold red"))
    place = place_words(trigger.bbox, report.dataset.image_shape)
    facts.add_row("size", f"{height} x {width} px, {trigger.pixels:,} in the mask")
    facts.add_row("place", place if place == WHOLE_IMAGE else f"{place}: row {top}, column {left}")
    facts.add_row("blend", blend_words(trigger))
    grid = Table.grid(padding=(0, 2))
    grid.add_row(*_pictures(trigger, console, 24), facts)
    return grid


def _gallery(found: Sequence[tuple[ClassReport, TriggerReport]], console: Console) -> RenderableType:
    side = 10
    cells = [
        Group(Text(class_words(c), "bold red", no_wrap=True, overflow="ellipsis"), _side_by_side(t, console, side))
        for c, t in found
    ]
    # letters take 12 columns at this side, two pictures and their gap 24; names want some room as well
    per_row = max(1, (console.width - 2) // (2 * side + 4 if draws(console) else 19))
    grid = Table.grid(padding=(0, 3, 0, 0))
    for start in range(0, len(cells), per_row):
        if start:
            grid.add_row()
        grid.add_row(*cells[start : start + per_row])
    return grid


def _side_by_side(trigger: TriggerReport, console: Console, side: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(*_pictures(trigger, console, side))
    return grid


def _pictures(trigger: TriggerReport, console: Console, side: int) -> list[Text]:
    try:
        picture = TriggerPicture.of(trigger)
    except ValueError as error:
        return [Text(f"(no picture: {printable(str(error))})", "dim")]
    if not draws(console):
        return [draw_letters(picture, side * 2 // 3)]
    if place_words(trigger.bbox, (*picture.mask.shape, 3)) == WHOLE_IMAGE:
        return [draw_trigger(picture, side)]
    return [draw_trigger(picture, side), draw_place(picture, min(side, 16))]


def _print_settings(report: ScanReport, console: Console) -> None:
    settings = [Text(f"{printable(k)} = {printable(str(v))}") for k, v in _flat(report.config.items())]
    versions = ", ".join(f"{printable(k)} {printable(v)}" for k, v in report.environment.items())
    print_section(console, "Settings", *settings, Text(versions, "dim"))


def _flat(items: Iterable[tuple[str, object]]) -> Iterable[tuple[str, object]]:
    for name, value in items:
        if isinstance(value, dict):
            yield from _flat((f"{name}.{inner}", v) for inner, v in value.items())
        else:
            yield name, value


# the ending -----------------------------------------------------------------------------------------------------


def _print_ending(report: ScanReport, console: Console) -> None:
    console.print()
    if report.verdict == "clean":
        console.print(Text(_BLIND_SPOTS, "dim"))
    console.print(Text(_time_words(report), "dim"))
    console.print()
    steps = next_steps(report)
    width = max(len(step.command) for step in steps)
    fits = 8 + width + max(len(step.purpose) for step in steps) <= console.width
    for i, step in enumerate(steps):
        gap = " " * (width - len(step.command) + 2) if fits else "\n" + " " * 8
        head = "      " if i else "Next  "
        line = Text.assemble((head, "bold cyan"), (step.command, "bold"), gap, (step.purpose, "dim"))
        console.print(line, soft_wrap=True)


def _time_words(report: ScanReport) -> str:
    stages = [stage for stage in STAGES if stage in report.timings]
    total = report.timings.get("total", sum(report.timings[stage] for stage in stages))
    parts = ", ".join(f"{stage.replace('_', ' ')} {report.timings[stage]:.1f}" for stage in stages)
    took = f"{seconds_words(total)} ({parts})" if parts else seconds_words(total)
    if report.from_cache:
        return f"From the cache (--refresh scans again); took {took}"
    return f"Took {took}"


def _unread(report: ScanReport) -> str:
    shards = sum(shard.status != "complete" for shard in report.dataset.shards)
    return count_words(len(report.skipped), "entry", "entries") if report.skipped else count_words(shards, "shard")
