"""Kinds of option values that several commands share, and help in sections."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from vbdguard.config import LARGEST_SIDE, SMALLEST_SIDE
from vbdguard.formats.rendering import SUFFIXES, format_of


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings.

    Args:
        sections: heading to the names of its options, in order; options named nowhere go under "Other".
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options per heading."""
        left = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        for heading, names in self._sections.items():
            self._write_section(ctx, formatter, heading, [left.pop(name) for name in names])
        self._write_section(ctx, formatter, "Other", list(left.values()))

    @staticmethod
    def _write_section(
        ctx: click.Context, formatter: click.HelpFormatter, heading: str, params: Sequence[click.Parameter]
    ) -> None:
        records = [record for param in params if (record := param.get_help_record(ctx)) is not None]
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


def parse_percent(_: click.Context, __: click.Parameter, value: str | float) -> float:
    """Return `N` or `N%` as a number from 0 to 100."""
    try:
        percent = float(str(value).removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise click.BadParameter(f"expected a percentage from 0 to 100 such as 1%, got {value!r}")
    return percent


def parse_image_size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return `N` or `HxW` as (height, width)."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", value, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"expected pixels as N or HxW, such as 32 or 48x64, got {value!r}")
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (height, width)):
        raise click.BadParameter(f"expected {SMALLEST_SIDE} to {LARGEST_SIDE} pixels a side, got {value}")
    return height, width


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_age(_: click.Context, __: click.Parameter, value: str | None) -> timedelta | None:
    """Return a length of time such as `30d`, `12h` or `2w`."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,5})([mhdw])", value)
    if match is None:
        raise click.BadParameter(f"expected a number with m, h, d or w, such as 30d or 12h, got {value!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_outputs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the files to write a report to, checked before any work is done."""
    paths = tuple(Path(value) for value in values)
    for path in paths:
        if format_of(path) is None:
            known = ", ".join(SUFFIXES)
            raise click.BadParameter(
                f"{path}: expected a file that ends in one of: {known}; got {path.suffix or 'none'!r}"
            )
        _check_writable(path)
    return paths


def parse_receipt(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Return the file to write a receipt to, checked before any work is done."""
    if path is not None:
        _check_writable(path)
    return path


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise click.BadParameter(f"{path}: expected a file, this is a directory")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"{path}: its directory does not exist or cannot be written to; create it first")
