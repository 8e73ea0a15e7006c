"""Completion in a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def complete(words: str, *, shell: str = "bash") -> list[str]:
    """Return what bash would offer for a line; the last word is the one to complete."""
    script = f"""
eval "$(vbdguard completion {shell})"
COMP_WORDS=({words}) COMP_CWORD=$(( {len(words.split())} - 1 ))
_vbdguard_completion vbdguard
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_commands_and_options() -> None:
    assert complete("vbdguard ver") == ["verify"]
    assert complete("vbdguard scan --rec") == ["--receipt"]
    assert complete("vbdguard scan --fail-on su") == ["suspicious"]


def test_a_source_is_left_to_the_shells_own_completion_of_files() -> None:
    request = {"_VBDGUARD_COMPLETE": "bash_complete", "COMP_WORDS": "vbdguard scan sh", "COMP_CWORD": "2"}
    command = [sys.executable, BIN / "vbdguard"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **request}, check=True)
    assert done.stdout == "file,sh\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vbdguard.cli.main", "completion", shell], capture_output=True, text=True, check=True
    )
    assert f"_VBDGUARD_COMPLETE={shell}_complete" in done.stdout
