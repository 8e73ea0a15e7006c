"""The two consoles of a command, and where the log goes."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from vbdguard.escaping import printable

_LOG_WIDTH = 120
"""Of pipes and files, which have none: names should rather be whole than fit a narrow screen."""


def make_console(*, stderr: bool = False, no_color: bool = False) -> Console:
    """Return a console on stdout or stderr that cannot fail on a character which the stream's encoding lacks."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    is_log = not stream.isatty() and not os.environ.get("COLUMNS")
    return Console(
        stderr=stderr,
        width=_LOG_WIDTH if is_log else None,
        no_color=True if no_color else None,
        highlight=False,
        emoji=False,
        markup=False,
    )


@contextmanager
def logging_to(console: Console, *, verbose: bool) -> Iterator[None]:
    """Show vbdguard's log on a console meanwhile: warnings, or with `verbose` all that it says."""
    logger = logging.getLogger("vbdguard")
    handler = _ConsoleHandler(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        line = Text(f"{record.levelname.lower()}: ", "yellow" if record.levelno >= logging.WARNING else "dim")
        self._console.print(line.append(printable(record.getMessage()), "default"), soft_wrap=True)
