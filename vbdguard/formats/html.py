"""The HTML page: one file that needs no network, shows the evidence first, and runs nothing that the data brought.

Every value is escaped by the template engine, and a content security policy names the hash of the page's own style
and script, so that nothing else could run or load even if a name slipped through.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import jinja2
from markupsafe import Markup

from vbdguard.by_shard import flagged_per_place, place_path
from vbdguard.escaping import visible
from vbdguard.findings import findings_of
from vbdguard.formats.page_cards import poisoned_classes
from vbdguard.formats.page_histogram import HEIGHT
from vbdguard.formats.rendering import Extras
from vbdguard.next_steps import has_own_settings, next_steps, scan_command
from vbdguard.report import STAGES, ScanReport
from vbdguard.wording import (
    STAGE_WORDS,
    artefact_judgement,
    class_words,
    count_words,
    p_value_words,
    percent,
    seconds_words,
    trigger_words,
)

_MOST_SKIPPED, _MOST_SHARDS, _MOST_REASONS, _MOST_CLASSES = 200, 200, 20, 2_000
_LONGEST = 300
"""Characters of a name from the data."""


def render(report: ScanReport, extras: Extras) -> str:
    """Return the report as one HTML page, under 5 MB at 1,000 classes; what is more is counted, not shown."""
    style, script = _part("page.css"), _part("page.js")
    poisoned = poisoned_classes(report, extras)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            policy=_policy(style, script),
            style=Markup(style),  # noqa: S704 - ours
            script=Markup(script),  # noqa: S704 - ours
            poisoned=poisoned,
            has_images=extras.images is not None,
            verdict=_verdict(report),
            steps=[step for step in next_steps(report) if not step.command.endswith("report.html")],  # this is it
            suspicious=[finding for finding in findings_of(report) if finding.rule == "suspicious-class"],
            classes=report.classes[:_MOST_CLASSES],
            shards=_shards(report),
            more_shards=max(0, len(flagged_per_place(report)) - _MOST_SHARDS),
            skipped=report.skipped[:_MOST_SKIPPED],
            more_skipped=max(0, len(report.skipped) - _MOST_SKIPPED),
            reasons=Counter(entry.reason for entry in report.skipped).most_common(_MOST_REASONS),
            unread=[shard for shard in report.dataset.shards if shard.status != "complete"][:_MOST_SKIPPED],
            settings=list(islice(_flat(report.config), _MOST_SKIPPED)),
            has_own_settings=has_own_settings(report),
            command=scan_command(report),
            timings=_timings(report),
            bar_height=HEIGHT,
        )
    )


def _verdict(report: ScanReport) -> Mapping[str, str]:
    """Return the kind, the word and the sentence that head the page."""
    data = report.dataset
    classes = count_words(data.classes, "class", "classes")
    if report.verdict == "poisoned":
        share = len(report.flagged) / data.samples if data.samples else 0.0
        found = f"A backdoor trigger in {len(report.poisoned_classes):,} of {classes}: "
        flagged = f"{len(report.flagged):,} of {data.samples:,} samples are flagged ({share:.1%})."
        return {"kind": "poisoned", "word": "Poisoned", "sentence": found + flagged}
    size = f"{count_words(data.samples, 'sample')} of {classes}"
    if report.status == "incomplete":
        sentence = f"No trigger found in {size}, but not everything could be read. These data are not cleared."
        return {"kind": "incomplete", "word": "Incomplete", "sentence": sentence}
    return {"kind": "clean", "word": "Clean", "sentence": f"No trigger found in {size}."}


def _shards(report: ScanReport) -> list[tuple[str, int]]:
    counts = list(flagged_per_place(report).items())[:_MOST_SHARDS]
    return [(place_path(report, name), count) for name, count in counts]


def _timings(report: ScanReport) -> list[tuple[str, str]]:
    stages = [(STAGE_WORDS[name], report.timings[name]) for name in STAGES if name in report.timings]
    if "total" in report.timings:
        stages.append(("Total", report.timings["total"]))
    return [(words, seconds_words(seconds)) for words, seconds in stages]


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", str(value)


def _policy(style: str, script: str) -> str:
    """Return the content security policy that lets the page's own style and script run, and nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode("ascii") for part in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return (files("vbdguard.formats") / "templates" / name).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters |= {
        "class_words": class_words,
        "percent": percent,
        "p_value": p_value_words,
        "artefact_judgement": artefact_judgement,
        "trigger_words": trigger_words,
    }
    return environment


def _shown(value: Any) -> Any:
    """Return a value as the template prints it: text with every odd character spelled out, and not without end."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > _LONGEST and not value.startswith("data:image/webp;base64,"):
        value = f"{value[: _LONGEST // 2]} ... {value[-_LONGEST // 2 :]}"
    return visible(value)
