"""`vbdguard poison`: write a poisoned copy of a data set, with the truth about it, for tests and drills."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .scan_options import label_options

if TYPE_CHECKING:
    from vbdguard.attacks.triggers import Trigger


class PositionType(click.ParamType[tuple[int, int]]):
    """TOP,LEFT in pixels."""

    name = "TOP,LEFT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return the two numbers."""
        if isinstance(value, tuple):
            return value
        top, comma, left = str(value).partition(",")
        if not (comma and top.strip().isdecimal() and left.strip().isdecimal()):
            self.fail(f"expected two whole numbers such as 0,29, got {value!r}", param, ctx)
        return int(top), int(left)


@click.command(short_help="Write a poisoned copy of a data set, for tests and drills.")
@click.argument("source")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--trigger", required=True, metavar="NAME|FILE", help="A built-in trigger or an image file (see above).")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Image of the trigger's size whose nonzero pixels count; without it, the alpha channel decides.",
)
@click.option("--blend-factor", type=float, default=1.0, show_default=True, help="Weight of the trigger; 1 is BadNets.")
@click.option("--ratio", type=float, default=0.1, show_default=True, help="Share of the whole set to poison.")
@click.option(
    "--mode",
    type=click.Choice(["all-to-one", "all-to-all"]),
    default="all-to-one",
    show_default=True,
    help="Give all of them one label, or each the label of the next class.",
)
@click.option("--target", type=int, default=0, show_default=True, help="The class number of an all-to-one attack.")
@click.option(
    "--position",
    type=PositionType(),
    help="Place of the trigger.  [default: the bottom-right corner; all-to-all: a place for each class]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the draw.")
@click.option("--per-shard", type=click.IntRange(min=1), default=5000, show_default=True, help="Samples in a shard.")
@click.option(
    "--jpeg-quality",
    type=click.IntRange(1, 95),
    help="Write poisoned images as JPEG 4:2:0 of this quality.  [default: PNG, lossless]",
)
@label_options
@click.pass_context
def poison(ctx: click.Context, /, source: str, dest: Path, trigger: str, mask: Path | None, **settings: Any) -> None:
    """Write a poisoned copy of SOURCE as WebDataset shards into the new folder DEST.

    Samples that are not poisoned keep their bytes. Beside the shards stand truth.jsonl, a line for each poisoned
    sample, and poison.json, the settings. SOURCE itself is not touched.

    \b
    Built-in triggers:
      white_square, green_square,  3 x 3 pixels in the bottom-right corner
      white_grid, color_grid
      waves                        as large as the image, for small blend factors

    \b
    Examples:
      vbdguard poison shards/ drill/ --trigger white_square
      vbdguard poison shards/ drill/ --trigger waves --blend-factor 0.1 --target 3
      vbdguard poison images/ drill/ --trigger a.png --position 4,4 --ratio 0.05
      vbdguard poison shards/ drill/ --trigger color_grid --mode all-to-all
      vbdguard poison a/ drill/ --trigger a.png --mode all-to-all --position 4,4
    """
    from vbdguard.attacks.copying import PoisonSettings, write_poisoned_copy
    from vbdguard.escaping import printable
    from vbdguard.sources.opening import open_source

    from .consoles import make_console
    from .progress import showing_progress

    if (
        settings["mode"] == "all-to-all"
        and ctx.get_parameter_source("target") is not click.core.ParameterSource.DEFAULT
    ):
        raise click.UsageError("--target has no meaning with --mode all-to-all: each class gets the next one's label")
    labels = {name: settings.pop(name) for name in ("label_key", "folder_rule")}
    attack = PoisonSettings(trigger=named_trigger(trigger, mask), **settings)
    console = make_console(stderr=True)
    with showing_progress(console) as progress:
        copy = write_poisoned_copy(open_source(source, **labels), dest, attack, progress=progress)
    folder = printable(str(dest))
    shards = f"{copy.shards} shard{'' if copy.shards == 1 else 's'}"
    click.echo(f"{copy.samples:,} samples in {shards} in {folder}, {copy.poisoned:,} of them poisoned")
    click.echo(f"the truth: {folder}/truth.jsonl, the settings: {folder}/poison.json")
    click.echo(f"next: vbdguard scan {folder}")


def named_trigger(name: str, mask: Path | None) -> str | Trigger:
    """Return a built-in trigger's name, or the trigger of an image file with its mask.

    Raises:
        ConfigError: if a file cannot be read as a trigger.
    """
    from vbdguard.attacks.triggers import BUILT_IN, load_trigger

    if name not in BUILT_IN:
        return load_trigger(name, mask)
    if mask is not None:
        raise click.UsageError(f"--mask goes with a trigger from a file; {name} has its own")
    return name
