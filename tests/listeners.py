"""Listeners to progress that tests ask afterwards."""

from __future__ import annotations

from vbdguard.progress import Silent


class Counting(Silent):
    """Counts the steps that it hears of."""

    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        """Add some steps."""
        self.steps += steps
