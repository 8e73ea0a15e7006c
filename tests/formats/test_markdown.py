from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from vbdguard.findings import findings_of
from vbdguard.formats.markdown import _code
from vbdguard.formats.rendering import Extras, render
from vbdguard.report import ScanReport

OURS = {"<details><summary>", "</summary>", "</details>", "<sub>", "</sub>"}


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def kinds(text: str) -> set[str]:
    return {token.type for token in tokens(text)}


def test_the_verdict_heads_the_summary(poisoned: ScanReport, clean: ScanReport, incomplete: ScanReport) -> None:
    assert render(poisoned, "markdown").startswith("## :x: vbdguard: poisoned\n")
    assert render(clean, "markdown").startswith("## :white_check_mark: vbdguard: clean\n")
    text = render(incomplete, "markdown")
    assert text.startswith("## :warning: vbdguard: incomplete\n")
    assert "not cleared" in text
    assert "train-000001.tar/img_12" in text


def test_the_table_says_class_samples_trigger_and_certainty(poisoned: ScanReport) -> None:
    text = render(poisoned, "markdown")
    row = next(line for line in text.splitlines() if "thing3" in line)
    assert row == (
        "| 3 `thing3` | 8 of 100 (8.0%) | 3 x 3 bottom right, blend 100% | p = 1e-12, turns 98.7% of other images |"
    )
    assert "| `shards/train-000000.tar` | 8 |" in text
    assert "- `vbdguard clean shards/ clean/` a copy without them" in text


def test_an_accepted_finding_says_so(poisoned: ScanReport) -> None:
    (finding,) = findings_of(poisoned)
    assert "| accepted: `a drill` |" in render(poisoned, "markdown", Extras({finding.digest: "a drill"}))


def test_a_suspicious_class_is_named(suspicious: ScanReport) -> None:
    assert "Suspicious, short of proof: 2 `thing2` (p = 0.004)" in render(suspicious, "markdown")


def test_an_artefact_is_told_as_no_poison(marked: ScanReport) -> None:
    text = render(marked, "markdown")
    assert "vbdguard: clean" in text
    assert "Artefacts, no alarm" in text
    assert "- 2 `thing2`: 3 x 3 bottom right, on 80 of 100 samples" in text


def test_names_from_the_data_are_code_and_nothing_else(evil: ScanReport, poisoned_and_incomplete: ScanReport) -> None:
    text = render(evil, "markdown")
    plain = [token.content for token in tokens(text) if token.type == "text"]
    assert not any("evil" in content or "alert" in content or "someone" in content for content in plain)
    assert kinds(text) <= kinds(render(poisoned_and_incomplete, "markdown")) | {"softbreak"}
    html = [token.content.strip() for token in tokens(text) if token.type in ("html_block", "html_inline")]
    assert all(content.startswith(("<details><summary>", "</details>", "<sub>", "</sub>")) for content in html)
    assert not any("script" in content for content in html)


def test_rows_keep_their_columns_whatever_the_names(evil: ScanReport) -> None:
    widths: list[int] = []
    for token in tokens(render(evil, "markdown")):
        if token.type == "tr_open":
            widths.append(0)
        if token.type in ("th_open", "td_open"):
            widths[-1] += 1
    assert widths == [4, 4, 4, 2, 2, 4, *[4] * 10]


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=30))
def test_a_code_span_is_one_span_whatever_is_in_it(text: str) -> None:
    cell = _code(text)
    (body,) = [token for token in tokens(f"| a | b |\n|---|---|\n| {cell} | x |\n") if token.type == "code_inline"]
    assert "\n" not in body.content
    row = [token for token in tokens(f"| a | b |\n|---|---|\n| {cell} | x |\n") if token.type == "td_open"]
    assert len(row) == 2


@pytest.mark.parametrize("count", [1000])
def test_a_huge_report_has_a_short_summary(count: int, huge: ScanReport) -> None:
    text = render(huge, "markdown")
    assert len(text) < 30_000
    assert "... and 950 more classes" in text


def test_the_command_to_scan_again_is_there(make_report: Callable[..., ScanReport], make_trigger: Any) -> None:
    text = render(make_report({3: make_trigger()}, seed=7), "markdown")
    assert "again: `vbdguard scan shards/ --seed 7 --device cpu`" in text
