"""`vbdguard verify`: whether data are still those of a receipt, in seconds and without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .gate_options import GATE_SECTION, exit_code, gate_options, gate_words, judged
from .options import SectionedCommand, parse_image_size
from .scan_options import with_options
from .settings_option import settings_option

if TYPE_CHECKING:
    from vbdguard.progress import Progress
    from vbdguard.receipt import Receipt

EXIT_CHANGED = 2
_TERMS = ("preset", "seed", "image_size", "label_key", "folder_rule")


def _terms(command: Any) -> Any:
    """Add the settings that a receipt has to be made with; they find nothing here."""
    return with_options(
        command,
        click.option("--preset", type=click.Choice(["default", "paper"]), default="default", show_default=True),
        click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", default=0, show_default=True),
        click.option("--image-size", metavar="N|HxW", callback=parse_image_size),
        click.option("--label-key", metavar="KEY"),
        click.option("--folder-rule", type=click.Choice(["torchvision", "huggingface"])),
    )


@click.command(
    cls=SectionedCommand,
    sections={
        "What to check": ["receipt", "config"],
        "Settings that the scan must have had": list(_TERMS),
        "When to fail": GATE_SECTION,
        "What comes out": ["quiet"],
    },
    short_help="Check that data are still those of a receipt.",
)
@click.argument("sources", metavar="[SOURCE...]", nargs=-1, type=click.Path())
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default="vbdguard.lock",
    show_default=True,
    help="What `vbdguard scan --receipt FILE` wrote.",
)
@settings_option
@_terms
@gate_options
@click.option("--quiet", "-q", is_flag=True, help="One line.")
@click.pass_context
def verify(ctx: click.Context, /, sources: tuple[str, ...], receipt: Path, **options: Any) -> None:
    """Check that SOURCE holds the very data that a receipt was written for, and that they passed.

    Every byte is hashed and nothing is decoded, so it takes seconds, and neither torch nor a GPU. Without SOURCE the
    data are looked for where the receipt says. A receipt of another version or of other settings is refused.

    \b
    Examples:
      vbdguard scan data/ --receipt vbdguard.lock       once, with torch
      vbdguard verify data/ --receipt vbdguard.lock     in each CI run
      vbdguard verify                                   the same: vbdguard.lock
      vbdguard verify --baseline accepted.json          poison that is accepted

    \b
    Exit codes:
      0  unchanged since a scan that found nothing that counts
      1  unchanged, and the scan found poison that counts
      2  changed, or the receipt cannot vouch for the data
      3  nothing scannable found
    """
    from vbdguard.receipt import Receipt

    found = Receipt.read(receipt)
    code = EXIT_CHANGED if _tell_changes(found, receipt, sources, options) else _tell_verdict(found, receipt, options)
    ctx.exit(code)


def _tell_changes(receipt: Receipt, path: Path, sources: tuple[str, ...], options: dict[str, Any]) -> bool:
    """Say which shards are not those of the receipt; return whether there are any."""
    from vbdguard.config import ScanConfig
    from vbdguard.receipt import sources_from
    from vbdguard.verification import check_terms, compare
    from vbdguard.verification_words import change_lines

    terms = ScanConfig(**{name: options[name] for name in _TERMS})
    check_terms(receipt, terms, path)
    named = sources or tuple(sources_from(receipt, path))
    differences = compare(receipt, named, progress=_progress(quiet=options["quiet"]))
    if differences:
        lines = list(change_lines(receipt, differences, named, path))
        click.echo(lines[0] if options["quiet"] else "\n".join(lines))
    return bool(differences)


def _tell_verdict(receipt: Receipt, path: Path, options: dict[str, Any]) -> int:
    """Say what the scan had found in these data; return the exit code."""
    from vbdguard.verification_words import verdict_lines

    is_complete = receipt.is_accepted(options["allow_unreadable"])
    judgement = judged(receipt.findings, is_complete=is_complete, options=options)
    lines = [*verdict_lines(receipt, judgement, path), *gate_words(judgement, options)]
    click.echo(lines[0] if options["quiet"] else "\n".join(lines))
    return exit_code(judgement, options)


def _progress(*, quiet: bool) -> Progress | None:
    """Return what draws a bar where somebody looks on; without rich, which a light environment lacks."""
    return None if quiet or not sys.stderr.isatty() else _Bar()


class _Bar:
    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, stage: str, total: int | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._bar = click.progressbar(length=total or 0, label="Hashing shards", file=sys.stderr)
        self._bar.__enter__()

    def advance(self, steps: int = 1) -> None:
        self._bar.update(steps)

    def end(self) -> None:
        self._bar.__exit__(None, None, None)
