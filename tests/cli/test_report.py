"""`vbdguard report`, and what `vbdguard scan` writes beside the text: as processes would use them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vbdguard.cli.main import main
from vbdguard.findings import findings_of
from vbdguard.formats.rendering import FORMATS, SUFFIXES, render
from vbdguard.report import ScanReport

MakeData = Callable[..., ScanReport]
FLAGGED = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None}


@pytest.fixture
def report(known_data: MakeData) -> ScanReport:
    return known_data(flagged=FLAGGED)


@pytest.fixture
def saved(report: ScanReport, tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    return path


def run(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=text)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("html", "github")])
def test_a_saved_report_goes_to_stdout_in_any_format_and_nothing_else_does(
    name: str, saved: Path, report: ScanReport
) -> None:
    result = run("report", saved, "--format", name)
    assert result.exit_code == 0
    assert result.stdout == render(report, name)


def test_several_files_are_written_at_once(saved: Path, report: ScanReport, tmp_path: Path) -> None:
    files = [tmp_path / f"out{suffix}" for suffix in SUFFIXES]
    result = run("report", saved, *(word for file in files for word in ("-o", file)))
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [f"Wrote {file}" for file in files]
    assert ScanReport.from_json((tmp_path / "out.json").read_text()) == report
    assert json.loads((tmp_path / "out.sarif").read_text())["version"] == "2.1.0"
    assert len(list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text())))) == 3


def test_a_scan_writes_the_same_files_as_the_report_on_it(report: ScanReport, tmp_path: Path) -> None:
    result = run(
        "scan", tmp_path / "data", "-o", tmp_path / "a.json", "-o", tmp_path / "a.html", "-o", tmp_path / "a.xml"
    )
    assert result.exit_code == 1, result.stderr
    assert run("report", tmp_path / "a.json", "-o", tmp_path / "b.html", "-o", tmp_path / "b.xml").exit_code == 0
    for suffix in ("html", "xml"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_the_page_has_the_images_where_the_cache_does_and_says_so_where_not(saved: Path, tmp_path: Path) -> None:
    assert run("report", saved, "-o", tmp_path / "with.html").exit_code == 0
    assert 'alt="flagged sample train-000000.tar/s01"' in (tmp_path / "with.html").read_text()
    assert run("report", saved, "-o", tmp_path / "without.html", "--cache-dir", tmp_path / "empty").exit_code == 0
    assert "This page has no pictures of samples" in (tmp_path / "without.html").read_text()
    assert not (tmp_path / "empty").exists()


def test_a_report_comes_from_standard_input_too(report: ScanReport) -> None:
    result = run("report", "-", "--format", "csv", text=report.to_json())
    assert result.stdout == render(report, "csv")


def test_a_scan_that_found_poison_is_rendered_with_exit_code_0(saved: Path) -> None:
    result = run("report", saved)
    assert result.exit_code == 0
    assert result.stdout.startswith("POISONED: trigger in 1 of 2 classes")


def test_quiet_is_one_line(saved: Path, tmp_path: Path) -> None:
    for arguments in (("report", saved), ("scan", tmp_path / "data")):
        result = run(*arguments, "--quiet", "-o", tmp_path / "x.md")
        assert result.stdout == "POISONED: trigger in 1 of 2 classes; 2 of 16 samples flagged (12.5%)\n"
        assert result.stderr == ""


def test_github_gets_text_annotations_and_the_summary(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: ScanReport
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = run("report", saved, "--format", "github")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("POISONED: ")
    assert [line for line in lines if line.startswith("::")] == render(report, "github").splitlines()
    assert summary.read_text() == "before\n" + render(report, "markdown")


def test_without_the_format_nothing_is_written_to_the_summary(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert "::error" not in run("report", saved).stdout
    assert not (tmp_path / "summary.md").exists()


def test_what_the_baseline_accepts_is_marked_by_scan_and_report(
    report: ScanReport, saved: Path, tmp_path: Path
) -> None:
    (finding,) = findings_of(report)
    baseline = tmp_path / "accepted.json"
    made = run("baseline", "update", saved, "--baseline", baseline, "--reason", "a drill")
    assert made.exit_code == 0, made.stderr
    for arguments in (("report", saved), ("scan", tmp_path / "data")):
        result = run(*arguments, "--baseline", baseline, "--format", "sarif")
        assert result.exit_code == 0
        found, _ = json.loads(result.stdout)["runs"][0]["results"]
        assert found["suppressions"] == [{"kind": "external", "justification": "a drill"}]
        assert found["partialFingerprints"]["vbdguardFinding/v1"] == finding.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a vbdguard report as JSON"),
        ("[1]", "expected a vbdguard report as a JSON object, got list"),
        ('{"schema_version": 99}', "expected a report with schema_version 1, got 99"),
        ("\udc80", "got something that is no text; name a file that `vbdguard scan -o FILE.json` wrote"),
    ],
)
def test_what_is_no_report_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    result = run("report", path)
    assert result.exit_code == 2
    assert message in result.stderr
    assert str(path) in result.stderr


def test_json_stays_valid_on_a_narrow_pipe_and_no_torch_is_loaded(saved: Path, report: ScanReport) -> None:
    code = (
        "import sys\nfrom vbdguard.cli.main import main\n"
        f"try: main(['report', {str(saved)!r}, '--format', 'json', '-o', {str(saved.with_suffix('.html'))!r}])\n"
        "finally: print('torch loaded:', 'torch' in sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ScanReport.from_json(done.stdout) == report
    assert "torch loaded: False" in done.stderr


def test_help_teaches_by_example() -> None:
    text = run("report", "--help").stdout
    assert "    vbdguard report report.json -o report.html        the page with pictures\n" in text
    assert max(map(len, text.splitlines())) <= 80
