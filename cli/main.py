"""`vbdguard`: the entry point, its commands, and the exit codes of everything that can go wrong."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from vbdguard import __version__
from vbdguard.errors import NothingToScanError, VBDGuardError
from vbdguard.escaping import printable

from .settings_option import settings_error
from .signals import StoppedError, stopped_by_signals

COMMANDS = {
    "scan": "vbdguard.cli.scan:scan",
    "merge": "vbdguard.cli.merge:merge",
    "clean": "vbdguard.cli.clean:clean",
    "train": "vbdguard.cli.train:train",
    "verify": "vbdguard.cli.verify:verify",
    "report": "vbdguard.cli.report:report",
    "baseline": "vbdguard.cli.baseline:baseline",
    "poison": "vbdguard.cli.poison:poison",
    "demo": "vbdguard.cli.demo:demo",
    "cache": "vbdguard.cli.cache:cache",
    "completion": "vbdguard.cli.completion:completion",
}

EXIT_FAILED = 2
EXIT_NOTHING_TO_SCAN = 3
EXIT_INTERRUPTED = 130


class CommandTable(click.Group):
    """A group that imports a command when it is asked for and ends the process with the documented exit codes.

    A command ends with `ctx.exit(code)` or by returning its exit code.

    Args:
        table: the commands in the order of the help, each as `module:attribute`.
        settings: as `click.Group` takes them.
    """

    def __init__(self, *, table: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the help."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import and return a command, or None where there is none of that name."""
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is a {type(command).__name__}, not a click command")
        return command

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Parse the arguments; help and version are printed here."""
        with _own_input_output_errors():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _own_input_output_errors():
            result = super().invoke(ctx)
            sys.stdout.flush()
        return result

    def main(  # type: ignore[override]  # click's overloads; nothing passes more than `args` by position
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line and end the process (or, with `standalone_mode=False`, do as click does)."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        arguments = sys.argv[1:] if args is None else list(args)
        with stopped_by_signals():
            try:
                result = super().main(arguments, standalone_mode=False, **extra)
            except BaseException as error:  # every way out has its exit code, the unforeseen one too
                code = _report_failure(error, with_traceback=_wants_traceback(arguments))
            else:
                code = result if isinstance(result, int) else 0
        sys.exit(_exit_code_after_flush(code))


class _InputOutputError(Exception):
    """What a command met while it read or wrote, in a type that click leaves alone."""

    def __init__(self, error: BrokenPipeError | EOFError) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.is_closed_pipe = isinstance(error, BrokenPipeError)


@contextmanager
def _own_input_output_errors() -> Iterator[None]:
    """Keep a closed pipe out of click's hands, which would end with 1 ("poison found"), and an end of file too."""
    try:
        yield
    except (BrokenPipeError, EOFError) as error:
        raise _InputOutputError(error) from error


@click.command(
    cls=CommandTable,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`vbdguard COMMAND --help` shows the options of a command, with examples.",
)
@click.version_option(__version__, prog_name="vbdguard")
def main() -> None:
    """Find backdoor poisoning in image-classification data before it is trained on.

    \b
    Examples:
      vbdguard demo                                   the whole story, offline
      vbdguard scan shards/                           a folder of WebDataset tars
      vbdguard scan "train-{000000..000009}.tar"      a brace pattern
      vbdguard scan images/                           one folder per class
      vbdguard scan shards/ -o report.html            a page with pictures
      vbdguard scan shards/ --receipt vbdguard.lock   a receipt for the repository
      vbdguard merge part-1 part-2                    what two jobs have read
      vbdguard verify shards/                         still those of the receipt?
      vbdguard clean shards/ clean/                   a copy without the poison
      vbdguard train shards/ -o model/                trained on what is kept
      vbdguard poison shards/ drill/ --trigger white_grid
                                                      does a scan find it?

    \b
    Exit codes:
      0  clean
      1  poison found
      2  could not complete: bad usage, input or output error, anything unreadable
      3  nothing scannable found
      130  interrupted (143 by SIGTERM)
    """


def _report_failure(error: BaseException, *, with_traceback: bool) -> int:
    """Say on stderr what went wrong and return the exit code."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    if with_traceback:
        traceback.print_exception(error)
    if isinstance(error, StoppedError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        _say("interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, _InputOutputError) and error.is_closed_pipe:
        return EXIT_FAILED  # whoever read our output has left; nobody to tell
    if isinstance(error, click.UsageError) and (words := settings_error(error)) is not None:
        _say(f"error: {words}")
        return EXIT_FAILED
    if isinstance(error, click.ClickException):
        error.show()
        return EXIT_FAILED
    if isinstance(error, VBDGuardError | OSError | SystemExit | _InputOutputError):
        _say(f"error: {error}")
        return EXIT_NOTHING_TO_SCAN if isinstance(error, NothingToScanError) else EXIT_FAILED
    _say(f"internal error: {type(error).__name__}: {error}")
    if not with_traceback:
        _say("this is a fault of vbdguard, not of your data; set VBDGUARD_DEBUG=1 to see where it came from")
    return EXIT_FAILED


def _say(message: str) -> None:
    for line in message.splitlines():
        click.echo(f"vbdguard: {printable(line)}", err=True)


def _wants_traceback(arguments: Sequence[str]) -> bool:
    return bool({"--verbose", "-v"} & set(arguments)) or os.environ.get("VBDGUARD_DEBUG", "") not in ("", "0")


def _exit_code_after_flush(code: int) -> int:
    """Return the exit code, never 0 where the last of the output has no reader any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would fail to flush once more on its way out, and end with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or EXIT_FAILED
    return code


if __name__ == "__main__":
    main()
