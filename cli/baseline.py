"""`vbdguard baseline`: accept findings with a reason, and show what is accepted."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbdguard.escaping import printable

from .gate_options import read_baseline
from .settings_option import settings_option

if TYPE_CHECKING:
    from vbdguard.baseline import Acceptance, Baseline

DEFAULT_NAME = "vbdguard-baseline.json"

_file = click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default=DEFAULT_NAME,
    show_default=True,
    help="The baseline.",
)


@click.group(short_help="Accept findings with a reason.")
def baseline() -> None:
    """Accept findings with a reason, so that they no longer fail a scan.

    A baseline names each finding by the content of its flagged samples: it holds when shards are renamed or cut
    anew, and no longer when other samples are flagged. Keep the file in the repository, where it is reviewed.

    \b
    Examples:
      vbdguard scan data/ -o report.json
      vbdguard baseline update report.json --reason "our own watermark"
      vbdguard scan data/ --baseline vbdguard-baseline.json
      vbdguard baseline show
    """


@baseline.command(short_help="Accept all findings of a saved report.")
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_file
@settings_option
@click.option("--reason", metavar="TEXT", help="Why the new findings are accepted; needed where there are any.")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="The last day on which they are.  [default: for good]",
)
def update(report: Path, baseline: Path, reason: str | None, expires: datetime | None) -> None:
    """Make the baseline accept all findings of the saved REPORT, and nothing else.

    Findings that it accepts already keep their reason and their day; those that the report no longer has go.

    \b
    Examples:
      vbdguard baseline update report.json --reason "our own watermark"
      vbdguard baseline update report.json --reason cleaning --expires 2027-03-31
      vbdguard baseline update report.json    only take out what was mended
    """
    from vbdguard.baseline import Baseline
    from vbdguard.findings import findings_of

    from .at_work import saved_report

    if expires is not None and expires.date() < _today():
        raise click.UsageError(f"--expires {expires.date()} has passed; name a day to come")
    saved = saved_report(report)
    if saved is None:
        raise click.UsageError("expected a report")
    before = Baseline.read(baseline) if baseline.exists() else Baseline.empty()
    after = before.updated(
        findings_of(saved), reason=reason, expires=None if expires is None else expires.date().isoformat()
    )
    after.write(baseline)
    _tell_update(before, after, baseline)


@baseline.command()
@_file
@settings_option
def show(baseline: Path) -> None:
    """Show what is accepted, why, and until when."""
    entries = read_baseline(baseline).findings
    if not entries:
        click.echo(f"{printable(str(baseline))} accepts nothing")
    for entry in entries:
        click.echo(_line(entry))


def _tell_update(before: Baseline, after: Baseline, path: Path) -> None:
    old, new = set(before.findings), set(after.findings)
    for entry in after.findings:
        if entry not in old:
            click.echo(f"accepted  {_line(entry)}")
    for entry in before.findings:
        if entry not in new:
            click.echo(f"removed   {_line(entry)}")
    for entry in after.findings:
        if entry in old and entry.has_expired(_today()):
            click.echo(f"expired   {_line(entry)}; edit its day in {printable(str(path))} to accept it longer")
    click.echo(f"{printable(str(path))}: {len(new)} accepted, {len(new - old)} of them new, {len(old - new)} removed")


def _line(entry: Acceptance) -> str:
    until = "for good" if entry.expires is None else f"until {entry.expires}"
    return f"{entry.digest[:12]}  {printable(entry.what)}; {until}: {printable(entry.reason)}"


def _today() -> date:
    return datetime.now(UTC).date()
