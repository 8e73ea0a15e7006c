"""`vbdguard report`: a saved report in any format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .gate_options import read_baseline
from .options import SectionedCommand
from .outputs import OUTPUT_SECTION, extras_for, output_options, say_written, show, write_files
from .settings_option import settings_option

if TYPE_CHECKING:
    from vbdguard.report import ScanReport


@click.command(
    cls=SectionedCommand,
    sections={"What comes out": OUTPUT_SECTION},
    short_help="Render a saved report in any format.",
)
@click.argument(
    "file", metavar="FILE.json", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
)
@output_options
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Accepted findings, which are marked as such.",
)
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The cache that may hold the images for the page.  [default: $VBDGUARD_CACHE or the platform's cache]",
)
@settings_option
def report(file: Path, **options: Any) -> int:
    """Render a saved report: nothing is scanned, and no data are needed.

    Pictures of samples come from the cache of the scan. Where that is not at hand, on another machine, the HTML page
    has the trigger only and says so.

    \b
    Examples:
      vbdguard report report.json                       as the scan printed it
      vbdguard report report.json -o report.html        the page with pictures
      vbdguard report report.json -o r.sarif -o r.md    several at once
      vbdguard report report.json --format csv          the flagged samples
      vbdguard report - --format github < report.json   in a GitHub job

    \b
    Exit codes:
      0  rendered, whatever the report says
      2  not a report, or input or output error
    """
    if options["quiet"] and options["verbose"]:
        raise click.UsageError("--quiet and --verbose contradict each other; pass one")
    loaded = _loaded(file)
    accepted = _accepted(loaded, options["baseline"])
    extras = extras_for(loaded, options, accepted=accepted, cache_dir=options["cache_dir"])
    write_files(loaded, options, extras)
    show(loaded, options, extras)
    say_written(options["output"], options)
    return 0


def _loaded(file: Path) -> ScanReport:
    """Return the report in a file, or on standard input for `-`.

    Raises:
        ReportError: if there is none.
    """
    from .at_work import report_from

    if str(file) == "-":
        return report_from(sys.stdin.buffer.read(), "standard input")
    return report_from(file.read_bytes(), str(file))


def _accepted(report: ScanReport, path: Path | None) -> dict[str, str]:
    """Return the findings that a baseline accepts today, with the reasons."""
    if path is None:
        return {}
    from vbdguard.findings import findings_of
    from vbdguard.gate import judge

    judgement = judge(findings_of(report), is_complete=True, baseline=read_baseline(path))
    return {finding.digest: acceptance.reason for finding, acceptance in judgement.accepted}
