"""`vbdguard train`: scan, then train a model on what is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbdguard.atomic import write_atomically
from vbdguard.escaping import printable
from vbdguard.wording import percent, seconds_words

from .options import SectionedCommand
from .poison import PositionType, named_trigger
from .scan_options import (
    CACHE_SECTION,
    SCAN_SECTIONS,
    cache_options,
    cache_settings,
    check_options,
    scan_config,
    scan_options,
)

if TYPE_CHECKING:
    from rich.console import Console

    from vbdguard.attacks.copying import PoisonSettings
    from vbdguard.training.result import EpochResult, TrainingResult

_SETTINGS = ("model", "epochs", "policy", "batch_size", "lr", "weight_decay", "augment", "amp", "resume", "compare")
_ATTACK_SETTINGS = ("mask", "blend_factor", "mode", "target", "position")


@click.command(
    cls=SectionedCommand,
    sections={
        "What to train": ["model", "policy", "init", "report"],
        "How to train": ["epochs", "batch_size", "lr", "weight_decay", "augment", "amp", "resume"],
        "How good and how safe it is": ["test", "compare", "trigger", *_ATTACK_SETTINGS],
        **SCAN_SECTIONS,
        "What comes out": ["output", "format_", "quiet", "verbose", "no_color"],
        "Cache": CACHE_SECTION,
    },
    short_help="Train a model on what a scan keeps.",
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the weights, the checkpoints, result.json and the scan's report.json.",
)
@click.option(
    "--model",
    default="preact_resnet18",
    show_default=True,
    metavar="NAME",
    help="`preact_resnet18`, `small` (minutes on a processor), or a torchvision classifier.",
)
@click.option(
    "--policy",
    type=click.Choice(["suppress", "relabel", "unlearn"]),
    default="suppress",
    show_default=True,
    help="Leave flagged samples out, train them under the class they look like, or make the model forget them.",
)
@click.option(
    "--init",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="Weights to start from, such as a poisoned model's: .safetensors, .pt or an earlier DIR.",
)
@click.option(
    "--report",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go by a saved report (.json) on the same data instead of scanning.",
)
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="[default: 100; small 8; with --init up to 10]")
@click.option("--batch-size", type=click.IntRange(min=2), metavar="N", help="Samples per step.  [default: 128]")
@click.option("--lr", type=float, metavar="RATE", help="Largest learning rate.  [default: 0.1; with --init 0.01]")
@click.option("--weight-decay", type=float, metavar="RATE", help="[default: 0.0005]")
@click.option("--augment/--no-augment", default=True, show_default=True, help="Shift and mirror images at random.")
@click.option(
    "--amp",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compute in bfloat16; `auto`: where the hardware has it.",
)
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on from a checkpoint in DIR, or start over."
)
@click.option("--test", multiple=True, metavar="SOURCE", help="Clean labelled samples to test on; may be repeated.")
@click.option("--compare", is_flag=True, help="Train on everything too, to see what the poison would have done.")
@click.option(
    "--trigger",
    metavar="NAME|FILE",
    help="The trigger, where it is known, as `vbdguard poison` takes it.  [default: those that the scan finds]",
)
@click.option("--mask", type=click.Path(path_type=Path), metavar="FILE", help="Its mask.")
@click.option("--blend-factor", type=float, default=1.0, show_default=True, help="Its weight; 1 is BadNets.")
@click.option(
    "--mode", type=click.Choice(["all-to-one", "all-to-all"]), default="all-to-one", show_default=True, help="Its aim."
)
@click.option("--target", type=int, default=0, show_default=True, help="The class number of an all-to-one attack.")
@click.option(
    "--position",
    type=PositionType(),
    help="Its place.  [default: the bottom-right corner; all-to-all: a place for each class]",
)
@scan_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What goes to stdout.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, and one line of text.")
@click.option("--verbose", "-v", is_flag=True, help="The scan's whole report, and the log.")
@click.option("--no-color", is_flag=True, help="Plain text (so does NO_COLOR=1).")
@cache_options
@click.pass_context
def train(ctx: click.Context, /, sources: tuple[str, ...], output: Path, **options: Any) -> None:
    """Train a model on the samples of SOURCE that a scan holds for clean.

    SOURCE is scanned first (or its cached report is taken), so nothing that was flagged trains under its label. A
    checkpoint is written after every epoch; run the same command again to go on after an interruption. With --test
    the model's clean accuracy is measured, and how often a trigger still gets its way.

    \b
    Examples:
      vbdguard train shards/ -o model/                PreAct-ResNet18 from scratch
      vbdguard train shards/ -o model/ --model small  minutes on a processor
      vbdguard train shards/ -o model/ --test test/ --compare
                                                      beside one of everything
      vbdguard train shards/ -o mended/ --init bad.safetensors --policy unlearn
                                                      mend a poisoned model
      vbdguard train drill/ -o model/ --test test/ --trigger white_grid --target 3
                                                      try the attack of a drill

    \b
    Exit codes:
      0  trained, also where poison was found and kept out
      2  could not complete, or trained although something could not be read or
         a class has a trigger and no flagged sample
      3  nothing scannable found, or nothing left to train on
      130  interrupted; run the same command again to go on
    """
    _check(ctx, options)
    result = _run(sources, output, options)
    write_atomically(output / "result.json", _as_json(result))
    write_atomically(output / "report.json", result.report.to_json())
    _show(result, output, options)
    ctx.exit(0 if result.status == "complete" else 2)


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    check_options(options)
    given = [
        name for name in _ATTACK_SETTINGS if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given and options["trigger"] is None:
        raise click.UsageError(
            f"--{given[0].replace('_', '-')} describes a trigger that is known; name it by --trigger"
        )
    if not options["test"] and (options["compare"] or options["trigger"]):
        raise click.UsageError("--compare and --trigger need test samples; pass --test SOURCE")
    if options["compare"] and options["init"]:
        raise click.UsageError("with --init the model before is there already; drop --compare")


def _run(sources: tuple[str, ...], output: Path, options: dict[str, Any]) -> TrainingResult:
    """Train, with progress and log on stderr."""
    from vbdguard.training.train import train_clean

    from .at_work import at_work, one_or_all, saved_report

    report = saved_report(options["report"])
    with _telling_how_to_go_on(output), at_work(options) as (console, progress):
        return train_clean(
            one_or_all(sources),
            **{name: options[name] for name in _SETTINGS},
            init=options["init"],
            seed=options["seed"],
            device=options["device"],
            checkpoint_dir=output,
            config=scan_config(options),
            report=report,
            test_source=one_or_all(options["test"]) if options["test"] else None,
            attack=_known_attack(options),
            **cache_settings(options),
            progress=progress,
            on_epoch=None if options["quiet"] else _epoch_teller(console),
        )


def _known_attack(options: dict[str, Any]) -> PoisonSettings | None:
    if options["trigger"] is None:
        return None
    from vbdguard.attacks.copying import PoisonSettings

    settings = {name: options[name] for name in _ATTACK_SETTINGS if name != "mask"}
    return PoisonSettings(trigger=named_trigger(options["trigger"], options["mask"]), **settings)


@contextmanager
def _telling_how_to_go_on(output: Path) -> Iterator[None]:
    """Say on an interruption what of the work is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if (output / "training.json").is_file():
            click.echo(
                f"vbdguard: the last finished epoch is kept in {printable(str(output))}; "
                "run the same command again to go on",
                err=True,
            )
        raise


def _epoch_teller(console: Console) -> Callable[[EpochResult], None]:
    """Return what prints a line per epoch; under a bar it stays above it."""

    def tell(epoch: EpochResult) -> None:
        words = f"epoch {epoch.epoch:>3}   loss {epoch.loss:.3f}   accuracy {percent(epoch.accuracy)}"
        console.print(f"{words}   {seconds_words(epoch.seconds)}", soft_wrap=True)

    return tell


def _as_json(result: TrainingResult) -> str:
    return json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"


def _show(result: TrainingResult, output: Path, options: dict[str, Any]) -> None:
    if options["format_"] == "json":
        sys.stdout.write(_as_json(result))
        return
    from .consoles import make_console
    from .terminal import render
    from .training_summary import render_line, render_summary

    console = make_console(no_color=options["no_color"])
    if options["quiet"]:
        render_line(result, console)
        return
    if options["verbose"]:
        render(result.report, console, verbose=True)
    render_summary(result, output, console)
