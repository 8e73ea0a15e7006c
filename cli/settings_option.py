"""`--config`: settings from a file become the defaults of a command's options."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vbdguard.escaping import printable

Command = TypeVar("Command", bound=Callable[..., Any])

_META = "vbdguard.settings"
_READ_ONLY = {"scan": {"receipt"}, "merge": {"receipt"}}
"""The receipt of a project is checked where it stands, but a scan of something else must not write over it."""


def settings_option(command: Command) -> Command:
    """Add `--config`: what stands in the file counts wherever the option of that name is not typed.

    A command that goes by a file says so on stderr, unless it is quiet.
    """

    @functools.wraps(command)
    def told(*args: Any, **options: Any) -> Any:
        ctx = click.get_current_context()
        if (line := _settings_line(ctx)) and not ctx.params.get("quiet"):
            click.echo(line, err=True)
        return command(*args, **options)

    return click.option(
        "--config",
        metavar="FILE|none",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="Settings file; `none` reads none.  [default: the nearest vbdguard.toml or pyproject.toml]",
    )(told)  # type: ignore[return-value]


def file_that_set(ctx: click.Context, name: str | None) -> Path | None:
    """Return the settings file that gave an option its value; None where it is typed, or the default.

    Args:
        ctx: of the command.
        name: the option's name as a parameter, such as `image_size`.
    """
    found: tuple[Path, dict[str, Any]] | None = ctx.meta.get(_META)
    if found is None or name is None or ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT_MAP:
        return None
    return found[0]


def settings_error(error: click.UsageError) -> str | None:
    """Return what to say of a value that a settings file gave; None where the command line is to blame."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return None
    path = file_that_set(error.ctx, error.param.name)
    return None if path is None else f"{path}: {(error.param.name or '').replace('_', '-')}: {error.message}"


def _settings_line(ctx: click.Context) -> str | None:
    """Return one line that says which file set what for this command; None where none did."""
    found: tuple[Path, dict[str, Any]] | None = ctx.meta.get(_META)
    if found is None or not found[1]:
        return None
    path, values = found
    shown = ", ".join(f"{name} = {value}" for name, value in sorted(values.items()))
    return printable(f"Settings of {os.path.relpath(path)}: {shown}")


def _load(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if ctx.resilient_parsing or value == "none":
        return
    from vbdguard.settings import find_settings, read_settings

    settings = find_settings() if value is None else read_settings(Path(value))
    names = {option.removeprefix("--"): param.name for param in ctx.command.params for option in param.opts}
    for name in _READ_ONLY.get(ctx.command.name or "", ()):
        names.pop(name, None)
    if os.environ.get("VBDGUARD_CACHE"):
        names.pop("cache-dir", None)  # what holds for this run wins over what holds for the project
    known = {name: setting for name, setting in settings.values.items() if name in names}
    ctx.default_map = {str(names[name]): setting for name, setting in known.items()}
    if settings.path is not None:
        ctx.meta[_META] = settings.path, known
