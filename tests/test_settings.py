from __future__ import annotations

import os
from pathlib import Path

import pytest

from vbdguard.cli.scan import scan
from vbdguard.cli.verify import verify
from vbdguard.errors import ConfigError
from vbdguard.settings import SETTINGS, find_settings, read_settings


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a folder in it, which is the working directory."""
    top = tmp_path / "repository"
    (top / ".git").mkdir(parents=True)
    (top / "inner").mkdir()
    monkeypatch.chdir(top / "inner")
    return top


def test_without_a_file_nothing_is_set(repository: Path) -> None:
    assert find_settings().path is None
    assert find_settings().values == {}


def test_the_nearest_file_counts_up_to_the_top_of_the_repository(repository: Path) -> None:
    (repository / "pyproject.toml").write_text('[tool.vbdguard]\nseed = 1\n\n[tool.other]\nkey = "x"\n')
    assert find_settings().values == {"seed": 1}
    (repository / "inner" / "vbdguard.toml").write_text("jobs = 2\n")
    assert find_settings().values == {"jobs": 2}


def test_a_pyproject_without_our_table_is_passed_over(repository: Path) -> None:
    (repository / "inner" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (repository / "vbdguard.toml").write_text("seed = 5\n")
    assert find_settings().values == {"seed": 5}


def test_nothing_above_the_repository_is_read(repository: Path) -> None:
    (repository.parent / "vbdguard.toml").write_text("exit-zero = true\n")
    assert find_settings().values == {}


def test_outside_a_repository_only_the_working_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "vbdguard.toml").write_text("exit-zero = true\n")
    monkeypatch.chdir(tmp_path / "inner")
    assert find_settings().values == {}
    monkeypatch.chdir(tmp_path)
    assert find_settings().values == {"exit-zero": True}


def test_two_files_in_one_folder_compete(repository: Path) -> None:
    (repository / "vbdguard.toml").write_text("seed = 1\n")
    (repository / "pyproject.toml").write_text("[tool.vbdguard]\nseed = 1\n")
    with pytest.raises(ConfigError, match="both hold settings; keep one"):
        find_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fail_on = 'never'", r"unknown setting 'fail_on'; did you mean 'fail-on'\?"),
        ("seeed = 1", r"did you mean 'seed'\?"),
        ("threshold = 0.5", "unknown setting 'threshold'; known are preset, seed"),
        ("fail-on = 'always'", "fail-on: expected one of never, suspicious, poisoned, got 'always'"),
        ("seed = true", "seed: expected a whole number, got True"),
        ("exit-zero = 1", "exit-zero: expected true or false, got 1"),
        ("[section]\nseed = 1", "unknown setting 'section'"),
        ("seed = ", "expected TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "vbdguard.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_settings(tmp_path / "vbdguard.toml")


def test_a_named_pyproject_must_have_our_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(ConfigError, match=r"expected a table \[tool.vbdguard\]"):
        read_settings(tmp_path / "pyproject.toml")
    (tmp_path / "pyproject.toml").write_text("tool.vbdguard = 3\n")
    with pytest.raises(ConfigError, match="to be a table"):
        read_settings(tmp_path / "pyproject.toml")


def test_a_missing_file_is_an_error_where_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "nowhere.toml")


def test_paths_start_from_the_folder_of_their_file(repository: Path) -> None:
    (repository / "vbdguard.toml").write_text("baseline = 'accepted.json'\ncache-dir = '/tmp/elsewhere'\n")
    values = find_settings().values
    assert Path(values["baseline"]).resolve() == repository / "accepted.json"
    assert values["cache-dir"] == os.path.normpath("/tmp/elsewhere")
    os.chdir(repository)
    assert find_settings().values["baseline"] == "accepted.json"


def test_every_setting_is_an_option_of_a_command() -> None:
    options = {option for command in (scan, verify) for param in command.params for option in param.opts}
    assert {f"--{name}" for name in SETTINGS} <= options
