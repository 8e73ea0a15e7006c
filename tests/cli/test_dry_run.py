"""`vbdguard scan --dry-run`: an estimate on stdout, and nothing done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from vbdguard.cli.dry_run import byte_words
from vbdguard.cli.main import main
from vbdguard.report import ScanReport


@pytest.fixture
def data(known_data: Callable[..., ScanReport], tmp_path: Path) -> Path:
    known_data()
    return tmp_path / "data"


def test_an_estimate_is_told_in_words(data: Path) -> None:
    done = CliRunner().invoke(main, ["scan", str(data), "--dry-run"])
    assert done.exit_code == 0
    assert "4 shards of" in done.stdout
    assert "16 samples of 2 classes, scanned at 16 x 16" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[1:5]] == ["Reading", "Judging", "Memory", "Disk"]
    assert "Nothing was scanned" in done.stdout


def test_one_shard_is_a_shard(data: Path) -> None:
    done = CliRunner().invoke(main, ["scan", str(data / "train-000000.tar"), "--dry-run"])
    assert "Data     1 shard of" in done.stdout


def test_an_estimate_goes_to_a_program_as_json(data: Path) -> None:
    done = CliRunner().invoke(main, ["scan", str(data), "--dry-run", "--format", "json", "--jobs", "1"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["shards"] == 4


def test_other_formats_have_no_estimate(data: Path) -> None:
    done = CliRunner().invoke(main, ["scan", str(data), "--dry-run", "--format", "sarif"])
    assert done.exit_code == 2
    assert "--format text or json" in done.stderr


def test_a_share_has_no_estimate_of_its_own(data: Path) -> None:
    done = CliRunner().invoke(main, ["scan", str(data), "--dry-run", "--shard", "1/2"])
    assert done.exit_code == 2
    assert "drop --shard and --partial" in done.stderr


def test_an_estimate_needs_no_torch(data: Path) -> None:
    code = (
        "import sys\nfrom vbdguard.cli.main import main\n"
        f"main(['scan', {str(data)!r}, '--dry-run'], standalone_mode=False)\n"
        "sys.exit(9 if 'torch' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_bytes_are_told_in_the_unit_that_fits() -> None:
    assert [byte_words(count) for count in (10, 2048, 3 << 20, 5 << 29, 1 << 41)] == [
        "10 bytes",
        "2.0 kB",
        "3.0 MB",
        "2.5 GB",
        "2.0 TB",
    ]
