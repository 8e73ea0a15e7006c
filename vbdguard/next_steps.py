"""What to type after a scan, and how to get the same report again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass

from vbdguard.config import method_preset
from vbdguard.escaping import printable
from vbdguard.report import ScanReport

_LONG = 120
"""A longer list of sources is not repeated."""


@dataclass(frozen=True, slots=True)
class Step:
    """A line to type, and what for."""

    command: str
    purpose: str


def next_steps(report: ScanReport) -> tuple[Step, ...]:
    """Return what a reader of the report would do now; at least one step."""
    sources, options = _sources(report), " ".join(_options(report))
    scan = f"vbdguard scan {sources} {options}".rstrip()
    steps = []
    if report.status == "incomplete":
        steps.append(Step(scan, "once what could not be read is repaired or removed"))
    if report.verdict == "poisoned":
        steps.append(Step(f"{scan} -o report.html", "the images themselves (from the cache, no new scan)"))
        if len(report.dataset.sources) == 1:
            steps.append(Step(f"vbdguard clean {sources} clean/ {options}".rstrip(), "a copy without them"))
        steps.append(Step("vbdguard.guard(loader)", "in Python: train without them"))
    elif report.status == "complete":
        steps.append(Step(f"{scan} --receipt vbdguard.lock", "`vbdguard verify` then notices changes"))
        steps.append(Step("vbdguard.guard(loader)", "in Python: notices data that change later"))
    return tuple(steps)


def scan_command(report: ScanReport) -> str:
    """Return the command that scans the same data with the same settings, as far as options can say it."""
    return " ".join(["vbdguard scan", _sources(report), *_options(report), f"--device {_word(report.device)}"])


def has_own_settings(report: ScanReport) -> bool:
    """Return whether the method ran with settings that no option of the command line can name."""
    preset = report.config.get("preset")
    if preset not in ("default", "paper"):
        return True
    return bool(json.loads(json.dumps(asdict(method_preset(preset)))) != report.config.get("method"))


def _options(report: ScanReport) -> list[str]:
    """Return the options of the scan that are not the usual ones."""
    config, options = report.config, []
    if (preset := config.get("preset", "default")) != "default":
        options.append(f"--preset {_word(preset)}")
    if report.seed:
        options.append(f"--seed {report.seed}")
    if isinstance(size := config.get("image_size"), list):
        options.append(f"--image-size {_word('x'.join(map(str, size)))}")
    if (label_key := config.get("label_key")) is not None:
        options.append(f"--label-key {_word(label_key)}")
    if (rule := config.get("folder_rule")) is not None:
        options.append(f"--folder-rule {_word(rule)}")
    return options


def _sources(report: ScanReport) -> str:
    quoted = " ".join(map(_word, report.dataset.sources))
    return quoted if 0 < len(quoted) <= _LONG else "SOURCE"


def _word(value: object) -> str:
    return shlex.quote(printable(str(value)))
