"""`vbdguard demo`: the whole story on a small set of natural images, offline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .demo_data import DemoSet

if TYPE_CHECKING:
    from rich.console import Console

    from vbdguard.attacks.scoring import FlagScores
    from vbdguard.cleaning.result import CleanCopy
    from vbdguard.progress import Progress
    from vbdguard.report import ScanReport
    from vbdguard.sources.base import RawSample

TRIGGER = "color_grid"
TARGET = 3
RATIO = 0.1
_LEAST_F1 = 0.8
"""Below this the trigger counts as missed, whatever the class verdict says."""


@dataclass(frozen=True, slots=True)
class _Folders:
    root: Path

    @property
    def clean(self) -> Path:
        return self.root / "clean"

    @property
    def poisoned(self) -> Path:
        return self.root / "poisoned"

    @property
    def kept(self) -> Path:
        return self.root / "kept"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


@click.command(short_help="Show the whole story offline: make, poison, scan and clean a small set.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="New folder for the data, kept afterwards.  [default: a temporary one]",
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of all chance.")
@click.option("--no-color", is_flag=True, help="Plain text (so does NO_COLOR=1).")
def demo(directory: Path | None, seed: int, *, keep: bool, no_color: bool) -> int:
    """Make a small set of natural images, poison it, scan it, clean it.

    The images are crops of photographs that come with scikit-image; nothing is downloaded, and the cache of real
    scans is left alone. It takes under two minutes on two cores.

    \b
    Examples:
      vbdguard demo
      vbdguard demo --dir drill      keeps clean/, poisoned/, kept/, quarantine
      vbdguard demo --seed 1         another draw

    \b
    Exit codes:
      0  the trigger was found in the poisoned set, and no alarm was raised on
         the clean one
      1  it was not, or there was a false alarm
      2  could not complete
    """
    from .consoles import logging_to, make_console
    from .progress import showing_progress

    console, chatter = make_console(no_color=no_color), make_console(stderr=True, no_color=no_color)
    started = time.monotonic()
    with (
        _working_folder(directory, keep=keep) as root,
        logging_to(chatter, verbose=False),
        showing_progress(chatter) as progress,
    ):
        succeeded = tell_the_story(DemoSet(seed=seed), root, console, progress)
        _print_ending(console, root if directory or keep else None, time.monotonic() - started)
    return 0 if succeeded else 1


def tell_the_story(demo_set: DemoSet, root: Path, console: Console, progress: Progress) -> bool:
    """Run the demo and return whether vbdguard did what it promises: found the trigger, and raised no false alarm.

    Args:
        demo_set: the images, and the seed of everything that follows.
        root: an empty folder for the data.
        console: where the story goes.
        progress: hears of the stages.

    Raises:
        VBDGuardError: if a step cannot be done.
    """
    from .terminal import render

    folders, seed = _Folders(root), demo_set.seed
    _heading(console, 1, f"A data set: {len(demo_set):,} crops of {len(demo_set.class_names)} photographs")
    _write(demo_set.samples(), folders.clean, "Cropping photographs", len(demo_set), progress)

    target = demo_set.class_names[TARGET]
    _heading(console, 2, f"An attacker stamps a 3 x 3 sticker on {RATIO:.0%} of them and calls those {target!r}")
    poisoned = _poison(folders, seed, progress)
    console.print(f"   {len(poisoned)} samples poisoned, class {TARGET} is the target", style="dim")

    _heading(console, 3, "A scan that is told nothing")
    report = _scan(folders.poisoned, folders.cache, seed, progress)
    render(report, console)
    scores = _scores(report, poisoned)
    _print_scores(console, scores)

    _heading(console, 4, "Only what is clean goes on")
    copy = _clean(folders, report, seed, progress)
    console.print(
        f"   {copy.kept:,} samples kept, {scores.false_negatives} of them poisoned; {copy.flagged:,} in quarantine"
    )

    _heading(console, 5, "The same scan on the set as it was before the attack")
    clean_report = _scan(folders.clean, folders.cache, seed, progress)
    is_calm = clean_report.verdict == "clean"
    console.print("   no alarm" if is_calm else "   FALSE ALARM", style="green" if is_calm else "bold red")
    is_found = TARGET in {entry.label for entry in report.poisoned_classes} and scores.f1 >= _LEAST_F1
    if not is_found:
        console.print("   the trigger in the poisoned set was MISSED", style="bold red")
    return is_found and is_calm


def _poison(folders: _Folders, seed: int, progress: Progress) -> frozenset[str]:
    """Poison the clean set and return the digests of the poisoned samples."""
    from vbdguard.attacks.copying import PoisonSettings, read_truth, write_poisoned_copy
    from vbdguard.sources.opening import open_source

    settings = PoisonSettings(trigger=TRIGGER, ratio=RATIO, target=TARGET, seed=seed)
    copy = write_poisoned_copy(open_source(str(folders.clean)), folders.poisoned, settings, progress=progress)
    return frozenset(entry.digest for entry in read_truth(copy.truth))


def _scan(folder: Path, cache: Path, seed: int, progress: Progress) -> ScanReport:
    from vbdguard.config import ScanConfig
    from vbdguard.scanner import scan

    return scan(str(folder), ScanConfig(seed=seed), cache_dir=cache, progress=progress)


def _clean(folders: _Folders, report: ScanReport, seed: int, progress: Progress) -> CleanCopy:
    from vbdguard.cleaning.clean_copy import clean
    from vbdguard.config import ScanConfig

    settings = ScanConfig(seed=seed)
    return clean(
        str(folders.poisoned), folders.kept, settings, report=report, cache_dir=folders.cache, progress=progress
    )


def _scores(report: ScanReport, poisoned: frozenset[str]) -> FlagScores:
    from vbdguard.attacks.scoring import score_flags

    return score_flags(poisoned, [entry.digest for entry in report.flagged])


def _write(samples: Iterator[RawSample], folder: Path, stage: str, total: int | None, progress: Progress) -> int:
    """Write samples as shards, several to a set, and return how many they were."""
    from vbdguard.sources.writing import write_shards

    def counted() -> Iterator[RawSample]:
        for sample in samples:
            yield sample
            progress.advance()

    progress.begin(stage, total)
    written = write_shards(counted(), folder, per_shard=1000)
    progress.end()
    return written.samples


@contextmanager
def _working_folder(directory: Path | None, *, keep: bool) -> Iterator[Path]:
    from vbdguard.sources.writing import check_writable_folder

    if directory is not None:
        check_writable_folder(directory)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
    elif keep:
        yield Path(tempfile.mkdtemp(prefix="vbdguard-demo-"))
    else:
        with tempfile.TemporaryDirectory(prefix="vbdguard-demo-") as folder:
            yield Path(folder)


def _heading(console: Console, number: int, words: str) -> None:
    console.print()
    console.print(f"{number}. {words}", style="bold")


def _print_scores(console: Console, scores: FlagScores) -> None:
    console.print(
        f"   against the truth: {scores.true_positives} of {scores.true_positives + scores.false_negatives} poisoned "
        f"samples found, {scores.false_positives} false alarms"
    )
    console.print(
        f"   precision {scores.precision:.1%}, recall {scores.recall:.1%}, F1 {scores.f1:.1%}",
        style="green" if scores.f1 >= _LEAST_F1 else "bold red",
    )


def _print_ending(console: Console, folder: Path | None, seconds: float) -> None:
    console.print()
    console.print(f"Done in {seconds:.0f} s. {f'The data are in {folder}.' if folder else 'The data are gone again.'}")
    console.print("On your own data:", style="bold")
    source = "SOURCE" if folder is None else f"{folder}/poisoned"
    for command, words in (
        (f"vbdguard scan {source}", "shards, an image folder, parquet files or a pattern"),
        (f"vbdguard scan {source} -o report.html", "a page with pictures"),
        (f"vbdguard clean {source} DEST", "a copy without the poison, and a quarantine"),
        (f"vbdguard poison {source} DEST --trigger waves --blend-factor 0.2", "a drill with another attack"),
    ):
        console.print(f"  {command}", style="cyan", soft_wrap=True)
        console.print(f"      {words}", style="dim")
