"""`vbdguard merge`: the report on data that several jobs have read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .after_scan import receipt_option, report_and_exit
from .gate_options import GATE_SECTION, gate_options
from .options import SectionedCommand
from .outputs import OUTPUT_SECTION, output_options
from .scan_options import CACHE_SECTION, cache_options, cache_settings, check_options
from .settings_option import settings_option

if TYPE_CHECKING:
    from vbdguard.report import ScanReport


@click.command(
    cls=SectionedCommand,
    sections={
        "How to judge": ["device", "config"],
        "What comes out": [*OUTPUT_SECTION, "receipt"],
        "When to fail": GATE_SECTION,
        "Cache": CACHE_SECTION,
    },
    short_help="Make the report from what several jobs have read.",
)
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@settings_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="`auto` (takes an earlier report of any), `cpu`, `cuda`, `cuda:N`, or `mps` (preset `paper`).",
)
@output_options
@receipt_option
@gate_options
@cache_options
@click.pass_context
def merge(ctx: click.Context, /, files: tuple[Path, ...], **options: Any) -> None:
    """Make the report from partial scans, as `vbdguard scan --shard i/N --partial FILE` writes them.

    It is the report that one scan of all the data gives. The files may come in any order and from any machine, but each
    shard must be in exactly one of them. Preset, seed and all that concerns reading are those of the partial scans.

    \b
    Examples:
      vbdguard merge part-1 part-2 part-3             the report of the three
      vbdguard merge parts/* -o r.html -o r.sarif     pictures, code scanning
      vbdguard merge parts/* --receipt vbdguard.lock  a receipt to verify by later
      vbdguard merge parts/* --device cuda            judge on a GPU

    \b
    Exit codes:
      0  clean
      1  poison found that counts (see --fail-on, --baseline and --exit-zero)
      2  could not complete: a share is missing, doubled, damaged or of another
         scan, input or output error, anything that the jobs could not read
      3  nothing scannable found
      130  interrupted
    """
    check_options(options)
    report_and_exit(ctx, options, lambda kept: _run(files, kept), is_merged=True)


def _run(files: tuple[Path, ...], options: dict[str, Any]) -> ScanReport:
    """Merge, with progress and log on stderr."""
    from vbdguard.partial_scans import merge as run_merge

    from .at_work import at_work

    with at_work(options) as (_, progress):
        return run_merge(files, device=options["device"], **cache_settings(options), progress=progress)
