"""What `make docs` does besides Markdown: the help of each command is taken from the command itself."""

from __future__ import annotations

import re
from typing import Any

from click.testing import CliRunner

HELP = re.compile(r"<!-- help: ([a-z ]*)-->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of a command in the place of `<!-- help: COMMAND -->`."""
    return HELP.sub(lambda match: f"```text\n{help_of(match[1].split())}```", markdown)


def help_of(words: list[str]) -> str:
    """Return what `vbdguard WORDS --help` prints.

    Raises:
        ValueError: if there is no such command.
    """
    from vbdguard.cli.main import main

    result = CliRunner().invoke(main, [*words, "--help"], prog_name="vbdguard", terminal_width=78)
    if result.exit_code:
        raise ValueError(f"vbdguard {' '.join(words)} --help ended with {result.exit_code}: {result.output}")
    return result.output
