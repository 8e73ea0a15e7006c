"""How long work tells the outside where it stands; the core itself prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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


_listener: ContextVar[Progress | None] = ContextVar("vbdguard_listener", default=None)


def current_listener() -> Progress:
    """Return who hears of scans that nobody handed a listener: the one of `heard_by`, else `Silent`."""
    return _listener.get() or Silent()


@contextmanager
def heard_by(listener: Progress) -> Iterator[None]:
    """Let `listener` hear of the scans that guards start meanwhile, deep inside a dataset or a loader."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
