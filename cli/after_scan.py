"""What comes after a scan or a merge: files, text, receipt, the gate's word and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .gate_options import exit_code, gate_words, judged, read_baseline
from .options import parse_receipt
from .outputs import extras_for, kept_for_images, say_written, show, write_files
from .scan_options import Command

if TYPE_CHECKING:
    from vbdguard.gate import Judgement
    from vbdguard.report import ScanReport


def receipt_option(command: Command) -> Command:
    """Add the option that `report_and_exit` writes a receipt by."""
    return click.option(
        "--receipt",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        callback=parse_receipt,
        help="Write a receipt for the repository as well, such as vbdguard.lock (see `vbdguard verify`).",
    )(command)


def report_and_exit(
    ctx: click.Context,
    options: dict[str, Any],
    compute: Callable[[dict[str, Any]], ScanReport],
    *,
    is_merged: bool = False,
) -> NoReturn:
    """Compute a report, put out all that the options ask for, and end with the exit code.

    Args:
        ctx: of the command.
        options: its own, with those of output, gate and cache.
        compute: gets the options under which the pixels are kept that the output shows, and returns the report.
        is_merged: whether it is the report on partial scans, whose pixels the cache keeps apart.
    """
    read_baseline(options["baseline"])  # a slip there should not show after the scan
    with kept_for_images(options) as kept:
        report = compute(kept)
        judgement = _judged(report, options)
        accepted = {finding.digest: acceptance.reason for finding, acceptance in judgement.accepted}
        extras = extras_for(report, options, accepted=accepted, cache_dir=kept["cache_dir"], is_merged=is_merged)
        write_files(report, options, extras)
        _write_receipt(report, options["receipt"])
        show(report, options, extras)
    say_written((*options["output"], *([options["receipt"]] if options["receipt"] else [])), options)
    _say_gate(judgement, options)
    _say_unread(report, options)
    ctx.exit(exit_code(judgement, options))


def _judged(report: ScanReport, options: dict[str, Any]) -> Judgement:
    from vbdguard.findings import findings_of
    from vbdguard.unreadable import is_accepted

    is_complete = is_accepted(report, options["allow_unreadable"])
    return judged(findings_of(report), is_complete=is_complete, options=options)


def _say_gate(judgement: Judgement, options: dict[str, Any]) -> None:
    """Say what the exit code depends on besides the report: behind the text, else on stderr."""
    if not options["quiet"]:
        for line in gate_words(judgement, options):
            click.echo(line, err=options["format_"] not in ("text", "github"))


def _say_unread(report: ScanReport, options: dict[str, Any]) -> None:
    """Say where --allow-unreadable had a say in the exit code."""
    allowed = options["allow_unreadable"]
    if report.status == "complete" or not allowed or options["quiet"]:
        return
    from vbdguard.unreadable import Unread, is_accepted

    word = "Accepted" if is_accepted(report, allowed) else "Not accepted"
    click.echo(
        f"{word}: {Unread.of(report)}: --allow-unreadable {allowed:g}%",
        err=options["format_"] not in ("text", "github"),
    )


def _write_receipt(report: ScanReport, path: Path | None) -> None:
    if path is not None:
        from vbdguard.receipt import Receipt

        Receipt.of(report, path).write(path)
