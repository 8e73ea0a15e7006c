"""Tables in a Markdown file, between two lines that say who writes them: none is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """Return the lines between which the tables of a module of this package stand, such as "speed"."""
    return f"<!-- tables of benchmarks.{name}, written by it -->", f"<!-- end of the tables of benchmarks.{name} -->"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; an empty text where there is no row."""
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def with_tables(document: str, tables: str, name: str) -> str:
    """Return a document with the tables of a module between its two markers.

    Raises:
        ValueError: if the markers do not stand in it, once each and in order.
    """
    begin, end = markers(name)
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if document.count(begin) != 1 or len(pattern.findall(document)) != 1:
        raise ValueError(f"expected the lines {begin!r} and {end!r} once each; put them where the tables belong")
    return pattern.sub(lambda _: f"{begin}\n{tables}\n{end}", document)


def put(tables: str, document: Path | None, name: str) -> None:
    """Write the tables of a module into a document; without one, print them.

    Raises:
        ValueError: if the document has no place for them.
        OSError: if it cannot be read or written.
    """
    if document is None:
        print(tables)
    else:
        document.write_text(with_tables(document.read_text(), tables, name))
