"""JSON Lines: the report in pieces that a program can read one by one.

The first line is the scan; then come the classes, the flagged samples and what was skipped. `type` says which.

    jq -r 'select(.type == "flagged") | .key' report.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vbdguard.formats.rendering import Extras
from vbdguard.report import ScanReport

_PARTS = {"classes": "class", "flagged": "flagged", "skipped": "skipped"}


def render(report: ScanReport, _: Extras) -> str:
    """Return the report as lines of ASCII JSON."""
    return "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in _lines(report))


def _lines(report: ScanReport) -> Iterator[dict[str, Any]]:
    body = report.to_dict()
    yield {"type": "scan", **{name: value for name, value in body.items() if name not in _PARTS}}
    for name, kind in _PARTS.items():
        for entry in body[name]:
            yield {"type": kind, **entry}
