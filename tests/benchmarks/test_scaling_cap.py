"""The cap's benchmark on the demo's crops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.scaling_cap import capped, main
from vbdguard.errors import ConfigError


def test_each_cap_is_a_method_of_its_own() -> None:
    methods = capped([100, 250])
    assert list(methods) == ["default@per_class=100", "default@per_class=250"]
    with pytest.raises(ConfigError, match="per_class must be at least 100"):
        capped([99])


def test_a_run_scores_all_samples_and_says_what_the_cap_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "caps.jsonl"
    options = ["--data", "demo", "--cells", "clean", "--caps", "100", "--limit", "1500", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["scaling_cap", *options, "--out", str(out)])
    main()
    (record,) = map(json.loads, out.read_text().splitlines())
    assert record["method"] == "default@per_class=100"
    assert record["settings"]["sample"]["per_class"] == 100
    assert record["samples"] == 1500


def test_a_cap_that_cannot_be_is_a_wrong_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "demo", "--caps", "3", "--out", str(tmp_path / "caps.jsonl")]
    monkeypatch.setattr(sys, "argv", ["scaling_cap", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "per_class must be at least 100" in capsys.readouterr().err
