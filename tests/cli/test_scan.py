"""The scan command around the scan: options, outputs and exit codes.

Findings that take minutes to compute are handed in; whatever needs no training runs for real.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vbdguard.cli.main import main
from vbdguard.config import ScanConfig
from vbdguard.errors import CacheError, NothingToScanError
from vbdguard.report import ScanReport


@dataclass
class FakeScanner:
    """Stands in for the minutes of training; remembers what it was asked for."""

    report: ScanReport
    error: BaseException | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def scan(self, source: Any, config: ScanConfig, **options: Any) -> ScanReport:
        self.calls.append({"source": source, "config": config, **options})
        progress = options["progress"]
        progress.begin("ingest", 2)
        progress.advance(2)
        progress.end()
        logging.getLogger("vbdguard.ingest").warning("a warning with \x1b in it")
        logging.getLogger("vbdguard.ingest").info("a detail")
        if self.error is not None:
            raise self.error
        return self.report


@pytest.fixture
def scanner(clean: ScanReport, monkeypatch: pytest.MonkeyPatch) -> FakeScanner:
    fake = FakeScanner(clean)
    monkeypatch.setitem(sys.modules, "vbdguard.scanner", SimpleNamespace(scan=fake.scan))  # type: ignore[arg-type]
    return fake


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["scan", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("clean", (), 0),
        ("poisoned", (), 1),
        ("incomplete", (), 2),
        ("poisoned_and_incomplete", (), 1),
        ("poisoned", ("--exit-zero",), 0),
        ("incomplete", ("--exit-zero",), 2),
        ("poisoned_and_incomplete", ("--exit-zero",), 2),
        ("poisoned_and_incomplete", ("--exit-zero", "--allow-unreadable", "100%"), 0),
        ("poisoned", ("--fail-on", "never"), 0),
        ("poisoned_and_incomplete", ("--fail-on", "never"), 2),
        ("poisoned", ("--format", "json"), 1),
        ("poisoned", ("--quiet",), 1),
    ],
)
def test_exit_codes(
    name: str, options: tuple[str, ...], code: int, scanner: FakeScanner, request: pytest.FixtureRequest
) -> None:
    scanner.report = request.getfixturevalue(name)
    assert run("shards/", *options).exit_code == code


@pytest.mark.parametrize(
    ("name", "allowed", "code", "word"),
    [
        ("incomplete", "0.1%", 0, "Accepted: 1 of 1,001 samples and 0 of 2 shards could not be read (0.0999 %)"),
        ("incomplete", "0.1", 0, "Accepted: "),
        ("incomplete", "0.09%", 2, "Not accepted: "),
        ("poisoned_and_incomplete", "100%", 1, "Accepted: "),
        ("clean", "5%", 0, None),
    ],
)
def test_a_share_of_unreadable_samples_can_be_accepted(
    name: str, allowed: str, code: int, word: str | None, scanner: FakeScanner, request: pytest.FixtureRequest
) -> None:
    scanner.report = request.getfixturevalue(name)
    result = run("shards/", "--allow-unreadable", allowed)
    assert result.exit_code == code
    assert word in result.stdout if word else "ccepted" not in result.stdout
    assert run("shards/", "--allow-unreadable", allowed, "--format", "json").stdout == scanner.report.to_json()


@pytest.mark.parametrize("allowed", ["-1%", "101%", "many", "nan", "1%%"])
def test_a_share_that_is_none_is_refused(allowed: str, scanner: FakeScanner) -> None:
    result = run("shards/", "--allow-unreadable", allowed)
    assert result.exit_code == 2
    assert "expected a percentage from 0 to 100" in result.stderr
    assert not scanner.calls


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NothingToScanError("nothing"), 3),
        (CacheError("full"), 2),
        (OSError("gone"), 2),
        (RuntimeError("a fault of our own"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=["nothing to scan", "cache", "input/output", "internal", "Ctrl-C"],
)
@pytest.mark.parametrize("options", [(), ("--exit-zero",)])
def test_a_scan_that_fails_never_ends_with_0_and_writes_nothing(
    error: BaseException, code: int, options: tuple[str, ...], scanner: FakeScanner, tmp_path: Path
) -> None:
    scanner.error = error
    result = run("shards/", "-o", tmp_path / "r.json", "--format", "json", *options)
    assert result.exit_code == code
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_json_is_all_that_goes_to_stdout(scanner: FakeScanner, poisoned: ScanReport) -> None:
    scanner.report = poisoned
    result = run("shards/", "--format", "json")
    assert result.stdout == poisoned.to_json()
    assert "Reading the data" in result.stderr


def test_outputs_hold_the_same_json(scanner: FakeScanner, poisoned: ScanReport, tmp_path: Path) -> None:
    scanner.report = poisoned
    result = run("shards/", "-o", tmp_path / "a.json", "--output", tmp_path / "b.JSON")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.JSON").read_text() == poisoned.to_json()
    assert result.stdout.startswith("POISONED")
    assert "Wrote" in result.stderr


def no_directory(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "r.json"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda folder: folder / "r.pdf", "ends in one of: .json, .jsonl, .sarif, .xml, .md, .html, .csv; got '.pdf'"),
        (lambda folder: folder / "r", "got 'none'"),
        (no_directory, "its directory does not exist"),
    ],
    ids=["unknown suffix", "no suffix", "no directory"],
)
def test_a_wrong_output_is_refused_before_the_scan(
    place: Callable[[Path], Path], message: str, scanner: FakeScanner, tmp_path: Path
) -> None:
    result = run("shards/", "-o", place(tmp_path))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not scanner.calls


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("shards/", "--image-size", "3x"),
        ("shards/", "--image-size", "4"),
        ("shards/", "--seed", "-1"),
        ("shards/", "--preset", "best"),
        ("shards/", "--jobs", "0"),
        ("shards/", "--quiet", "--verbose"),
        ("shards/", "--no-cache", "--refresh"),
        ("shards/", "--no-cache", "--cache-dir", "x"),
    ],
    ids=lambda options: " ".join(options[1:]) or "no source",
)
def test_bad_usage_ends_with_2_before_the_scan(options: tuple[str, ...], scanner: FakeScanner) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr
    assert not scanner.calls


def test_an_image_size_out_of_range_is_told_in_the_words_of_the_command_line() -> None:
    words = " ".join(run("shards/", "--image-size", "0").stderr.split())
    assert "Invalid value for '--image-size': expected 8 to 512 pixels a side, got 0" in words


def test_options_reach_the_scan(scanner: FakeScanner, tmp_path: Path) -> None:
    run(
        *("a.tar", "b.tar", "--preset", "paper", "--seed", "7", "--device", "cpu", "--image-size", "48x64"),
        *("--label-key", "id", "--jobs", "3", "--cache-dir", tmp_path, "--refresh"),
        *("--shard-timeout", "60", "--worker-memory", "512"),
    )
    (call,) = scanner.calls
    expected = ScanConfig(preset="paper", seed=7, device="cpu", image_size=(48, 64), label_key="id", jobs=3)
    expected = replace(expected, shard_timeout=60.0, worker_memory=512)
    assert call["config"] == expected
    assert call["source"] == ["a.tar", "b.tar"]
    assert (call["cache_dir"], call["use_cache"], call["refresh"]) == (tmp_path, True, True)


def test_defaults_reach_the_scan(scanner: FakeScanner) -> None:
    run("shards/", "--image-size", "32", "--no-cache")
    (call,) = scanner.calls
    assert call["config"] == ScanConfig(image_size=32)
    assert call["source"] == "shards/"
    assert (call["cache_dir"], call["use_cache"], call["refresh"]) == (None, False, False)


def test_quiet_prints_the_verdict_only(scanner: FakeScanner) -> None:
    result = run("shards/", "--quiet")
    assert result.stdout == "CLEAN: no trigger found in 1,000 samples of 10 classes\n"
    assert "Reading" not in result.stderr


def test_warnings_of_the_core_are_shown_spelled_out_and_details_with_verbose(scanner: FakeScanner) -> None:
    result = run("shards/")
    assert r"warning: a warning with \x1b in it" in result.stderr
    assert "a detail" not in result.stderr
    assert "info: a detail" in run("shards/", "--verbose").stderr
    assert not logging.getLogger("vbdguard").handlers


def test_a_missing_path_ends_with_2(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere.tar")
    assert result.exit_code == 2
    assert "nowhere.tar" in result.stderr


def test_an_empty_folder_ends_with_3(tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 3


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from vbdguard.cli.main import main\n"
        "r = CliRunner().invoke(main, ['scan', '--help']); assert r.exit_code == 0, r.output\n"
        "print([m for m in ('torch', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


def test_help_teaches_by_example_and_lists_the_exit_codes() -> None:
    text = run("--help").stdout
    assert '    vbdguard scan "train-{000000..000009}.tar"      a brace pattern\n' in text
    assert "    2  could not complete" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "SOURCE..." in text.splitlines()[0]
