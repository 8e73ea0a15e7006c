from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from vbdguard.cli.progress import STAGE_WORDS, LineProgress, showing_progress, standing
from vbdguard.progress import Progress, Silent
from vbdguard.report import STAGES


def work(progress: Progress) -> None:
    progress.begin("ingest", 3)
    for _ in range(3):
        progress.advance()
    progress.end()
    progress.begin("suspects", None)
    progress.advance(7)
    progress.end()


def shown(*, terminal: bool, quiet: bool = False, term: str = "xterm-256color") -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, _environ={"TERM": term})
    with showing_progress(console, quiet=quiet) as progress:
        work(progress)
    return file.getvalue()


def test_every_stage_has_words() -> None:
    assert set(STAGE_WORDS) == set(STAGES)


def test_a_pipe_gets_a_line_when_a_stage_begins_and_when_it_ends() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "Reading the data (3 steps) ..."
    assert lines[1].startswith("Reading the data: 3 done in ")
    assert lines[2] == "Testing each class for a trigger ..."
    assert lines[3].startswith("Testing each class for a trigger: 7 done in ")
    assert len(lines) == 4


def test_a_dumb_terminal_gets_lines_too() -> None:
    assert "3 done in" in shown(terminal=True, term="dumb")


def test_without_colour_a_terminal_gets_lines_too() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, no_color=True, _environ={"TERM": "xterm-256color"})
    with showing_progress(console) as progress:
        work(progress)
    assert len(file.getvalue().splitlines()) == 4
    assert "\x1b" not in file.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    text = shown(terminal=True)
    assert "Reading the data" in text
    assert "0/3" in text
    assert "done in" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool) -> None:
    assert shown(terminal=terminal, quiet=True) == ""


def test_quiet_listens_to_nothing() -> None:
    with showing_progress(Console(file=io.StringIO()), quiet=True) as progress:
        assert isinstance(progress, Silent)


def test_a_stage_that_was_not_ended_ends_when_the_next_begins() -> None:
    file = io.StringIO()
    progress = LineProgress(Console(file=file, width=100))
    progress.begin("ingest", 3)
    progress.begin("ensemble", 3)
    progress.end()
    progress.end()
    assert len(file.getvalue().splitlines()) == 4


def test_a_long_stage_shows_now_and_then_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("vbdguard.cli.progress.time.monotonic", lambda: clock[0])
    file = io.StringIO()
    progress = LineProgress(Console(file=file, width=100))
    progress.begin("ingest", 2000)
    for _ in range(10):
        clock[0] += 10
        progress.advance(100)
    progress.end()
    assert file.getvalue().splitlines() == [
        "Reading the data (2,000 steps) ...",
        "Reading the data: 300 of 2,000 (15%), 10/s, 2 min 50 s left",
        "Reading the data: 600 of 2,000 (30%), 10/s, 2 min 20 s left",
        "Reading the data: 900 of 2,000 (45%), 10/s, 110.0 s left",
        "Reading the data: 1,000 done in 100.0 s",
    ]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "words"),
    [
        (500, 2000, 50.0, "500 of 2,000 (25%), 10/s, 2 min 30 s left"),
        (3, None, 2.0, "3 done, 1.5/s"),
        (1, 4, 120.0, "1 of 4 (25%), 0.5/min, 6 min 0 s left"),
        (0, 4, 60.0, "0 of 4 (0%), 0.0/min"),
        (4, 4, 2.0, "4 of 4 (100%), 2.0/s"),
        (0, 0, 0.0, "0 done, 0.0/min"),
    ],
)
def test_standing_tells_share_rate_and_time_to_come(done: int, total: int | None, seconds: float, words: str) -> None:
    assert standing(done, total, seconds) == words


def test_a_terminal_gets_the_rate() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with showing_progress(console) as progress:
        progress.begin("ingest", 1000)
        for _ in range(5):
            progress.advance(10)
            time.sleep(0.15)
    assert re.search(r"\d+/s", file.getvalue())


def test_an_unknown_stage_is_shown_by_its_name() -> None:
    file = io.StringIO()
    LineProgress(Console(file=file, width=100)).begin("polish\x1b", 1)
    assert file.getvalue() == "polish\\x1b (1 steps) ...\n"
