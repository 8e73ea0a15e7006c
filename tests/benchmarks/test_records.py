from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import append_record, read_records


def record(**changes: Any) -> dict[str, Any]:
    return {"data": "cifar10", "limit": None, "cell": "clean", "seed": 0, "method": "default", "f1": 1.0} | changes


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    records = [record(seed=seed) for seed in range(3)]
    for one in records:
        append_record(path, one)
    assert read_records([path]) == records


def test_of_runs_that_stand_twice_the_last_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    append_record(first, record())
    append_record(second, record(f1=2.0))
    assert read_records([first, second]) == [record(f1=2.0)]


def test_older_records_name_the_method_preset_and_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"data": "cifar10", "cell": "clean", "seed": 0, "preset": "default", "f1": 1.0}\n')
    assert read_records([path]) == [record()]


def test_a_file_without_a_last_line_break_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_record(path, record())
    path.write_text(path.read_text().rstrip("\n"))
    append_record(path, record(seed=1))
    assert [one["seed"] for one in read_records([path])] == [0, 1]


@pytest.mark.parametrize("line", ['{"data": "cifar10", "cel', "[]", '{"data": "cifar10", "cell": "clean", "seed": 0}'])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_record(path, record())
    with path.open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2: expected a JSON record"):
        read_records([path])
