from __future__ import annotations

from vbdguard.hooks.progress_lines import ProgressLines
from vbdguard.progress import current_listener, heard_by


def test_a_line_says_the_stage_and_how_far_it_is() -> None:
    lines: list[str] = []
    listener = ProgressLines(lines.append, every=0.0)
    listener.begin("ingest", 1200)
    listener.advance(1100)
    listener.end()
    assert lines[-1] == "vbdguard: Reading the data, 1,100 of 1,200\n"


def test_a_stage_of_unknown_length_counts_only() -> None:
    lines: list[str] = []
    listener = ProgressLines(lines.append, every=0.0)
    listener.begin("ensemble", None)
    listener.advance()
    assert lines[-1] == "vbdguard: Training simple models, 1\n"


def test_work_that_is_done_soon_says_nothing() -> None:
    lines: list[str] = []
    listener = ProgressLines(lines.append, every=3600.0)
    for stage in ("ingest", "ensemble"):
        listener.begin(stage, 10)
        for _ in range(10):
            listener.advance()
        listener.end()
    assert lines == []


def test_scans_meanwhile_are_heard_and_later_ones_are_not() -> None:
    listener = ProgressLines(lambda _: None)
    with heard_by(listener):
        assert current_listener() is listener
    assert current_listener() is not listener
