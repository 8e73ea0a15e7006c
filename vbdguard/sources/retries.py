"""How often and after which waits a remote store is asked again."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vbdguard.errors import ConfigError

Answer = TypeVar("Answer")

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """The bounds; all times in seconds."""

    attempts: int = 8
    """How many in a row may fail without a single new byte, 1 or more."""
    total: int = 1000
    """How many may fail while one file is open: a server that lets a few bytes through each time ends too."""
    first_delay: float = 0.2
    """The longest wait behind the first failure; it doubles with each one in a row."""
    max_delay: float = 20.0
    max_retry_after: float = 60.0
    """The longest wait that a server may ask for."""
    connect_timeout: float = 20.0
    stall_timeout: float = 30.0
    """How long no byte may come."""

    def __post_init__(self) -> None:
        times = (self.first_delay, self.max_delay, self.max_retry_after, self.connect_timeout, self.stall_timeout)
        if self.attempts < 1 or self.total < 1 or min(times) < 0:
            raise ConfigError(f"expected at least one attempt and no negative times, got {self}")

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Return how long to wait: what the server asks for, up to a limit, else a random part of a growing time.

        The whole time is random ("full jitter"): a hundred workers that were cut off together do not return together.

        Args:
            failures: in a row, 1 or more.
            retry_after: what the server asked for.
        """
        longest = min(self.max_delay, self.first_delay * 2 ** min(failures - 1, 30))
        jitter = random.uniform(0, longest)  # noqa: S311  # nothing is kept secret by it, no result depends on it
        return jitter if retry_after is None else min(retry_after, self.max_retry_after) + min(jitter, 1.0)


class TransientError(Exception):
    """A request failed in a way that may pass.

    Args:
        message: what happened, fit to be shown.
        retry_after: seconds that the server asked to wait for.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, by number or by date; None where it says nothing."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def repeat(ask: Callable[[], Answer], retries: Retries) -> Answer:
    """Return what `ask` returns, asked again while it raises `TransientError`.

    Raises:
        TransientError: the last one, when all attempts have failed.
    """
    for failures in range(1, retries.attempts):
        try:
            return ask()
        except TransientError as error:
            time.sleep(retries.delay(failures, error.retry_after))
    return ask()
