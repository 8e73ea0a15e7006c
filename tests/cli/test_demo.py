"""The demo as a person runs it; the full set takes two minutes, a smaller one shows the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from vbdguard.attacks.copying import read_truth
from vbdguard.cli import demo as demo_module
from vbdguard.cli.demo import tell_the_story
from vbdguard.cli.demo_data import DemoSet
from vbdguard.cli.main import main
from vbdguard.progress import Silent
from vbdguard.report import ScanReport
from vbdguard.sources.base import RawSample
from vbdguard.sources.opening import open_source

SMALL = DemoSet(per_class=200)


def told(root: Path, demo_set: DemoSet = SMALL) -> tuple[bool, str]:
    text = io.StringIO()
    succeeded = tell_the_story(demo_set, root, Console(file=text, width=100), Silent())
    return succeeded, text.getvalue()


def count(folder: Path) -> int:
    return sum(isinstance(item, RawSample) for shard in open_source(str(folder)).shards for item in shard.read())


def test_the_demo_finds_its_trigger_and_keeps_the_clean_samples(tmp_path: Path) -> None:
    succeeded, text = told(tmp_path)
    assert succeeded, text
    assert "no alarm" in text
    assert "against the truth:" in text
    assert count(tmp_path / "clean") == count(tmp_path / "poisoned") == len(SMALL)
    kept = count(tmp_path / "kept")
    assert f"{kept:,} samples kept" in text
    assert len(SMALL) * 0.85 < kept < len(SMALL) * 0.95


@pytest.mark.parametrize(
    ("finds", "alarms", "succeeded"),
    [(True, False, True), (False, False, False), (True, True, False)],
)
def test_the_demo_fails_on_a_miss_and_on_a_false_alarm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report_flagging: Callable[..., ScanReport],
    finds: bool,
    alarms: bool,
    succeeded: bool,
) -> None:
    def scripted_scan(source: str, *_: object, **__: object) -> ScanReport:
        poisoned = [entry.key for entry in read_truth(tmp_path / "poisoned" / "truth.jsonl")]
        is_flagging = finds if source.endswith("poisoned") else alarms
        # In the set before the attack, the samples of that name are innocent.
        return report_flagging(source, dict.fromkeys(poisoned if is_flagging else ()))

    monkeypatch.setattr("vbdguard.scanner.scan", scripted_scan)
    outcome, text = told(tmp_path, DemoSet(per_class=12))
    assert outcome is succeeded
    assert ("MISSED" in text) is not finds
    assert ("FALSE ALARM" in text) is alarms
    assert f"F1 {1 if finds else 0:.1%}" in text
    assert count(tmp_path / "kept") == (120 - 12 if finds else 120)


@pytest.mark.parametrize(("succeeded", "code"), [(True, 0), (False, 1)])
def test_the_outcome_is_the_exit_code_and_the_folder_is_removed(
    monkeypatch: pytest.MonkeyPatch, succeeded: bool, code: int
) -> None:
    folders: list[Path] = []

    def story(demo_set: DemoSet, root: Path, console: Console, progress: object) -> bool:
        assert root.is_dir()
        folders.append(root)
        return succeeded

    monkeypatch.setattr(demo_module, "tell_the_story", story)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == code
    assert "The data are gone again." in result.stdout
    assert "vbdguard scan SOURCE" in result.stdout
    assert not folders[0].exists()


@pytest.mark.parametrize("arguments", [["--keep"], ["--dir", "drill"]])
def test_the_data_stay_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    folders: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo_module, "tell_the_story", lambda _, root, *__: not folders.append(root))
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 0, result.output
    assert folders[0].is_dir()
    assert f"vbdguard scan {folders[0]}/poisoned" in result.stdout


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path)])
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
