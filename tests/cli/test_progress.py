from __future__ import annotations

import io

import pytest
from rich.console import Console

from vbdguard.cli.progress import STAGE_WORDS, LineProgress, showing_progress
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


def test_an_unknown_stage_is_shown_by_its_name() -> None:
    file = io.StringIO()
    LineProgress(Console(file=file, width=100)).begin("polish\x1b", 1)
    assert file.getvalue() == "polish\\x1b (1 steps) ...\n"
