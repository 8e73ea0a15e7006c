"""What `vbdguard train` says at its end: what trained, how good it is, and whether a trigger still works."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vbdguard.escaping import printable
from vbdguard.wording import count_words, percent, seconds_words

if TYPE_CHECKING:
    from vbdguard.training.result import AttackResult, TrainingResult

_MAX_ATTACKS = 12
_OBEYS = 0.1
"""From this attack success rate on, a trained model counts as still obeying the trigger."""


def render_line(result: TrainingResult, console: Console) -> None:
    """Print the outcome in one line."""
    console.print(_headline(result), soft_wrap=True)


def render_summary(result: TrainingResult, output: Path, console: Console) -> None:
    """Print the outcome, a table of before and after where there was a test, and where the weights lie."""
    console.print()
    render_line(result, console)
    last = result.epochs[-1]
    seconds = seconds_words(sum(epoch.seconds for epoch in result.epochs))
    console.print(
        f"{count_words(len(result.epochs), 'epoch')} in {seconds} on {result.settings['device']}, "
        f"in the last one loss {last.loss:.3f} and accuracy {percent(last.accuracy)}",
        style="dim",
        soft_wrap=True,
    )
    if result.clean_accuracy is not None:
        console.print()
        console.print(_table(result))
    if result.status == "incomplete":
        console.print(_what_is_missing(result), style="yellow", soft_wrap=True)
    console.print()
    console.print(f"Weights: {shlex.quote(printable(str(output / 'model.safetensors')))}", soft_wrap=True)


def _headline(result: TrainingResult) -> Text:
    counts = result.counts
    line = Text("TRAINED", "bold green" if result.status == "complete" else "bold yellow")
    line.append(f": {printable(result.model_name)} on {counts.kept:,} samples that the scan kept", "default")
    deeds = ((counts.left_out, "left out"), (counts.relabelled, "relabelled"), (counts.unlearnt, "unlearnt"))
    words = [f"{number:,} {deed}" for number, deed in deeds if number]
    line.append(f"; of {counts.flagged:,} flagged {', '.join(words)}" if words else "; none was flagged", "default")
    if result.clean_accuracy is not None:
        line.append(f"; clean accuracy {percent(result.clean_accuracy)}", "default")
    if result.attack_success_rate is not None:
        line.append(f", attack success rate {percent(result.attack_success_rate)}", "default")
    return line


def _table(result: TrainingResult) -> Table:
    has_before = result.clean_accuracy_before is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("On the test samples")
    if has_before:
        table.add_column("poisoned model", justify="right")
    table.add_column("this model", justify="right")
    _add(table, "clean accuracy", result.clean_accuracy_before, Text(percent(result.clean_accuracy)), has_before)
    for attack in result.attacks[:_MAX_ATTACKS]:
        _add(table, _attack_words(attack), attack.before, _after(attack.after), has_before)
    if len(result.attacks) > 1:
        overall = result.attack_success_rate or 0.0
        _add(table, "all attacks together", result.attack_success_rate_before, _after(overall), has_before)
    if not result.attacks:
        _add(table, "no trigger to try: the scan found none", None, Text("-"), has_before)
    return table


def _add(table: Table, words: str, before: float | None, after: Text, has_before: bool) -> None:
    cells = [Text(words), *([Text(percent(before))] if has_before else []), after]
    table.add_row(*cells)


def _attack_words(attack: AttackResult) -> str:
    name = printable(attack.target_name)
    target = str(attack.target_label) if name == str(attack.target_label) else f"{attack.target_label} {name}"
    return f"attack success, {attack.trigger} trigger, class {target}"


def _after(rate: float) -> Text:
    return Text(percent(rate), "bold red" if rate >= _OBEYS else "green")


def _what_is_missing(result: TrainingResult) -> str:
    skipped = len(result.report.skipped)
    if skipped:
        return f"{count_words(skipped, 'entry', 'entries')} could not be read and did not train; see report.json"
    return "A class has a trigger and no flagged sample: its poison trained; see report.json"
