"""The options of a scan and of its cache, for every command that scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from vbdguard.config import SHARD_TIMEOUT, WORKER_MEMORY, FolderRule, Preset, ScanConfig
from vbdguard.engines.base import EngineName

from .options import parse_image_size
from .settings_option import settings_option

Command = TypeVar("Command", bound=Callable[..., Any])

SCAN_SECTIONS = {
    "What to scan": ["label_key", "folder_rule", "image_size", "run_commands"],
    "Where to read": ["engine", "jobs"],
    "How to scan": ["preset", "seed", "device", "config"],
    "Limits": ["shard_timeout", "worker_memory"],
}
"""Where `SectionedCommand` lists `scan_options`."""
CACHE_SECTION = ["cache_dir", "no_cache", "refresh"]


def scan_options(command: Command) -> Command:
    """Add the options that `scan_config` turns into settings."""
    return with_options(
        settings_option(command),
        label_options,
        click.option(
            "--run-commands",
            is_flag=True,
            help="Run sources named `pipe:...` as shell commands, with all that you may do.",
        ),
        click.option(
            "--image-size",
            metavar="N|HxW",
            callback=parse_image_size,
            help="Scan at this size in pixels.  [default: taken from the data]",
        ),
        click.option(
            "--engine",
            type=click.Choice(get_args(EngineName)),
            default="local",
            show_default=True,
            help="Where the data are read: processes of this machine, or tasks of a Ray cluster (extra `ray`).",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            help="Shards that are read at once.  [default: one per core, or all that a Ray cluster has]",
        ),
        click.option(
            "--preset",
            type=click.Choice(get_args(Preset)),
            default="default",
            show_default=True,
            help="`default` measures best; `paper` has the published settings.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**32 - 1),
            metavar="N",
            default=0,
            show_default=True,
            help="Seed of all chance.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="DEVICE",
            help="`auto` (takes an earlier report of any), `cpu`, `cuda`, `cuda:N`, or `mps` (preset `paper`).",
        ),
        click.option(
            "--shard-timeout",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            default=SHARD_TIMEOUT,
            show_default=True,
            help="Give up a shard that takes longer to read.",
        ),
        click.option(
            "--worker-memory",
            type=click.IntRange(min=512),
            metavar="MB",
            default=WORKER_MEMORY,
            show_default=True,
            help="Memory that each reading process may take.",
        ),
    )


def label_options(command: Command) -> Command:
    """Add the options that say which labels a source has."""
    return with_options(
        command,
        click.option(
            "--label-key", metavar="KEY", help="Tar member suffix, JSON key, column or array that holds the label."
        ),
        click.option(
            "--folder-rule",
            type=click.Choice(get_args(FolderRule)),
            help="Whose rule labels a folder of images.  [default: asks where they differ]",
        ),
    )


def cache_options(command: Command) -> Command:
    """Add the options that `cache_settings` turns into arguments of a scan."""
    return with_options(
        command,
        click.option(
            "--cache-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Where to keep results.  [default: $VBDGUARD_CACHE or the platform's cache]",
        ),
        click.option("--no-cache", is_flag=True, help="Read no earlier result and keep none."),
        click.option("--refresh", is_flag=True, help="Scan again although there is a result, and replace it."),
    )


def scan_config(options: Mapping[str, Any]) -> ScanConfig:
    """Return the settings of a scan.

    Raises:
        ConfigError: if a value is out of range.
    """
    what = ("preset", "seed", "device", "image_size", "label_key", "folder_rule", "run_commands")
    how = ("engine", "jobs", "shard_timeout", "worker_memory")
    return ScanConfig(**{name: options[name] for name in (*what, *how)})


def cache_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `cache_dir`, `use_cache` and `refresh` as `vbdguard.scan` takes them."""
    return {
        "cache_dir": options["cache_dir"],
        "use_cache": not options["no_cache"],
        "refresh": options["refresh"],
    }


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other: of a scan, of its output, and --report where there is one.

    Raises:
        UsageError: that says which of the two to drop.
    """
    if options["quiet"] and options["verbose"]:
        raise click.UsageError("--quiet and --verbose contradict each other; pass one")
    if options["no_cache"] and (options["refresh"] or (options["cache_dir"] and _is_typed("cache_dir"))):
        raise click.UsageError("--no-cache uses no cache; drop it, or drop --refresh and --cache-dir")
    if options.get("report") is not None and options["refresh"]:
        raise click.UsageError("--refresh scans again, --report goes by an earlier scan; pass one")


def _is_typed(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Add options in the order in which they are given."""
    # As stacked decorators would: the last one is applied first.
    for option in reversed(options):
        command = option(command)
    return command
