"""A scan report in at most ten lines of plain text, for logs and training scripts.

    vbdguard: POISONED. A trigger in 1 of 10 classes; 900 of 9,000 samples flagged (10.0%).
      class 3 cat: 3 x 3 bottom right, blend 100%; turns 98.7% of other images; 900 flagged
      Training leaves the flagged samples out (on_poison="drop").

`vbdguard.cli.terminal` draws the long form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from vbdguard.escaping import printable
from vbdguard.guards.policy import OnPoison
from vbdguard.report import ClassReport, ScanReport
from vbdguard.wording import (
    artefact_words,
    attack_words,
    blend_words,
    class_words,
    count_words,
    p_value_words,
    trigger_words,
)

_MAX_CLASSES, _MAX_MARKED, _MAX_SKIPPED = 4, 2, 2

_CONSEQUENCES: dict[OnPoison, str] = {
    "drop": "Training leaves the flagged samples out",
    "relabel": "Training sees the flagged samples under the classes that they look like",
    "warn": "Training sees the flagged samples: whoever knows the trigger will own the model",
    "raise": "Training stops here",
}


def summarise(report: ScanReport, *, on_poison: OnPoison | None = None) -> str:
    """Return the verdict, what was found where and how sure that is, and what to do; lines end in newlines.

    Args:
        report: a scan's outcome.
        on_poison: what the guard does about poison, to be said; None where nobody guards.
    """
    head, *rest = _lines(report, on_poison)
    return "\n  ".join([f"vbdguard: {head}", *rest]) + "\n"


def _lines(report: ScanReport, on_poison: OnPoison | None) -> Iterator[str]:
    yield _verdict(report)
    for entry in report.poisoned_classes[:_MAX_CLASSES]:
        yield _finding(entry, report.dataset.image_shape)
    if (more := len(report.poisoned_classes) - _MAX_CLASSES) > 0:
        yield f"and {count_words(more, 'more poisoned class', 'more poisoned classes')}"
    for entry in report.marked_classes[:_MAX_MARKED]:
        yield artefact_words(entry, report.dataset.image_shape)
    if report.status == "incomplete":
        yield _unread(report)
    if report.verdict == "poisoned" and on_poison is not None:
        yield f'{_CONSEQUENCES[on_poison]} (on_poison="{on_poison}").'
    elif report.verdict == "poisoned":
        yield "vbdguard.guard(...) trains without the flagged samples."
    elif report.status == "complete":
        yield "Looked for triggers that repeat across images; clean-label poison and warping are not seen."


def _verdict(report: ScanReport) -> str:
    data = report.dataset
    size = f"{count_words(data.samples, 'sample')} of {count_words(data.classes, 'class', 'classes')}"
    if report.verdict == "poisoned":
        share = len(report.flagged) / data.samples if data.samples else 0.0
        classes = count_words(data.classes, "class", "classes")
        return (
            f"POISONED. A trigger in {len(report.poisoned_classes):,} of {classes}; "
            f"{len(report.flagged):,} of {data.samples:,} samples flagged ({share:.1%})."
        )
    if report.status == "incomplete":
        return f"INCOMPLETE. No trigger found in {size}, but not all could be read: not cleared."
    return f"CLEAN. No trigger found in {size}."


def _finding(entry: ClassReport, shape: tuple[int, int, int]) -> str:
    """One poisoned class: what, where, how sure, how much."""
    what = "a trigger that was not recovered"
    if entry.trigger is not None:
        what = f"{trigger_words(entry.trigger, shape)}, blend {blend_words(entry.trigger)}"
    proof = f"turns {attack_words(entry.attack_success_rate)}"
    if entry.attack_success_rate is None:
        proof = f"p-value {p_value_words(entry.p_value)}"
    return f"class {class_words(entry)}: {what}; {proof}; {entry.flagged:,} flagged"


def _unread(report: ScanReport) -> str:
    reasons = Counter(sample.reason for sample in report.skipped)
    counts = ", ".join(f"{count:,} {printable(reason)}" for reason, count in reasons.most_common(_MAX_SKIPPED))
    keys = [printable(sample.key) for sample in report.skipped[:_MAX_SKIPPED]]
    if len(report.skipped) > len(keys):
        keys.append("...")
    named = f" ({', '.join(keys)})" if keys else ""
    return f"Could not be read: {counts or 'a part of a shard'}{named}; repair or remove."
