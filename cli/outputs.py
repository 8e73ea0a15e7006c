"""What comes out of a report: files in any format, one of them on stdout, or text; for `scan`, `merge` and `report`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbdguard.atomic import write_atomically
from vbdguard.formats.rendering import FORMATS, SUFFIXES, Extras, format_of, render

from .options import parse_outputs
from .scan_options import Command, with_options

if TYPE_CHECKING:
    from vbdguard.report import ScanReport

OUTPUT_SECTION = ["output", "format_", "quiet", "verbose", "no_color"]
"""Where `SectionedCommand` lists `output_options`."""
_MACHINE = frozenset(FORMATS) - {"github"}
"""What has stdout to itself; annotations stand behind the text, in the same log."""


def output_options(command: Command) -> Command:
    """Add the options that `write_files` and `show` go by."""
    return with_options(
        command,
        click.option(
            "-o",
            "--output",
            "output",
            multiple=True,
            metavar="FILE",
            callback=parse_outputs,
            help=f"Write the report to a file as well ({', '.join(SUFFIXES)}); may be repeated.",
        ),
        click.option(
            "--format",
            "format_",
            type=click.Choice(["text", *FORMATS]),
            default="text",
            show_default=True,
            metavar="NAME",
            help=f"What goes to stdout: text, {', '.join(FORMATS)}. `github` is text with annotations, and appends "
            "the Markdown to $GITHUB_STEP_SUMMARY.",
        ),
        click.option("--quiet", "-q", is_flag=True, help="No progress, and only the verdict as text."),
        click.option("--verbose", "-v", is_flag=True, help="Every class, more samples, all settings, the log."),
        click.option("--no-color", is_flag=True, help="Plain text (so does NO_COLOR=1)."),
    )


def wants_images(options: Mapping[str, Any]) -> bool:
    """Return whether something is asked for that shows the samples' pixels."""
    return options["format_"] == "html" or any(format_of(path) == "html" for path in options["output"])


def extras_for(
    report: ScanReport,
    options: Mapping[str, Any],
    *,
    accepted: Mapping[str, str],
    cache_dir: Path | None,
    is_merged: bool = False,
) -> Extras:
    """Return what formats may use besides the report.

    Args:
        report: a scan's outcome.
        options: of the command.
        accepted: fingerprints of accepted findings, with the reasons.
        cache_dir: the cache that may hold the samples' pixels; None takes the usual one.
        is_merged: whether they came in partial scans.
    """
    if not wants_images(options) or not report.poisoned_classes:
        return Extras(accepted)
    from vbdguard.cache import Cache
    from vbdguard.ingest.stored_images import find_stored_images

    cache = Cache(cache_dir)
    return Extras(accepted, find_stored_images(report, (cache.merged if is_merged else cache).store_dir))


def write_files(report: ScanReport, options: Mapping[str, Any], extras: Extras) -> None:
    """Write the files of -o, and the summary of a GitHub job.

    Raises:
        OSError: if one cannot be written.
    """
    for path in options["output"]:
        name = format_of(path)
        write_atomically(path, render(report, "json" if name is None else name, extras))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if options["format_"] == "github" and summary:
        with Path(summary).open("a", encoding="utf-8", newline="\n") as file:
            file.write(render(report, "markdown", extras))


def show(report: ScanReport, options: Mapping[str, Any], extras: Extras) -> None:
    """Write the report to stdout: a machine's format as it is, since rich would wrap it, or text."""
    name = options["format_"]
    if name in _MACHINE:
        sys.stdout.write(render(report, name, extras))
        return
    from .consoles import make_console
    from .terminal import render as render_text
    from .terminal import render_verdict

    console = make_console(no_color=options["no_color"])
    if options["quiet"]:
        render_verdict(report, console)
    else:
        render_text(report, console, verbose=options["verbose"])
    if name == "github":
        sys.stdout.write(render(report, name, extras))


def say_written(paths: tuple[Path, ...], options: Mapping[str, Any]) -> None:
    """Say on stderr which files there are now."""
    if not options["quiet"]:
        for path in paths:
            click.echo(f"Wrote {path}", err=True)


@contextmanager
def kept_for_images(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield options under which the pixels outlive the scan: with --no-cache, in a folder that is gone afterwards."""
    if not (options["no_cache"] and wants_images(options)):
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="vbdguard-") as folder:
        yield {**options, "no_cache": False, "refresh": True, "cache_dir": Path(folder)}
