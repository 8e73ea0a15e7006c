"""How long work tells the outside where it stands; the core itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener for the stages of a scan; `cli.terminal` draws one, `Silent` ignores them."""

    def begin(self, stage: str, total: int | None) -> None:
        """Start a stage of `total` steps (None: not known beforehand)."""

    def advance(self, steps: int = 1) -> None:
        """Count steps of the current stage as done."""

    def end(self) -> None:
        """Close the current stage."""


class Silent:
    """The progress listener that listens to nothing."""

    def begin(self, stage: str, total: int | None) -> None:
        """Ignore the start of a stage."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def end(self) -> None:
        """Ignore the end of the stage."""
