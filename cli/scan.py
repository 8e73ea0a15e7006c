"""`vbdguard scan`: look for poison, say what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .after_scan import receipt_option, report_and_exit
from .dry_run import dry_run
from .gate_options import GATE_SECTION, gate_options
from .options import SectionedCommand
from .outputs import OUTPUT_SECTION, output_options
from .scan_options import (
    CACHE_SECTION,
    SCAN_SECTIONS,
    cache_options,
    cache_settings,
    check_options,
    scan_config,
    scan_options,
)
from .share import SHARE_SECTION, read_share, share_options

if TYPE_CHECKING:
    from vbdguard.report import ScanReport


@click.command(
    cls=SectionedCommand,
    sections={
        **SCAN_SECTIONS,
        "Before it starts": ["dry_run"],
        "One of several jobs": SHARE_SECTION,
        "What comes out": [*OUTPUT_SECTION, "receipt"],
        "When to fail": GATE_SECTION,
        "Cache": CACHE_SECTION,
    },
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@scan_options
@output_options
@click.option("--dry-run", is_flag=True, help="Say what the scan will take (time, memory, disk), and do nothing.")
@share_options
@receipt_option
@gate_options
@cache_options
@click.pass_context
def scan(ctx: click.Context, /, sources: tuple[str, ...], **options: Any) -> None:
    """Scan image-classification data for backdoor poisoning.

    SOURCE is a shard (tar, parquet, arrow or npz), a brace pattern, a glob, a folder of shards, an image folder
    with one directory per class, a manifest (CSV or JSON lines, a column of paths and one of labels), or an fsspec
    URL; several are scanned as one dataset.

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
      vbdguard scan shards/ --dry-run                 time, memory, disk: before
      vbdguard scan shards/ --engine ray              read on a Ray cluster
      vbdguard scan shards/ --shard 1/8 --partial p1  one of 8 jobs; then: merge

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
    is_share = options["shard"] is not None or options["partial"] is not None
    if options["dry_run"] and is_share:
        raise click.UsageError("--dry-run tells what all of the data take; drop --shard and --partial")
    if options["dry_run"]:
        ctx.exit(dry_run(sources, options))
    if not is_share:
        report_and_exit(ctx, options, lambda kept: _run(sources, kept))
    ctx.exit(read_share(ctx, sources, options))


def _run(sources: tuple[str, ...], options: dict[str, Any]) -> ScanReport:
    """Scan, with progress and log on stderr."""
    from vbdguard.scanner import scan as run_scan

    from .at_work import at_work, one_or_all

    with at_work(options) as (_, progress):
        return run_scan(one_or_all(sources), scan_config(options), **cache_settings(options), progress=progress)
