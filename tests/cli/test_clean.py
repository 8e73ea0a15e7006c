from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vbdguard.cli.main import main
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.writing import write_shards

Flagging = Callable[..., ScanReport]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["clean", "--jobs", "1", *map(str, arguments)])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    samples = (RawSample(f"s{n}", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), n % 3) for n in range(9))
    write_shards(samples, tmp_path / "in", per_shard=3)
    return tmp_path / "in"


@pytest.fixture
def saved(shards: Path, tmp_path: Path, report_flagging: Flagging) -> Path:
    """The report that flags two samples of class 1."""
    report = report_flagging(str(shards), {"train-000000.tar/s1": 2, "train-000001.tar/s4": None})
    (tmp_path / "report.json").write_text(report.to_json())
    return tmp_path / "report.json"


def test_the_sum_is_printed_and_poison_that_is_out_is_success(shards: Path, saved: Path, tmp_path: Path) -> None:
    result = run(shards, tmp_path / "out", "--report", saved)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "7 kept + 2 quarantined + 0 skipped = 9 (all that was scanned)",
        "  class 1: 1 kept, 2 quarantined",
        "1 of 3 shards lose nothing",
        f"copy: {tmp_path / 'out'}",
        f"quarantine: {tmp_path / 'out'}.quarantine, why: {tmp_path / 'out'}.quarantine/reasons.jsonl",
    ]
    again = run(shards, tmp_path / "out", "--report", saved)
    assert "3 stood already from an earlier run" in again.stdout


def test_relabelling_and_a_quarantine_elsewhere(shards: Path, saved: Path, tmp_path: Path) -> None:
    options = ("--policy", "relabel", "--quarantine", tmp_path / "bad", "--quiet")
    result = run(shards, tmp_path / "out", "--report", saved, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == "7 kept + 1 relabelled + 1 quarantined + 0 skipped = 9 (all that was scanned)\n"
    assert result.stderr == ""
    assert len((tmp_path / "bad" / "reasons.jsonl").read_text().splitlines()) == 2


def test_a_dry_run_leaves_no_trace(shards: Path, saved: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run(shards, tmp_path / "out", "--report", saved, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "7 kept + 2 quarantined + 0 skipped = 9 (would be written)" in result.stdout
    assert "nothing was written" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    for n in range(6):
        path = tmp_path / "images" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (n * 40, 0, 0)).save(path)
    (tmp_path / "images" / "a" / "0.png").write_bytes(b"nothing")
    return tmp_path / "images"


@pytest.mark.parametrize(("options", "code"), [((), 2), (("--allow-skipped",), 0)])
def test_what_is_skipped_is_not_passed_over(
    broken: Path, tmp_path: Path, report_flagging: Flagging, options: tuple[str, ...], code: int
) -> None:
    (tmp_path / "report.json").write_text(report_flagging(str(broken), {}).to_json())
    result = run(broken, tmp_path / "out", "--report", tmp_path / "report.json", *options)
    assert result.exit_code == code, result.output
    assert "5 kept + 0 quarantined + 1 skipped = 6" in result.stdout
    reasons = tmp_path / "out.quarantine" / "reasons.jsonl"
    assert reasons.exists()
    assert f"1 entry skipped, {reasons} says why; --allow-skipped accepts that" in result.stderr


def test_a_dry_run_names_no_file_that_it_does_not_write(
    broken: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    (tmp_path / "report.json").write_text(report_flagging(str(broken), {}).to_json())
    result = run(broken, tmp_path / "out", "--report", tmp_path / "report.json", "--dry-run")
    assert "1 entry skipped; --allow-skipped accepts that" in result.stderr


def test_a_trigger_without_flagged_samples_is_no_success(
    shards: Path, tmp_path: Path, report_flagging: Flagging
) -> None:
    body: dict[str, Any] = json.loads(report_flagging(str(shards), {}).to_json())
    body["verdict"], body["classes"][2]["poisoned"] = "poisoned", True
    (tmp_path / "report.json").write_text(json.dumps(body))
    result = run(shards, tmp_path / "out", "--report", tmp_path / "report.json")
    assert result.exit_code == 2
    assert "class 2 has a trigger, but no sample was flagged: its poison is still in the copy" in result.stderr


def test_names_from_the_data_cannot_steer_the_terminal(tmp_path: Path, report_flagging: Flagging) -> None:
    for n in range(4):
        path = tmp_path / "images" / ("a\x1b[31m" if n % 2 else "b") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9), (n * 40, 0, 0)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
    report = report_flagging(str(tmp_path / "images"), {"a\x1b[31m/1.png": None})
    (tmp_path / "report.json").write_text(report.to_json())
    result = run(tmp_path / "images", tmp_path / "out", "--report", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "a\\x1b[31m: 1 kept, 1 quarantined" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing argument 'DEST'"),
        (("in",), 2, "got in alone; name the new folder for the copy too: vbdguard clean in DEST"),
        (("in", "in"), 2, "apart from the source"),
        (("nowhere", "out"), 2, "nowhere does not exist"),
        (("in", "out"), 3, "too few to find a trigger in; scan it together with the rest of the training set"),
        (("in", "out", "--report", "report.json", "--refresh"), 2, "--refresh scans again"),
        (("in", "out", "--report", "in/train-000000.tar"), 2, "in/train-000000.tar: "),
        (("in", "out", "--quiet", "--verbose"), 2, "contradict each other"),
        (("in", "out", "--no-cache", "--refresh"), 2, "--no-cache uses no cache"),
        (("in/train-000000.tar", "out", "--report", "report.json"), 2, "expected the data that the report speaks of"),
        (("in", "out", "--policy", "burn"), 2, "'burn' is not one of 'drop', 'relabel'"),
    ],
)
def test_every_failure_has_its_code_and_says_what_to_do(
    shards: Path,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_the_help_says_that_removed_poison_is_success() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "0  DEST is written and complete, also where poison was taken out" in result.output
