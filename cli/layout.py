"""Sections and tables of the text report, and what a console can show."""

from __future__ import annotations

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def print_section(console: Console, title: str, *body: RenderableType, spaced: bool = False) -> None:
    """Print a heading and what stands below it, indented; with `spaced` a blank line between its parts."""
    console.print()
    console.print(Text(title, "bold cyan"))
    for i, part in enumerate(body):
        if spaced and i:
            console.print()
        console.print(Padding.indent(part, 2))


def make_table(console: Console, *headers: str) -> Table:
    """Return a table with a rule below its head; headers that start with ">" name right-aligned columns."""
    # the box brings a space of its own between columns
    shape, gap = (box.SIMPLE_HEAD, 1) if has_colour(console) else (None, 2)
    table = Table(box=shape, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header.removeprefix(">"), justify="right" if header.startswith(">") else "left")
    return table


def has_colour(console: Console) -> bool:
    """Return whether a console shows colours."""
    return console.color_system is not None and not console.no_color


def draws(console: Console) -> bool:
    """Return whether a console can show half blocks in colour."""
    return has_colour(console) and not console.options.ascii_only
