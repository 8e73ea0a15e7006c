"""Show how far a scan is: a bar in a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from vbdguard.escaping import printable
from vbdguard.progress import Progress, Silent
from vbdguard.wording import STAGE_WORDS


@contextmanager
def showing_progress(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield a listener that shows a scan's stages on `console`, which should be that of stderr."""
    if quiet:
        yield Silent()
    elif console.is_interactive:
        with _bars(console) as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress(console)


class BarProgress:
    """One line that moves: the stage, a bar, the count, the time passed and the time to come."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, stage: str, total: int | None) -> None:
        """Start the line of a stage."""
        self.end()
        self._task = self._bars.add_task(_words(stage), total=total)

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def end(self) -> None:
        """Take the line away."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class LineProgress:
    """A line when a stage begins and one when it ends, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: str | None = None
        self._done = 0
        self._started = 0.0

    def begin(self, stage: str, total: int | None) -> None:
        """Say what starts, and how much it is."""
        self.end()
        self._stage, self._done, self._started = stage, 0, time.monotonic()
        self._say(f"{_words(stage)} ..." if total is None else f"{_words(stage)} ({total:,} steps) ...")

    def advance(self, steps: int = 1) -> None:
        """Count, silently."""
        self._done += steps

    def end(self) -> None:
        """Say what ended, and how long it took."""
        if self._stage is not None:
            self._say(f"{_words(self._stage)}: {self._done:,} done in {time.monotonic() - self._started:.1f} s")
            self._stage = None

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _words(stage: str) -> str:
    return STAGE_WORDS.get(stage, printable(stage))


def _bars(console: Console) -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        transient=True,
        expand=True,
    )
