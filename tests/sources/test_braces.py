"""Brace patterns: the library's paths, counted before they are written out."""

from __future__ import annotations

import time

import pytest
from braceexpand import UnbalancedBracesError, braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from vbdguard.errors import SourceError
from vbdguard.sources.braces import MAX_PATHS, count_paths, expand_braces

PIECES = st.sampled_from(
    [
        "a",
        ",",
        "{",
        "}",
        "{1..3}",
        "{07..10..2}",
        "{b..d}",
        "{Y..c..2}",
        "{e..Z}",
        "{x,y}",
        "{",
        ",z}",
        "\\{",
        "..",
        "{3..1}",
    ]
)


@given(st.lists(PIECES, max_size=5).map("".join))
@settings(max_examples=200, deadline=None)
def test_count_is_that_of_what_the_library_writes(pattern: str) -> None:
    try:
        written = list(braceexpand(pattern))
    except UnbalancedBracesError:
        with pytest.raises(SourceError, match="braces do not match"):
            expand_braces(pattern)
        return
    except IndexError:  # the library's own fault on a lone backslash
        return
    try:
        count = count_paths(pattern)
    except SourceError:  # closed before it is opened: the library lets it pass, as no path that could exist
        return
    assert len(written) == count
    assert expand_braces(pattern) == written


@pytest.mark.parametrize(
    "pattern",
    [
        "{a,b}" * 40,
        "{0..99999999999999}",
        "{0..400}{0..400}",
        "{" * 18 + "a" + ",b}" * 18 + "{0..9}" * 5,
        "{a,{b,{c,{d,{e,f}}}}}" * 12,
    ],
)
def test_pattern_of_too_many_paths_is_refused_at_once(pattern: str) -> None:
    start = time.perf_counter()
    with pytest.raises(SourceError, match=f"more than {MAX_PATHS} shards"):
        expand_braces(pattern)
    assert time.perf_counter() - start < 0.5


def test_pattern_that_is_no_path_any_more_is_refused() -> None:
    with pytest.raises(SourceError, match="at most 4096 characters"):
        expand_braces("{a,b}" * 1000)
    with pytest.raises(SourceError, match="nested at most 20 deep"):
        expand_braces("{" * 30 + "}" * 30)
    with pytest.raises(SourceError, match="more than"):
        expand_braces("{1..20000}" + "x" * 4000)


def test_path_without_braces_is_itself() -> None:
    assert expand_braces("a b/c,d.tar") == ["a b/c,d.tar"]
