"""`vbdguard scan`: look for poison, say what was found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from vbdguard.atomic import write_atomically

from .options import OUTPUT_SUFFIXES, SectionedCommand, parse_outputs
from .scan_options import (
    CACHE_SECTION,
    SCAN_SECTIONS,
    cache_options,
    cache_settings,
    check_options,
    scan_config,
    scan_options,
)

if TYPE_CHECKING:
    from vbdguard.report import ScanReport


@click.command(
    cls=SectionedCommand,
    sections={
        **SCAN_SECTIONS,
        "What comes out": ["output", "format_", "fail_on", "exit_zero", "quiet", "verbose", "no_color"],
        "Cache": CACHE_SECTION,
    },
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@scan_options
@click.option(
    "-o",
    "--output",
    "output",
    multiple=True,
    metavar="FILE",
    callback=parse_outputs,
    help=f"Write the report to a file as well ({', '.join(OUTPUT_SUFFIXES)}); may be repeated.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What goes to stdout.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["poisoned", "never"]),
    default="poisoned",
    show_default=True,
    help="When to end with 1.",
)
@click.option("--exit-zero", is_flag=True, help="End with 0 where poison would end with 1; 2 and 3 stay.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, and only the verdict as text.")
@click.option("--verbose", "-v", is_flag=True, help="Every class, more samples, all settings, the log.")
@click.option("--no-color", is_flag=True, help="Plain text (so does NO_COLOR=1).")
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
      vbdguard scan shards/ -o report.json            the report as a file
      vbdguard scan shards/ --format json             the report to a program

    \b
    Exit codes:
      0  clean
      1  poison found (never with --exit-zero or --fail-on never)
      2  could not complete: bad usage, input or output error, anything unreadable
      3  nothing scannable found
      130  interrupted
    """
    check_options(options)
    report = _run(sources, options)
    for path in options["output"]:
        write_atomically(path, report.to_json())
    _show(report, options)
    ctx.exit(_exit_code(report, options["fail_on"], exit_zero=options["exit_zero"]))


def _run(sources: tuple[str, ...], options: dict[str, Any]) -> ScanReport:
    """Scan, with progress and log on stderr."""
    from vbdguard.scanner import scan as run_scan

    from .at_work import at_work, one_or_all

    with at_work(options) as (_, progress):
        return run_scan(one_or_all(sources), scan_config(options), **cache_settings(options), progress=progress)


def _show(report: ScanReport, options: dict[str, Any]) -> None:
    """Write the report to stdout: JSON as it is, since rich would wrap it, or text."""
    if options["format_"] == "json":
        sys.stdout.write(report.to_json())
        return
    from .consoles import make_console
    from .terminal import render, render_verdict

    console = make_console(no_color=options["no_color"])
    if options["quiet"]:
        render_verdict(report, console)
        return
    render(report, console, verbose=options["verbose"])
    for path in options["output"]:
        click.echo(f"Wrote {path}", err=True)


def _exit_code(report: ScanReport, fail_on: Literal["never", "poisoned"], *, exit_zero: bool) -> int:
    code = report.exit_code(fail_on=fail_on)
    return 0 if exit_zero and code == 1 else code
