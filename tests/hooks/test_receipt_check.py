"""Which receipts the files of a commit concern, and what is run for them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vbdguard.hooks.receipt_check import main
from vbdguard.receipt import Receipt
from vbdguard.report import ScanReport

MakeData = Callable[..., ScanReport]


@pytest.fixture
def place(tmp_path: Path, known_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clean data in `data`, with their receipt beside them."""
    monkeypatch.chdir(tmp_path)
    Receipt.of(known_data(), Path("vbdguard.lock")).write(Path("vbdguard.lock"))
    return tmp_path


def change(place: Path) -> None:
    content = bytearray((place / "data" / "train-000002.tar").read_bytes())
    content[700] ^= 1
    (place / "data" / "train-000002.tar").write_bytes(content)


@pytest.mark.parametrize(
    "files",
    [
        ["data/train-000002.tar"],
        ["data/train-000099.tar"],
        ["data.dvc"],
        ["data/train-000002.tar.dvc"],
        ["vbdguard.lock"],
        ["vbdguard.toml"],
        ["dvc.lock"],
        ["notes.png", "data/train-000000.tar"],
        [],
    ],
)
def test_a_file_that_concerns_the_data_has_them_checked(
    files: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(place)
    assert main(files) == 2
    output = capfd.readouterr().out
    assert output.startswith("$ vbdguard verify --receipt vbdguard.lock\n")
    assert "  changed     train-000002.tar\n" in output


@pytest.mark.parametrize("files", [["notes.png"], ["data2/x.tar"], ["pyproject.toml"], ["datax.dvc"], ["other.lock"]])
def test_a_file_that_concerns_nothing_is_passed_over_and_that_is_said(
    files: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(place)
    assert main(files) == 0
    assert "none of the 1 files given concerns vbdguard.lock" in capfd.readouterr().out


def test_a_pyproject_that_holds_our_settings_concerns_the_data(place: Path) -> None:
    change(place)
    (place / "pyproject.toml").write_text("[tool.vbdguard]\nfail-on = 'suspicious'\n")
    assert main(["pyproject.toml"]) == 2


def test_unchanged_data_pass(place: Path) -> None:
    assert main(["data/train-000002.tar"]) == 0


def test_a_pattern_is_concerned_by_files_of_its_folder(place: Path, known_data: MakeData) -> None:
    from dataclasses import replace

    report = known_data()
    named = replace(report, dataset=replace(report.dataset, sources=("data/train-{000000..000003}.tar",)))
    Receipt.of(named, Path("vbdguard.lock")).write(Path("vbdguard.lock"))
    change(place)
    assert main(["data/train-000002.tar"]) == 2
    assert main(["elsewhere/train-000002.tar"]) == 0


def test_a_receipt_that_is_missing_or_damaged_fails_whatever_was_committed(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "vbdguard.lock").write_text("{}")
    assert main(["notes.png"]) == 2
    (place / "vbdguard.lock").unlink()
    assert main(["notes.png"]) == 2
    assert "vbdguard scan SOURCE --receipt vbdguard.lock" in capfd.readouterr().err


def test_the_receipt_named_in_the_settings_is_the_usual_one(place: Path) -> None:
    Path("vbdguard.lock").rename("train.lock")
    (place / "vbdguard.toml").write_text("receipt = 'train.lock'\n")
    assert main([]) == 0
    change(place)
    assert main([]) == 2


def test_of_several_receipts_only_those_concerned_are_checked(place: Path, known_data: MakeData) -> None:
    Receipt.of(known_data("more", seed=1), Path("more.lock")).write(Path("more.lock"))
    both = ["--receipt", "vbdguard.lock", "--receipt", "more.lock"]
    change(place)
    assert main([*both, "more/train-000000.tar"]) == 0
    assert main([*both, "data/train-000000.tar"]) == 2
    assert main(both) == 2


def test_poison_outranks_a_change(place: Path, known_data: MakeData) -> None:
    poisoned = known_data("more", {"train-000000.tar/s01": 0}, seed=1)
    Receipt.of(poisoned, Path("more.lock")).write(Path("more.lock"))
    change(place)
    assert main(["--receipt", "vbdguard.lock", "--receipt", "more.lock"]) == 1


def test_a_check_that_was_killed_is_no_pass(place: Path, known_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    Receipt.of(known_data("more", seed=1), Path("more.lock")).write(Path("more.lock"))
    run = subprocess.run

    def killed(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return run(["sh", "-c", "kill -9 $$"] if "vbdguard.lock" in words else words, **options)

    monkeypatch.setattr("vbdguard.hooks.receipt_check.subprocess.run", killed)
    assert main(["--receipt", "vbdguard.lock", "--receipt", "more.lock"]) == 137


def test_a_scan_renews_the_receipt_of_data_that_changed(
    place: Path, known_data: MakeData, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("data").rename("old")
    known_data("data", seed=5)
    assert main(["data/train-000000.tar"]) == 2
    assert main(["--scan", "data/train-000000.tar"]) == 0
    output = capfd.readouterr().out
    assert "$ vbdguard scan data --receipt vbdguard.lock\n" in output
    assert "vbdguard.lock is renewed; add it: git add vbdguard.lock\n" in output
    assert main(["data/train-000000.tar"]) == 0


def test_a_scan_leaves_unchanged_data_alone(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--scan"]) == 0
    assert "vbdguard scan" not in capfd.readouterr().out


def test_a_scan_that_finds_poison_fails(place: Path, known_data: MakeData) -> None:
    Path("data").rename("old")
    known_data("data", {"train-000000.tar/s01": 0}, seed=5)
    assert main(["--scan"]) == 1
    assert Receipt.read(Path("vbdguard.lock")).verdict == "poisoned"


def test_a_first_scan_needs_the_name_of_the_data(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "vbdguard.lock").unlink()
    assert main(["--scan"]) == 2
    assert "name the data in the hook's args: [--source, DATA]" in capfd.readouterr().out
    assert main(["--scan", "--source", "data"]) == 0
    assert main([]) == 0
