from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbdguard.escaping import printable, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("train-0.tar/größe 猫", "train-0.tar/größe 猫"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("two\nlines\r", r"two\nlines\r"),
        ("gpj.\u202etxt", r"gpj.\u202etxt"),
        ("bad\udc80name", r"bad\udc80name"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
    ],
    ids=["letters stay", "escape", "line ends", "direction mark", "surrogate", "markup"],
)
def test_only_visible_characters_are_shown_as_they_are(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_whatever_comes_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()


def test_a_name_cannot_flood_the_screen() -> None:
    shown = printable("a" * 100_000 + "b")
    assert len(shown) < 500
    assert shown.startswith("aaa")
    assert shown.endswith("b")
    assert "more" in shown


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("::add-mask::x", r"\x3a:add-mask\x3a:x"),
        ("a/:::error", r"a/\x3a\x3a:error"),
        ("##[command]rm", r"\x23#[command]rm"),
        ("a ##VSO[task.setvariable]x", r"a \x23#VSO[task.setvariable]x"),
        ("##teamcity[x]", r"\x23#teamcity[x]"),
        ("a:b #1 ##2", "a:b #1 ##2"),
    ],
)
def test_a_name_gives_no_orders_to_a_ci_runner(key: str, shown: str) -> None:
    # "::" is obeyed at the beginning of a line only, but a table may fold a name anywhere
    assert printable(key) == shown


def test_visible_text_is_neither_cut_nor_taken_for_orders() -> None:
    assert visible("a" * 1000 + "::b\n") == "a" * 1000 + "::b\\n"
