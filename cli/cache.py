"""`vbdguard cache`: what the cache holds, and how to empty it."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbdguard.cache import Cache, CacheInfo
from vbdguard.escaping import printable

from .options import parse_age
from .settings_option import settings_option

if TYPE_CHECKING:
    from vbdguard.config import FolderRule

_directory = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Which cache.  [default: $VBDGUARD_CACHE or the platform's cache]",
)


@click.group()
def cache() -> None:
    """Show or empty the cache of scan reports and decoded shards.

    \b
    Examples:
      vbdguard cache info                    where it is, how large, what is in it
      vbdguard cache clear --older-than 30d  remove what is older than 30 days
      vbdguard cache clear --yes             remove all of it without asking
      vbdguard cache key shards/             a name for a CI cache of these data
    """


@cache.command()
@_directory
@settings_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def info(cache_dir: Path | None, as_json: bool) -> None:
    """Say where the cache is, how large it is and what it holds."""
    found = Cache(cache_dir).info()
    sys.stdout.write(_as_json(found) if as_json else _as_text(found))


@cache.command(short_help="Remove cached reports and decoded shards.")
@_directory
@settings_option
@click.option(
    "--older-than", metavar="AGE", callback=parse_age, help="Only what was written longer ago, such as 30d, 12h or 2w."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def clear(cache_dir: Path | None, older_than: timedelta | None, yes: bool) -> None:
    """Remove cached reports and decoded shards; a later scan makes them anew.

    Nothing outside the cache is touched, and only a directory that vbdguard made is cleared.
    """
    target = Cache(cache_dir)
    found = target.info()
    if found.entries == 0:
        click.echo(f"Nothing to remove in {printable(str(found.directory))}")
        return
    if not yes and not _confirmed(found, older_than):
        click.echo("Nothing removed")
        return
    freed = target.clear(older_than)
    click.echo(f"Removed {_entries(freed.entries)}, {_size(freed.bytes)}")


@cache.command(short_help="Print a name for a CI cache of these data.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@click.option("--label-key", metavar="KEY", help="As `vbdguard scan` takes it.")
@click.option("--folder-rule", type=click.Choice(["torchvision", "huggingface"]), help="Likewise.")
@settings_option
def key(sources: tuple[str, ...], label_key: str | None, folder_rule: FolderRule | None) -> None:
    """Print a name for a CI cache of what a scan of SOURCE keeps: the same for the same shards and version.

    Every byte is hashed, nothing is decoded, and no torch is loaded.
    """
    from vbdguard.verification import shards_digest

    click.echo(shards_digest(sources, label_key=label_key, folder_rule=folder_rule))


def _confirmed(found: CacheInfo, older_than: timedelta | None) -> bool:
    if not _somebody_is_there():
        raise click.UsageError("there is nobody to ask; pass --yes to clear without asking")
    which = "all" if older_than is None else f"what is older than {older_than} of the"
    return click.confirm(f"Remove {which} {_entries(found.entries)} in {printable(str(found.directory))}?")


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _as_json(found: CacheInfo) -> str:
    body = {
        "directory": str(found.directory),
        "reports": found.reports,
        "report_bytes": found.report_bytes,
        "segments": found.segments,
        "segment_bytes": found.segment_bytes,
        "tables": found.tables,
        "table_bytes": found.table_bytes,
        "oldest": found.oldest.isoformat() if found.oldest else None,
        "newest": found.newest.isoformat() if found.newest else None,
    }
    return json.dumps(body, indent=2) + "\n"


def _as_text(found: CacheInfo) -> str:
    lines = [
        f"directory  {printable(str(found.directory))}",
        f"reports    {found.reports:>9,}  {_size(found.report_bytes):>9}",
        f"shards     {found.segments:>9,}  {_size(found.segment_bytes):>9}  decoded",
        f"tables     {found.tables:>9,}  {_size(found.table_bytes):>9}  of guarded streams",
        f"total      {found.entries:>9,}  {_size(found.bytes):>9}",
    ]
    if found.oldest and found.newest:
        lines.append(f"written    {_day(found.oldest)} to {_day(found.newest)}")
    return "\n".join(lines) + "\n"


def _day(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _entries(count: int) -> str:
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
