"""Waits grow, are random, follow the server within limits, and end."""

from __future__ import annotations

import pytest
from faulty_store import http_date

from vbdguard.errors import ConfigError
from vbdguard.sources.retries import Retries, TransientError, repeat, retry_after_seconds


def test_waits_grow_with_the_failures_up_to_a_limit() -> None:
    retries = Retries(first_delay=0.5, max_delay=4)
    longest = [max(retries.delay(failures) for _ in range(500)) for failures in (1, 2, 3, 4, 5, 2000)]
    assert longest == pytest.approx([0.5, 1, 2, 4, 4, 4], rel=0.1)
    assert min(retries.delay(5) for _ in range(500)) < 0.2  # workers cut off together do not return together


def test_the_server_says_how_long_to_wait_within_a_limit() -> None:
    retries = Retries(first_delay=0, max_retry_after=10)
    assert retries.delay(1, 3.0) == 3
    assert retries.delay(1, 86_400.0) == 10


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), (" 0 ", 0), (None, None), ("soon", None), ("-1", None)])
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after_seconds(http_date(30)) == pytest.approx(30, abs=2)
    assert retry_after_seconds(http_date(-30)) == 0


def test_what_keeps_failing_is_raised_after_so_many_attempts() -> None:
    asked = []

    def ask() -> int:
        asked.append(1)
        if len(asked) < 4:
            raise TransientError("not now")
        return 7

    with pytest.raises(TransientError, match="not now"):
        repeat(ask, Retries(attempts=3, first_delay=0))
    assert len(asked) == 3
    assert repeat(ask, Retries(attempts=1)) == 7


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"total": 0}, {"first_delay": -1.0}, {"stall_timeout": -1.0}])
def test_bounds_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least one attempt"):
        Retries(**wrong)  # type: ignore[arg-type]
