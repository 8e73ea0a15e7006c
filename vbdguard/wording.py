"""How numbers, places and classes of a report are put into words."""

from __future__ import annotations

from vbdguard.escaping import printable
from vbdguard.findings import Finding
from vbdguard.report import ClassReport, TriggerReport

WHOLE_IMAGE = "whole image"
_OPAQUE = 0.9
STAGE_WORDS = {
    "ingest": "Reading the data",
    "ensemble": "Training simple models",
    "suspects": "Testing each class for a trigger",
    "trigger": "Recovering the trigger",
    "attack_check": "Checking that it is an attack",
    "detector": "Training detectors",
    "flagging": "Scoring every sample",
}


def class_words(c: ClassReport | Finding) -> str:
    """Return a class's label with its name, where that says more."""
    return str(c.label) if c.name in ("", str(c.label)) else f"{c.label} {printable(c.name)}"


def finding_words(finding: Finding) -> str:
    """Return class, rule and size of a finding."""
    if finding.rule == "suspicious-class":
        return f"class {class_words(finding)}: suspicious, p-value {p_value_words(finding.p_value)}"
    flagged = f"{finding.flagged:,} of {count_words(finding.samples, 'sample')} flagged"
    return f"class {class_words(finding)}: backdoor trigger, {flagged}, p-value {p_value_words(finding.p_value)}"


def artefact_words(entry: ClassReport, shape: tuple[int, int, int]) -> str:
    """Return what a class's artefact is and what that means; "" where it has none."""
    if entry.artefact is None:
        return ""
    what, bearers = trigger_words(entry.artefact.pattern, shape), f"{entry.artefact.bearers:,}"
    return (
        f"class {class_words(entry)}: a pattern ({what}) on {bearers} of {count_words(entry.samples, 'sample')}, "
        f"{artefact_judgement(entry.artefact.pattern, shape)}"
    )


def artefact_judgement(pattern: TriggerReport, shape: tuple[int, int, int]) -> str:
    """Return what is known of the samples that show an artefact: nothing, where it hides all that they show."""
    is_everywhere = place_words(pattern.bbox, shape) == WHOLE_IMAGE
    if is_everywhere and (pattern.blend_factor or 0.0) > _OPAQUE:
        return "which show nothing else: look whether it belongs there"
    return "whose labels fit as far as can be told: an artefact, no alarm"


def trigger_words(trigger: TriggerReport, shape: tuple[int, int, int]) -> str:
    """Return size and place of a trigger."""
    _, _, height, width = trigger.bbox
    return f"{height} x {width} {place_words(trigger.bbox, shape)}"


def place_words(bbox: tuple[int, int, int, int], shape: tuple[int, int, int]) -> str:
    """Return where a box lies in words: "bottom right", "centre", "whole image"."""
    top, left, height, width = bbox
    if height * width > 0.7 * shape[0] * shape[1]:
        return WHOLE_IMAGE
    row = ("top", "", "bottom")[min(2, int(3 * (top + height / 2) / shape[0]))]
    column = ("left", "", "right")[min(2, int(3 * (left + width / 2) / shape[1]))]
    return f"{row} {column}".strip() or "centre"


def blend_words(trigger: TriggerReport) -> str:
    """Return the blend factor as a percentage."""
    return "?" if trigger.blend_factor is None else f"{trigger.blend_factor:.0%}"


def attack_words(rate: float | None) -> str:
    """Return which images the trigger turns."""
    return "other images" if rate is None else f"{percent(rate)} of other images"


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as a percentage."""
    return "-" if share is None else f"{share:.1%}"


def p_value_words(p: float | None) -> str:
    """Return a p-value, in powers of ten where it is tiny."""
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p > 0 else "0"


def seconds_words(seconds: float) -> str:
    """Return a duration."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def count_words(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun; `many` is the plural where it is not formed by `s`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
