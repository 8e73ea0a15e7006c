"""The command line as a process: exit codes, what it prints where, and what it does not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vbdguard import __version__
from vbdguard.cli.main import COMMANDS, CommandTable, main
from vbdguard.errors import CacheError, ConfigError, NothingToScanError, UnreadableError

HEAVY = ("torch", "torchvision", "scipy", "skimage", "pyarrow", "webdataset")


def run(*arguments: str, code: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `vbdguard`, or Python code, in a process of its own."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "vbdguard.cli.main"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env={**os.environ, **variables}, timeout=60, check=False
    )


def table_raising(error: BaseException) -> CommandTable:
    """A command line whose only command raises."""

    @click.command()
    def boom() -> None:
        raise error

    group = CommandTable(name="vbdguard", table={"boom": f"{__name__}:boom"})
    setattr(sys.modules[__name__], "boom", boom)  # noqa: B010 - where the table looks it up
    return group


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("seed must be 0 to 9, got 12"), 2, "error: seed must be 0 to 9, got 12"),
        (CacheError("not writable"), 2, "error: not writable"),
        (NothingToScanError("no image in it"), 3, "error: no image in it"),
        (UnreadableError("9 of 9 broken"), 2, "error: 9 of 9 broken"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (click.ClickException("click calls this 1"), 2, "click calls this 1"),
        (click.FileError("x.json", "gone"), 2, "gone"),
        (FileNotFoundError(2, "No such file", "x.tar"), 2, "x.tar"),
        (EOFError("ended early"), 2, "error: ended early"),
        (KeyError("oops"), 2, "internal error: KeyError: 'oops'"),
        (MemoryError(), 2, "internal error: MemoryError"),
        (SystemExit("words, not a number"), 2, "error: words, not a number"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (BrokenPipeError(), 2, ""),
    ],
)
def test_every_way_out_has_its_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        table_raising(error).main(["boom"])
    printed = capsys.readouterr()
    assert leaving.value.code == code
    assert message in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_a_traceback_is_shown_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBDGUARD_DEBUG", "1")
    with pytest.raises(SystemExit):
        table_raising(KeyError("oops")).main(["boom"])
    assert "Traceback" in capsys.readouterr().err


def test_control_characters_in_a_message_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table_raising(ConfigError("key \x1b[2Jevil\nsecond line")).main(["boom"])
    assert capsys.readouterr().err == "vbdguard: error: key \\x1b[2Jevil\nvbdguard: second line\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (1, 1), ("text", 0)])
def test_a_command_may_return_its_exit_code(returned: object, code: int) -> None:
    group = table_raising(RuntimeError())
    setattr(sys.modules[__name__], "boom", click.command()(lambda: returned))  # noqa: B010 - as above
    with pytest.raises(SystemExit) as leaving:
        group.main(["boom"])
    assert leaving.value.code == code


def test_version_and_help_go_to_stdout() -> None:
    assert run("--version").stdout == f"vbdguard, version {__version__}\n"
    result = run("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert [name for name in COMMANDS if f"\n  {name} " in result.stdout] == list(COMMANDS)
    assert "vbdguard scan shards/" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_example(name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0
    assert f"\n    vbdguard {name}" in result.stdout.split("Options:")[0]
    assert "\\b" not in result.stdout


def command_lines(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from command_lines(command, (*words, name))
        else:
            yield (*words, name)


@pytest.mark.parametrize("words", [*command_lines(main)], ids=" ".join)
def test_every_line_of_a_help_fits_into_80_columns_and_none_is_cut_off(words: tuple[str, ...]) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*words, "--help"], prog_name="vbdguard")
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Usage:")]
    assert lines
    assert [line for line in lines if len(line) > 80 or line.endswith("...")] == []


@pytest.mark.parametrize("arguments", [("frobnicate",), ("--frobnicate",), ("poison",)])
def test_bad_usage_is_2_and_says_so_on_stderr(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error:" in result.stderr


def test_no_command_shows_the_help_and_is_bad_usage() -> None:
    result = run()
    assert result.returncode == 2
    assert "Commands:" in result.stderr


LOADED = f"loaded = [name for name in {HEAVY!r} if name in sys.modules]; sys.exit(', '.join(loaded) or 0)"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys\nfrom vbdguard.cli.main import main\nmain({arguments!r}, standalone_mode=False)\n{LOADED}"
    result = run(code=code)
    assert result.returncode == 0, result.stderr


def test_the_check_for_heavy_imports_can_fail() -> None:
    result = run(code=f"import sys, scipy\n{LOADED}")
    assert result.returncode == 1
    assert "scipy" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_early_is_neither_success_nor_poison() -> None:
    code = (
        "import os, sys\nfrom vbdguard.cli.main import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\nmain(['--help'])"
    )
    result = run(code=code)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    code = (
        "import sys, time, types, click\nfrom vbdguard.cli.main import CommandTable\n"
        "module = types.ModuleType('slow'); sys.modules['slow'] = module\n"
        "module.slow = click.command()(lambda: (print('ready', flush=True), time.sleep(30)))\n"
        "CommandTable(name='x', table={'slow': 'slow:slow'}).main(['slow'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "vbdguard: interrupted" in errors
    assert "Traceback" not in errors


def test_the_entry_point_is_the_group() -> None:
    assert isinstance(main, CommandTable)
