"""What the commands that scan have in common while they work: progress, log, and what they are handed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbdguard.errors import ReportError

from .consoles import logging_to, make_console
from .progress import showing_progress

if TYPE_CHECKING:
    from rich.console import Console

    from vbdguard.progress import Progress
    from vbdguard.report import ScanReport


@contextmanager
def at_work(options: Mapping[str, Any]) -> Iterator[tuple[Console, Progress]]:
    """Yield the console on stderr and what hears of progress there, as --quiet, --verbose and --no-color want it."""
    console = make_console(stderr=True, no_color=options["no_color"])
    with (
        logging_to(console, verbose=options["verbose"]),
        showing_progress(console, quiet=options["quiet"]) as progress,
    ):
        yield console, progress


def one_or_all(sources: tuple[str, ...]) -> str | list[str]:
    """Return what was typed as SOURCE... in the form that a scan takes."""
    return sources[0] if len(sources) == 1 else list(sources)


def saved_report(path: Path | None) -> ScanReport | None:
    """Return the report in a file; None for None.

    Raises:
        ReportError: if the file holds none.
    """
    if path is None:
        return None
    return report_from(path.read_bytes(), str(path))


def report_from(content: bytes, name: str) -> ScanReport:
    """Return the report that the bytes of a file hold.

    Raises:
        ReportError: if they hold none; it names the file.
    """
    from vbdguard.report import ScanReport

    try:
        return ScanReport.from_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReportError(
            f"{name}: expected a vbdguard report as JSON, got something that is no text; "
            "name a file that `vbdguard scan -o FILE.json` wrote"
        ) from error
    except ReportError as error:
        raise ReportError(f"{name}: {error}") from error
