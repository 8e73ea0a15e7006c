"""`vbdguard clean`: write a copy without the poison, and a quarantine with the reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import SectionedCommand
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
    from vbdguard.cleaning.result import CleanCopy


@click.command(
    cls=SectionedCommand,
    sections={
        "What to write": ["policy", "quarantine", "link", "dry_run", "allow_skipped", "report"],
        **SCAN_SECTIONS,
        "What comes out": ["quiet", "verbose", "no_color"],
        "Cache": CACHE_SECTION,
    },
    short_help="Write a copy without the poison, and a quarantine.",
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, type=click.Path())
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    type=click.Choice(["drop", "relabel"]),
    default="drop",
    show_default=True,
    help="Leave flagged samples out, or keep them under the class that they look like.",
)
@click.option(
    "--quarantine",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where flagged and skipped samples go.  [default: DEST.quarantine]",
)
@click.option("--link", is_flag=True, help="Make hard links to files that stay whole, instead of copies.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--allow-skipped", is_flag=True, help="End with 0 although something could not be read.")
@click.option(
    "--report",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go by a saved report (.json) on the same data instead of scanning.",
)
@scan_options
@click.option("--quiet", "-q", is_flag=True, help="No progress, and only one line of text.")
@click.option("--verbose", "-v", is_flag=True, help="Every class, and the log.")
@click.option("--no-color", is_flag=True, help="Plain text (so does NO_COLOR=1).")
@cache_options
@click.pass_context
def clean(ctx: click.Context, /, sources: tuple[str, ...], dest: Path, **options: Any) -> None:
    """Write the samples that a scan holds for clean to the new folder DEST, in the layout of SOURCE.

    Tar shards keep their names and every member that stays keeps its bytes; image folders keep their tree; parquet
    files keep schema, metadata and row order. Flagged and skipped samples go to a quarantine beside DEST in the
    same layout, with reasons.jsonl. SOURCE is only read. Interrupted, the same command goes on where it stood.

    \b
    Examples:
      vbdguard clean shards/ clean/                     WebDataset shards
      vbdguard clean images/ clean/ --link              hard links, no copies
      vbdguard clean data.parquet clean/ --dry-run      what would be written
      vbdguard clean shards/ clean/ --report scan.json  by an earlier scan
      vbdguard clean shards/ clean/ --policy relabel    mend the labels instead

    \b
    Exit codes:
      0  DEST is written and complete, also where poison was taken out
      2  could not complete, or something was skipped because it cannot be read
         (see --allow-skipped), or a class has a trigger and no sample to take out
      3  nothing scannable found
      130  interrupted; run the same command again to go on
    """
    if not sources:  # click gives a single name to DEST, and would miss SOURCE
        raise click.UsageError(
            f"expected SOURCE and DEST, got {dest} alone; "
            f"name the new folder for the copy too: vbdguard clean {dest} DEST"
        )
    check_options(options)
    copy = _run(sources, dest, options)
    if options["quiet"]:
        click.echo(_sum(copy, is_dry_run=options["dry_run"]))
    else:
        _show(copy, options)
    ctx.exit(_exit_code(copy, allow_skipped=options["allow_skipped"]))


def _run(sources: tuple[str, ...], dest: Path, options: dict[str, Any]) -> CleanCopy:
    """Write the copy, with progress and log on stderr."""
    from vbdguard.cleaning.clean_copy import clean as write_clean_copy

    from .at_work import at_work, one_or_all, saved_report

    saved = saved_report(options["report"])
    with at_work(options) as (_, progress):
        return write_clean_copy(
            one_or_all(sources),
            dest,
            scan_config(options),
            report=saved,
            progress=progress,
            **{name: options[name] for name in ("policy", "quarantine", "link", "dry_run")},
            **cache_settings(options),
        )


def _show(copy: CleanCopy, options: dict[str, Any]) -> None:
    from vbdguard.escaping import printable

    is_dry_run = options["dry_run"]
    dest, quarantine = printable(str(copy.dest)), printable(str(copy.quarantine))
    click.echo(_sum(copy, is_dry_run=is_dry_run))
    for entry in copy.classes:
        if options["verbose"] or entry.flagged or entry.relabelled:
            moved = f", {entry.relabelled:,} relabelled" if entry.relabelled else ""
            name = f"{entry.label} {printable(entry.name)}" if entry.name != str(entry.label) else entry.name
            click.echo(f"  class {name}: {entry.kept:,} kept{moved}, {entry.flagged:,} quarantined")
    click.echo(_shards(copy, is_dry_run=is_dry_run))
    for line in _warnings(copy, is_dry_run=is_dry_run):
        click.echo(f"vbdguard: warning: {line}", err=True)
    if is_dry_run:
        click.echo(f"nothing was written; without --dry-run the copy goes to {dest}, the rest to {quarantine}")
        return
    click.echo(f"copy: {dest}")
    if copy.flagged or copy.relabelled or copy.skipped:
        click.echo(f"quarantine: {quarantine}, why: {quarantine}/reasons.jsonl")


def _sum(copy: CleanCopy, *, is_dry_run: bool) -> str:
    """Return the one line that has to add up."""
    moved = f" + {copy.relabelled:,} relabelled" if copy.relabelled or copy.policy == "relabel" else ""
    parts = f"{copy.kept:,} kept{moved} + {copy.flagged:,} quarantined + {copy.skipped:,} skipped = {copy.total:,}"
    return f"{parts} ({'would be written' if is_dry_run else 'all that was scanned'})"


def _shards(copy: CleanCopy, *, is_dry_run: bool) -> str:
    whole = f"{copy.untouched_shards:,} of {copy.shards:,} shards lose nothing"
    if is_dry_run:
        return f"{whole}; about {copy.bytes_to_write / 1e6:,.1f} MB to write"
    return whole + (f"; {copy.resumed_shards:,} stood already from an earlier run" if copy.resumed_shards else "")


def _warnings(copy: CleanCopy, *, is_dry_run: bool) -> list[str]:
    from vbdguard.escaping import printable
    from vbdguard.wording import class_words, count_words

    lines = [
        f"class {class_words(entry)} has a trigger, but no sample was flagged: its poison is still in the copy; "
        "look at the report (vbdguard scan)"
        for entry in copy.unmended
    ]
    if copy.skipped:
        why = "" if is_dry_run else f", {printable(str(copy.quarantine / 'reasons.jsonl'))} says why"
        lines.append(f"{count_words(copy.skipped, 'entry', 'entries')} skipped{why}; --allow-skipped accepts that")
    return lines


def _exit_code(copy: CleanCopy, *, allow_skipped: bool) -> int:
    return 2 if copy.unmended or (copy.skipped and not allow_skipped) else 0
