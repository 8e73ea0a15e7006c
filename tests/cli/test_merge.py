"""Scanning in parts from the command line: what each job says, what the merge says, and where they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vbdguard.cli.main import main
from vbdguard.report import ScanReport

Known = Callable[..., ScanReport]
Keep = Callable[[ScanReport, Path], None]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def parts(known_data: Known, keep_merged_report: Keep, tmp_path: Path) -> tuple[ScanReport, list[Path]]:
    """Four shards in two partial scans, and the report on them, which the cache holds."""
    report = known_data(flagged={"train-000000.tar/s01": None})
    keep_merged_report(report, tmp_path / "data")
    files = [tmp_path / "part-1", tmp_path / "part-2"]
    for number, file in enumerate(files, 1):
        done = run("scan", tmp_path / "data", "--shard", f"{number}/2", "--partial", file, "--jobs", "1")
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr.splitlines()[-1] == f"Wrote {file}: share {number}/2, 2 shards, 8 samples"
    return report, files


def test_a_merge_puts_out_what_a_scan_puts_out(parts: tuple[ScanReport, list[Path]], tmp_path: Path) -> None:
    _, files = parts
    scanned = run("scan", tmp_path / "data", "--format", "json", "-q")
    merged = run(
        "merge", *reversed(files), "--format", "json", "-q", "-o", tmp_path / "r.sarif", "-o", tmp_path / "r.md"
    )
    assert merged.exit_code == scanned.exit_code == 1
    one, other = (json.loads(done.stdout) for done in (scanned, merged))
    del one["timings"], other["timings"]
    assert one == other
    assert (tmp_path / "r.sarif").exists()
    assert (tmp_path / "r.md").exists()


def test_a_merge_has_the_gate_of_a_scan(parts: tuple[ScanReport, list[Path]], tmp_path: Path) -> None:
    _, files = parts
    assert run("merge", *files, "--exit-zero", "-q").exit_code == 0
    assert run("merge", *files, "--fail-on", "never", "-q").exit_code == 0
    assert run("merge", *files, "--receipt", tmp_path / "vbdguard.lock", "-q").exit_code == 1
    assert run("verify", tmp_path / "data", "--receipt", tmp_path / "vbdguard.lock", "-q").exit_code in (0, 1)


def test_a_share_that_could_not_be_read_ends_with_2_and_is_written(
    parts: tuple[ScanReport, list[Path]], tmp_path: Path
) -> None:
    _, files = parts
    broken = tmp_path / "data" / "train-000000.tar"
    broken.write_bytes(broken.read_bytes()[:1500])
    done = run("scan", tmp_path / "data", "--shard", "1/2", "--partial", files[0], "--jobs", "1")
    assert done.exit_code == 2
    assert "Not read: train-000000.tar" in done.stderr
    merged = run("merge", *files, "--format", "json")
    assert (merged.exit_code, merged.stdout) == (2, "")  # too little is left, and who knows what is lost
    assert "(1 could not be read): too few to find a trigger in" in merged.stderr
    assert "internal" not in merged.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", "1/2"), "name a file with --partial FILE"),
        (("--shard", "3/2", "--partial", "p"), "expected a share i/N with i from 1 to N"),
        (("--partial", "none/p"), "its directory does not exist"),
        (("--partial", "p", "-o", "r.json"), "--partial writes no report: drop -o"),
        (("--partial", "p", "--receipt", "r.lock"), "--partial writes no report: drop --receipt"),
        (("--partial", "p", "--format", "json"), "--partial writes no report: drop --format"),
        (("--partial", "p", "--fail-on", "never"), "--partial writes no report: drop --fail-on"),
    ],
)
def test_what_a_share_cannot_do_is_refused(
    options: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("scan", "shards/", *options)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_all_of_the_data_may_be_one_share(known_data: Known, keep_merged_report: Keep, tmp_path: Path) -> None:
    keep_merged_report(known_data(), tmp_path / "data")
    done = run("scan", tmp_path / "data", "--partial", tmp_path / "part", "--jobs", "1", "-q")
    assert (done.exit_code, done.output) == (0, "")
    assert run("merge", tmp_path / "part", "-q").exit_code == 0


def test_a_missing_share_ends_with_2_and_names_the_command(parts: tuple[ScanReport, list[Path]]) -> None:
    done = CliRunner().invoke(main, ["merge", str(parts[1][1])], standalone_mode=True)
    assert done.exit_code == 2
    assert "missing: share 1/2 (vbdguard scan ... --shard 1/2 --partial FILE)" in done.stderr
    assert run("merge", "no-such-file").exit_code == 2


def test_settings_of_a_project_hold_for_a_merge_too(
    parts: tuple[ScanReport, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vbdguard.toml").write_text('exit-zero = true\nreceipt = "kept.lock"\nengine = "local"\n')
    assert run("merge", *parts[1], "-q").exit_code == 0
    assert not (tmp_path / "kept.lock").exists()
