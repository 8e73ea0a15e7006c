"""Show how far a scan is: a bar in a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from vbdguard.escaping import printable
from vbdguard.progress import Progress, Silent
from vbdguard.wording import STAGE_WORDS, seconds_words

_SECONDS_BETWEEN_LINES = 30.0
"""A log should show that a long stage is alive, and no more."""


@contextmanager
def showing_progress(console: Console, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield a listener that shows a scan's stages on `console`, which should be that of stderr."""
    if quiet:
        yield Silent()
    elif console.is_interactive and not console.no_color:  # who wants no colour reads a log, or has it read out
        with _bars(console) as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress(console)


class BarProgress:
    """One line that moves: the stage, a bar, the count, the rate, the time passed and the time to come."""

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
    """A line when a stage begins, one when it ends, and one now and then in between, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: str | None = None
        self._total: int | None = None
        self._done = 0
        self._started = self._said = 0.0

    def begin(self, stage: str, total: int | None) -> None:
        """Say what starts, and how much it is."""
        self.end()
        self._stage, self._total, self._done = stage, total, 0
        self._started = self._said = time.monotonic()
        self._say(f"{_words(stage)} ..." if total is None else f"{_words(stage)} ({total:,} steps) ...")

    def advance(self, steps: int = 1) -> None:
        """Count; say how far it is where nothing was said for long."""
        self._done += steps
        now = time.monotonic()
        if self._stage is not None and now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            self._say(f"{_words(self._stage)}: {standing(self._done, self._total, now - self._started)}")

    def end(self) -> None:
        """Say what ended, and how long it took."""
        if self._stage is not None:
            count = f"{self._done:,} " if self._done else ""  # some stages count no steps
            self._say(f"{_words(self._stage)}: {count}done in {time.monotonic() - self._started:.1f} s")
            self._stage = None

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def standing(done: int, total: int | None, seconds: float) -> str:
    """Return how far a stage is, how fast it goes, and how long it will take: `500 of 2,000 (25%), 10/s, 150.0 s left`.

    Args:
        done: steps so far.
        total: all steps; None where that is not known.
        seconds: how long it has been going.
    """
    rate = done / seconds if seconds > 0 else 0.0
    if not total:
        return f"{done:,} done, {rate_words(rate)}"
    left = f", {seconds_words((total - done) / rate)} left" if rate and done < total else ""
    return f"{done:,} of {total:,} ({done / total:.0%}), {rate_words(rate)}{left}"


def rate_words(rate: float) -> str:
    """Return steps per second, or per minute where that is less than one."""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"


class _RateColumn(ProgressColumn):
    """How many steps are done in a second."""

    def render(self, task: Task) -> Text:
        """Return the rate, nothing before the first step."""
        rate = task.finished_speed or task.speed
        return Text("" if not rate else rate_words(rate), "progress.data.speed")


def _words(stage: str) -> str:
    return STAGE_WORDS.get(stage, printable(stage))


def _bars(console: Console) -> Bars:
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        transient=True,
        expand=True,
    )
