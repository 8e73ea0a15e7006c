"""The options that decide on the exit code, for `scan`, `merge` and `verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import parse_percent
from .scan_options import Command, with_options
from .settings_option import file_that_set

if TYPE_CHECKING:
    from vbdguard.findings import Finding
    from vbdguard.gate import Judgement

GATE_SECTION = ["fail_on", "baseline", "exit_zero", "allow_unreadable"]
"""Where `SectionedCommand` lists `gate_options`."""


def gate_options(command: Command) -> Command:
    """Add the options that `judged` goes by."""
    return with_options(
        command,
        click.option(
            "--fail-on",
            type=click.Choice(["never", "suspicious", "poisoned"]),
            default="poisoned",
            show_default=True,
            help="The least that ends with 1; `suspicious` takes classes short of proof too.",
        ),
        click.option(
            "--baseline",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Accepted findings, which do not count (see `vbdguard baseline`).",
        ),
        click.option(
            "--exit-zero",
            is_flag=True,
            help="End as if there were no poison: 0 instead of 1, or 2 if not all could be read.",
        ),
        click.option(
            "--allow-unreadable",
            metavar="N%",
            default="0%",
            show_default=True,
            callback=parse_percent,
            help="Do not end with 2 where at most this share of samples, and of shards, could not be read.",
        ),
    )


def judged(findings: Iterable[Finding], *, is_complete: bool, options: Mapping[str, Any]) -> Judgement:
    """Return which findings count.

    Raises:
        BaselineError: if the baseline is none.
    """
    from vbdguard.gate import judge

    baseline = read_baseline(options["baseline"])
    return judge(findings, is_complete=is_complete, fail_on=options["fail_on"], baseline=baseline)


def read_baseline(path: Path | None) -> Any:
    """Return the baseline in a file; None for None.

    Raises:
        UsageError: if there is no such file.
        BaselineError: if it holds none.
    """
    if path is None:
        return None
    from vbdguard.baseline import Baseline

    if not path.exists():
        file = file_that_set(click.get_current_context(), "baseline")
        named = "" if file is None else f", which {file} names"
        raise click.UsageError(
            f"there is no baseline {path}{named}; make one from a saved report: "
            f"vbdguard baseline update report.json --baseline {path} --reason TEXT"
        )
    return Baseline.read(path)


def exit_code(judgement: Judgement, options: Mapping[str, Any]) -> int:
    """Return the exit code, with --exit-zero what it would be without poison."""
    return judgement.exit_code_without_findings if options["exit_zero"] else judgement.exit_code


def gate_words(judgement: Judgement, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader has to know about the exit code: what is accepted, and why 0 comes out where poison is."""
    from vbdguard.gate import gate_lines
    from vbdguard.wording import count_words

    yield from gate_lines(judgement)
    if judgement.counting:
        count = count_words(len(judgement.counting), "finding counts", "findings count")
        code = exit_code(judgement, options)
        end = "Ends with 1" if code == 1 else f"Ends with {code} all the same (--exit-zero)"
        wanted = "; what is wanted there can be accepted: vbdguard baseline --help" if not judgement.accepted else ""
        yield f"{end}: {count} (--fail-on {options['fail_on']}){wanted}"
    elif judgement.passed_over:
        yield f"Does not fail on what was found: --fail-on {options['fail_on']}"
    if not judgement.is_complete and exit_code(judgement, options) == 2:
        yield "Ends with 2: not everything could be read; --allow-unreadable accepts a share"
