"""`vbdguard scan`: look for poison, say what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .gate_options import GATE_SECTION, exit_code, gate_options, gate_words, judged, read_baseline
from .options import SectionedCommand, parse_receipt
from .outputs import OUTPUT_SECTION, extras_for, kept_for_images, output_options, say_written, show, write_files
from .scan_options import (
    CACHE_SECTION,
    SCAN_SECTIONS,
    cache_options,
    cache_settings,
    check_options,
    scan_config,
    scan_options,
)
from .settings_option import settings_line

if TYPE_CHECKING:
    from vbdguard.gate import Judgement
    from vbdguard.report import ScanReport


@click.command(
    cls=SectionedCommand,
    sections={
        **SCAN_SECTIONS,
        "What comes out": [*OUTPUT_SECTION, "receipt"],
        "When to fail": GATE_SECTION,
        "Cache": CACHE_SECTION,
    },
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@scan_options
@output_options
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    callback=parse_receipt,
    help="Write a receipt for the repository as well, such as vbdguard.lock (see `vbdguard verify`).",
)
@gate_options
@cache_options
@click.pass_context
def scan(ctx: click.Context, /, sources: tuple[str, ...], **options: Any) -> None:
    """Scan image-classification data for backdoor poisoning.

    SOURCE is a tar shard, a brace pattern, a glob, a folder of shards, an image folder with one directory per
    class, a parquet file, or an fsspec URL; several are scanned as one dataset.

    \b
    Examples:
      vbdguard scan shards/                           a folder of WebDataset tars
      vbdguard scan "train-{000000..000009}.tar"      a brace pattern
      vbdguard scan images/ --image-size 64           one directory per class
      vbdguard scan d.parquet --label-key fine_label  a label column of that name
      vbdguard scan shards/ -o r.html -o r.sarif      pictures, code scanning
      vbdguard scan shards/ --format json             the report to a program
      vbdguard scan shards/ --format github           a GitHub job: annotations
      vbdguard scan shards/ --receipt vbdguard.lock   a receipt to verify by later
      vbdguard scan shards/ --baseline accepted.json  fail on new findings only
      vbdguard scan shards/ --allow-unreadable 0.1%   accept a few broken ones

    \b
    Exit codes:
      0  clean
      1  poison found that counts (see --fail-on, --baseline and --exit-zero)
      2  could not complete: bad usage, input or output error, anything unreadable
         (see --allow-unreadable)
      3  nothing scannable found
      130  interrupted
    """
    check_options(options)
    read_baseline(options["baseline"])  # a slip there should not show after the scan
    with kept_for_images(options) as kept:
        report = _run(sources, kept)
        judgement = _judged(report, options)
        accepted = {finding.digest: acceptance.reason for finding, acceptance in judgement.accepted}
        extras = extras_for(report, options, accepted=accepted, cache_dir=kept["cache_dir"])
        write_files(report, options, extras)
        _write_receipt(report, options["receipt"])
        show(report, options, extras)
    say_written((*options["output"], *([options["receipt"]] if options["receipt"] else [])), options)
    _say_gate(judgement, options)
    _say_unread(report, options)
    ctx.exit(exit_code(judgement, options))


def _run(sources: tuple[str, ...], options: dict[str, Any]) -> ScanReport:
    """Scan, with progress and log on stderr."""
    from vbdguard.scanner import scan as run_scan

    from .at_work import at_work, one_or_all

    if (line := settings_line(click.get_current_context())) and not options["quiet"]:
        click.echo(line, err=True)
    with at_work(options) as (_, progress):
        return run_scan(one_or_all(sources), scan_config(options), **cache_settings(options), progress=progress)


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
