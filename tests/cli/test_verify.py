"""`vbdguard verify`, and what a scan writes for it: real data, real receipts, findings from a cached report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vbdguard.cli.main import main
from vbdguard.cli.scan import scan
from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport

POISON = {"train-000000.tar/s01": 0, "train-000002.tar/s09": None, "train-000002.tar/s11": None}
MakeData = Callable[..., ScanReport]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clean(place: Path, known_data: MakeData) -> Path:
    """Clean data in `data`, with their receipt beside them."""
    Receipt.of(known_data(), Path("vbdguard.lock")).write(Path("vbdguard.lock"))
    return place


@pytest.fixture
def poisoned(place: Path, known_data: MakeData) -> Path:
    """Data with poison in `data`, with their receipt and their report beside them."""
    report = known_data(flagged=POISON)
    Receipt.of(report, Path("vbdguard.lock")).write(Path("vbdguard.lock"))
    Path("report.json").write_text(report.to_json())
    return place


def change(place: Path, name: str = "train-000002.tar") -> None:
    content = bytearray((place / "data" / name).read_bytes())
    content[700] ^= 1
    (place / "data" / name).write_bytes(content)


def test_a_scan_writes_the_receipt_of_its_report(poisoned: Path) -> None:
    result = run("scan", "data", "--receipt", "again.lock")
    assert result.exit_code == 1
    assert "Wrote again.lock" in result.stderr
    assert (poisoned / "again.lock").read_bytes() == (poisoned / "vbdguard.lock").read_bytes()


def test_unchanged_clean_data_pass(clean: Path) -> None:
    result = run("verify", "data", "--receipt", "vbdguard.lock")
    assert result.exit_code == 0
    assert result.stdout == (
        "CLEAN: 4 shards, 16 samples, unchanged since the scan behind vbdguard.lock, which found no trigger\n"
    )


def test_without_a_source_the_receipt_says_where(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("verify").exit_code == 0
    (clean / "inner").mkdir()
    monkeypatch.chdir(clean / "inner")
    assert run("verify", "--receipt", "../vbdguard.lock").exit_code == 0


def test_a_changed_shard_fails_by_name_and_the_advice_can_be_typed(clean: Path) -> None:
    change(clean)
    result = run("verify")
    assert result.exit_code == 2
    assert "CHANGED: " in result.stdout
    assert "  changed     train-000002.tar\n" in result.stdout
    assert "train-000001" not in result.stdout
    assert result.stdout.splitlines()[-1] == "  vbdguard scan data --receipt vbdguard.lock"
    context = scan.make_context("scan", shlex.split(result.stdout.splitlines()[-1])[2:])
    assert context.params["receipt"] == Path("vbdguard.lock")


def test_quiet_is_one_line(clean: Path) -> None:
    assert len(run("verify", "-q").stdout.splitlines()) == 1
    change(clean)
    assert len(run("verify", "-q").stdout.splitlines()) == 1


def test_poison_in_unchanged_data_fails_with_class_shards_counts_certainty_and_next_step(poisoned: Path) -> None:
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("POISONED: 4 shards, 16 samples, unchanged")
    assert "class 1: backdoor trigger, 3 of 8 samples flagged, p-value" in result.stdout
    assert "flagged in train-000002.tar: 2\n  flagged in train-000000.tar: 1\n" in result.stdout
    assert (
        "  vbdguard scan data --receipt vbdguard.lock -o report.html\n  vbdguard clean data clean/\n" in result.stdout
    )


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--fail-on", "never"), 0, "Does not fail on what was found: --fail-on never"),
        (("--exit-zero",), 0, "Ends with 0 all the same (--exit-zero): 1 finding counts (--fail-on poisoned)"),
        (("--fail-on", "suspicious"), 1, "Ends with 1: 1 finding counts (--fail-on suspicious)"),
        (("--seed", "4"), 2, "seed 0 (now 4)"),
        (("--baseline", "none.json"), 2, "there is no baseline none.json"),
    ],
)
def test_gate_options(options: tuple[str, ...], code: int, words: str, poisoned: Path) -> None:
    result = run("verify", *options)
    assert result.exit_code == code
    assert words in result.output


def test_no_option_lets_changed_data_pass(clean: Path) -> None:
    change(clean)
    assert run("verify", "--exit-zero", "--fail-on", "never", "--allow-unreadable", "100%").exit_code == 2


def test_an_edited_receipt_is_refused(poisoned: Path) -> None:
    lock = poisoned / "vbdguard.lock"
    lock.write_text(lock.read_text().replace('"verdict": "poisoned"', '"verdict": "clean"'))
    result = run("verify")
    assert result.exit_code == 2
    assert "refused: its checksum is not that of its content" in result.stderr


def test_an_accepted_finding_passes_in_scan_and_verify_until_other_samples_are_flagged(
    poisoned: Path, known_data: MakeData
) -> None:
    assert run("baseline", "update", "report.json").exit_code == 2
    made = run("baseline", "update", "report.json", "--reason", "our watermark", "--expires", "9999-01-31")
    assert made.exit_code == 0
    assert "1 accepted, 1 of them new, 0 removed" in made.stdout
    for command in (("verify",), ("scan", "data")):
        result = run(*command, "--baseline", "vbdguard-baseline.json")
        assert result.exit_code == 0, result.output
        assert "Accepted until 9999-01-31: class 1: backdoor trigger" in result.stdout
        assert "our watermark" in result.stdout
    assert "until 9999-01-31: our watermark" in run("baseline", "show").stdout
    known_data(flagged={**POISON, "train-000003.tar/s13": None})
    assert run("scan", "data", "--baseline", "vbdguard-baseline.json").exit_code == 1


def test_an_update_from_a_clean_report_empties_the_baseline(poisoned: Path, known_data: MakeData) -> None:
    run("baseline", "update", "report.json", "--reason", "our watermark")
    (poisoned / "report.json").write_text(known_data("other", seed=1).to_json())
    assert "removed   " in run("baseline", "update", "report.json").stdout
    assert "accepts nothing" in run("baseline", "show").stdout


def test_a_baseline_that_is_not_there_cannot_be_shown_but_made(poisoned: Path) -> None:
    result = run("baseline", "show")
    assert result.exit_code == 2
    assert "there is no baseline vbdguard-baseline.json; make one from a saved report" in result.stderr


def test_a_day_that_has_passed_is_no_expiry(poisoned: Path) -> None:
    result = run("baseline", "update", "report.json", "--reason", "x", "--expires", "2001-01-01")
    assert result.exit_code == 2
    assert "has passed" in result.stderr


def test_json_stays_json_when_a_baseline_speaks(poisoned: Path) -> None:
    run("baseline", "update", "report.json", "--reason", "our watermark")
    result = run("scan", "data", "--format", "json", "--baseline", "vbdguard-baseline.json")
    assert ScanReport.from_json(result.stdout).verdict == "poisoned"
    assert "Accepted: class 1" in result.stderr
    assert result.exit_code == 0


def test_a_file_sets_what_is_not_typed_and_says_so(poisoned: Path) -> None:
    (poisoned / "vbdguard.toml").write_text("fail-on = 'never'\nreceipt = 'vbdguard.lock'\n")
    result = run("scan", "data")
    assert result.exit_code == 0
    assert "Settings of vbdguard.toml: fail-on = never\n" in result.stderr
    (poisoned / "other.toml").write_text("fail-on = 'suspicious'\n")
    assert run("verify").exit_code == 0
    assert run("verify", "--fail-on", "poisoned").exit_code == 1
    assert run("verify", "--config", "none").exit_code == 1
    assert run("verify", "--config", "other.toml").exit_code == 1


def test_a_receipt_named_in_a_file_is_checked_and_never_written_by_a_scan_of_something_else(
    clean: Path, known_data: MakeData
) -> None:
    (clean / "vbdguard.lock").rename(clean / "train.lock")
    before = (clean / "train.lock").read_bytes()
    (clean / "vbdguard.toml").write_text("receipt = 'train.lock'\n")
    known_data("other", seed=1)
    assert run("scan", "other").exit_code == 0
    assert (clean / "train.lock").read_bytes() == before
    assert run("verify").exit_code == 0


def test_an_unknown_setting_ends_with_2_before_the_scan(clean: Path) -> None:
    (clean / "pyproject.toml").write_text("[tool.vbdguard]\nfail_on = 'never'\n")
    for command in (("scan", "data"), ("verify",), ("clean", "data", "copy"), ("baseline", "show")):
        result = run(*command)
        assert result.exit_code == 2
        assert "unknown setting 'fail_on'; did you mean 'fail-on'?" in result.stderr


def test_the_environment_wins_over_a_file_and_what_is_typed_over_both(
    clean: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache_of(*arguments: str) -> Path | None:
        place: Path | None = scan.make_context("scan", ["data", *arguments]).params["cache_dir"]
        return place

    (clean / "vbdguard.toml").write_text("cache-dir = 'from-file'\n")
    assert cache_of() is None, "the environment is asked where the cache is opened"
    assert cache_of("--cache-dir", "typed") == Path("typed")
    monkeypatch.delenv("VBDGUARD_CACHE")
    assert cache_of() == Path("from-file")
    assert cache_of("--cache-dir", "typed") == Path("typed")


@pytest.mark.parametrize(
    "arguments",
    [
        ("scan", "data"),
        ("scan", "data", "--dry-run"),
        ("clean", "data", "copy"),
        ("cache", "key", "data"),
        ("report", "report.json"),
        ("baseline", "update", "report.json"),
    ],
)
def test_every_command_that_goes_by_a_settings_file_says_so(clean: Path, arguments: tuple[str, ...]) -> None:
    assert run("scan", "data", "-o", "report.json", "--config", "none").exit_code == 0
    (clean / "vbdguard.toml").write_text('folder-rule = "torchvision"\nbaseline = "b.json"\ncache-dir = "kept"\n')
    told = [line for line in run(*arguments).stderr.splitlines() if line.startswith("Settings of vbdguard.toml: ")]
    assert len(told) == 1
    assert not run(*arguments, "--config", "none").stderr.startswith("Settings")


def test_the_cache_of_a_project_is_the_one_that_is_shown_and_cleared(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VBDGUARD_CACHE")
    (clean / "vbdguard.toml").write_text('cache-dir = "kept"\n')
    shown = run("cache", "info")
    assert shown.stdout.splitlines()[0] == "directory  kept"
    assert shown.stderr == "Settings of vbdguard.toml: cache-dir = kept\n"
    assert "kept" in run("cache", "clear", "--yes").stdout


def test_a_bad_value_in_a_settings_file_is_blamed_on_the_file(clean: Path) -> None:
    (clean / "vbdguard.toml").write_text("image-size = '3x'\n")
    result = run("scan", "data")
    assert result.exit_code == 2
    assert f"{clean / 'vbdguard.toml'}: image-size: expected pixels as N or HxW" in result.stderr
    assert "--image-size" not in result.stderr
    assert "Invalid value for '--image-size'" in run("scan", "data", "--image-size", "4x").stderr


def test_a_baseline_that_is_missing_is_blamed_on_the_file_that_names_it(clean: Path) -> None:
    (clean / "vbdguard.toml").write_text("baseline = 'gone.json'\n")
    result = run("scan", "data")
    assert result.exit_code == 2
    words = " ".join(result.stderr.split())
    assert f"there is no baseline gone.json, which {clean / 'vbdguard.toml'} names; make one" in words
    assert "there is no baseline typed.json; make one" in run("scan", "data", "--baseline", "typed.json").stderr


def test_a_receipt_that_cannot_be_written_is_refused_before_the_scan(clean: Path) -> None:
    result = run("scan", "data", "--receipt", "nowhere/vbdguard.lock")
    assert result.exit_code == 2
    assert "create it first" in result.stderr
    assert not re.search("CLEAN", result.stdout)


def test_the_cache_key_is_one_line(clean: Path) -> None:
    result = run("cache", "key", "data")
    assert re.fullmatch("[0-9a-f]{64}\n", result.stdout)
    change(clean)
    assert run("cache", "key", "data").stdout != result.stdout
