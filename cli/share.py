"""`vbdguard scan --shard i/N --partial FILE`: one job of several reads its share; `vbdguard merge` makes the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbdguard.escaping import printable

from .options import parse_receipt
from .scan_options import Command, cache_settings, scan_config, with_options

if TYPE_CHECKING:
    from vbdguard.ingest.shares import Share

SHARE_SECTION = ["shard", "partial"]
"""Where `SectionedCommand` lists `share_options`."""
_OF_REPORTS = ("output", "format_", "receipt", "baseline", "fail_on", "exit_zero", "allow_unreadable", "refresh")
_SHOWN = 5


def share_options(command: Command) -> Command:
    """Add the options that `read_share` goes by."""
    return with_options(
        command,
        click.option(
            "--shard",
            metavar="i/N",
            callback=_parse_share,
            help="Read only the i-th of N shares of the shards, such as 3/8; needs --partial.",
        ),
        click.option(
            "--partial",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            callback=parse_receipt,
            help="Write what was read to FILE, for `vbdguard merge`, and judge nothing.",
        ),
    )


def _parse_share(_: click.Context, __: click.Parameter, value: str | None) -> Share | None:
    if value is None:
        return None
    from vbdguard.errors import ConfigError
    from vbdguard.ingest.shares import Share

    try:
        return Share.parse(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def read_share(ctx: click.Context, sources: tuple[str, ...], options: dict[str, Any]) -> int:
    """Read a share, say what was read, and return the exit code: 0, or 2 where not everything could be read."""
    _check(ctx, options)
    from vbdguard.ingest.shares import Share
    from vbdguard.partial_scans import scan_share

    from .at_work import at_work, one_or_all

    settings = cache_settings(options)
    del settings["refresh"]
    share = options["shard"] or Share()
    with at_work(options) as (_, progress):
        read = scan_share(
            one_or_all(sources), share, options["partial"], scan_config(options), progress=progress, **settings
        )
    if not options["quiet"]:
        what = f"share {read.share}, {read.shards:,} shards, {read.samples:,} samples"
        click.echo(f"Wrote {options['partial']}: {what}", err=True)
    for entry in read.skipped[:_SHOWN]:
        click.echo(printable(f"Not read: {entry.key}: {entry.reason}: {entry.detail}"), err=True)
    if len(read.skipped) > _SHOWN:
        click.echo(f"Not read: {len(read.skipped) - _SHOWN:,} more, which the merged report names", err=True)
    return 2 if read.skipped else 0


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse what a share of the data cannot answer.

    Raises:
        UsageError: that says which option to drop, or to add.
    """
    if options["partial"] is None:
        raise click.UsageError("--shard reads a share of the data and judges nothing: name a file with --partial FILE")
    source = ctx.get_parameter_source
    typed = [name for name in _OF_REPORTS if source(name) is click.core.ParameterSource.COMMANDLINE]
    if typed:
        option = next(param.opts[0] for param in ctx.command.params if param.name == typed[0])
        raise click.UsageError(f"--partial writes no report: drop {option}, or give it to `vbdguard merge`")
