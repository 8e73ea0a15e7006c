from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vbdguard.cache import Cache
from vbdguard.cli.main import main
from vbdguard.report import ScanReport


@pytest.fixture
def filled(poisoned: ScanReport) -> Cache:
    """The default cache with one report and two decoded shards, one of them 31 days old."""
    cache = Cache()
    cache.save_report("a" * 64, poisoned)
    for name in ("old", "new"):
        segment = cache.store_dir / "segments" / name
        segment.mkdir(parents=True)
        (segment / "pixels.npy").write_bytes(b"\0" * 2_500_000)
    then = time.time() - 31 * 86_400
    os.utime(cache.store_dir / "segments" / "old", (then, then))
    return cache


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["cache", *arguments])


def test_info_says_where_how_many_and_how_large(filled: Cache) -> None:
    text = run("info").stdout
    assert str(filled.directory) in text
    assert "2     5.0 MB  decoded" in text
    assert "written" in text


def test_info_as_json_is_json(filled: Cache) -> None:
    body = json.loads(run("info", "--json").stdout)
    assert body["directory"] == str(filled.directory)
    assert (body["reports"], body["segments"], body["segment_bytes"]) == (1, 2, 5_000_000)
    assert body["oldest"] < body["newest"]


def test_info_of_no_cache_is_all_zero(tmp_path: Path) -> None:
    body = json.loads(run("info", "--json", "--cache-dir", str(tmp_path / "none")).stdout)
    assert (body["reports"], body["segments"], body["oldest"]) == (0, 0, None)
    assert not (tmp_path / "none").exists()


def test_clear_by_age_keeps_the_rest(filled: Cache) -> None:
    result = run("clear", "--older-than", "30d", "--yes")
    assert result.stdout == "Removed 1 entry, 2.5 MB\n"
    assert (filled.info().segments, filled.info().reports) == (1, 1)


def test_clear_removes_all(filled: Cache) -> None:
    result = run("clear", "--yes")
    assert result.exit_code == 0
    assert "Removed 3 entries" in result.stdout
    assert not list(filled.directory.iterdir())
    assert "Nothing to remove" in run("clear").stdout


def test_clear_without_anybody_to_ask_removes_nothing(filled: Cache) -> None:
    result = run("clear")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert filled.info().segments == 2


def test_clear_takes_no_for_an_answer(filled: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.cli.cache._somebody_is_there", lambda: True)
    result = CliRunner().invoke(main, ["cache", "clear"], input="n\n")
    assert "Nothing removed" in result.stdout
    assert filled.info().segments == 2
    assert "Removed 3" in CliRunner().invoke(main, ["cache", "clear"], input="y\n").stdout


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", "30 days"])
def test_an_unclear_age_is_refused(age: str, filled: Cache) -> None:
    result = run("clear", "--yes", "--older-than", age)
    assert result.exit_code == 2
    assert filled.info().segments == 2


def test_clear_refuses_a_directory_that_is_not_a_cache(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "thesis.json").write_text("{}")
    result = run("clear", "--yes", "--cache-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "nothing was removed" in result.stderr
    assert (tmp_path / "reports" / "thesis.json").exists()
