"""How far a scan is, in plain lines a few seconds apart: training logs are files more often than terminals."""

from __future__ import annotations

import time
from collections.abc import Callable

from vbdguard.wording import STAGE_WORDS

EVERY_SECONDS = 5.0


class ProgressLines:
    """A listener that writes one line per few seconds, and none where the scan is done before.

    Args:
        write: takes a line with its newline.
        every: seconds between lines.
    """

    def __init__(self, write: Callable[[str], object], *, every: float = EVERY_SECONDS) -> None:
        self._write = write
        self._every = every
        self._last = time.monotonic()
        self._stage = ""
        self._total: int | None = None
        self._done = 0

    def begin(self, stage: str, total: int | None) -> None:
        """Note the stage; it is named in the next line."""
        self._stage, self._total, self._done = STAGE_WORDS.get(stage, stage), total, 0
        self._write_if_due()

    def advance(self, steps: int = 1) -> None:
        """Count."""
        self._done += steps
        self._write_if_due()

    def end(self) -> None:
        """Do nothing: the next stage or the summary follows."""

    def _write_if_due(self) -> None:
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        of = "" if self._total is None else f" of {self._total:,}"
        self._write(f"vbdguard: {self._stage}, {self._done:,}{of}\n")
