"""Every hostile or broken input: no crash, no hang, no gigabyte, no foreign code, and never clean."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_corpus import CASES
from hostile_corpus.making import Case

MAX_SECONDS = 10
MAX_MEGABYTES = 1000
WHOLE = 24
"""Samples that are whole in each input that can be read at all."""

Ask = Callable[[dict[str, str]], dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """A function that has an input read in a process of its own."""
    script = Path(__file__).with_name("reading_process.py")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def one(request: dict[str, str]) -> dict[str, Any]:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield one
        process.stdin.close()


def test_corpus_is_large_and_each_case_has_its_own_name() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_input_is_named_and_costs_little(case: Case, ask: Ask, tmp_path: Path) -> None:
    data, cwd = tmp_path / "data", tmp_path / "cwd"
    data.mkdir()
    cwd.mkdir()
    source = case.write(data)
    before = sorted(data.iterdir())
    answer = ask({"source": source, "store": str(tmp_path / "store"), "cwd": str(cwd)})
    came = set(answer.get("reasons", [])) | ({answer["outcome"]} - {"incomplete"})
    assert came & case.expected, answer
    assert came <= case.expected | {"no-label", "no-image"}, answer
    assert answer["outcome"] in ("incomplete", "SourceError"), answer
    assert answer["foreign"] == []
    assert not list(cwd.iterdir()), "something ran and left its canary"
    assert sorted(data.iterdir()) == before
    assert answer["seconds"] < MAX_SECONDS
    assert answer["megabytes"] < MAX_MEGABYTES
    if answer["outcome"] == "incomplete":
        assert answer["samples"] >= WHOLE, "one bad input costs that one"
