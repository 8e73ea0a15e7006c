"""CSV: the flagged samples, a row each.

Spreadsheets run what begins like a formula, so such cells get an apostrophe in front (OWASP, "CSV injection"). Rows
are to be matched by `digest`, which no spreadsheet touches.
"""

from __future__ import annotations

import csv
import io

from vbdguard.escaping import visible
from vbdguard.formats.rendering import Extras
from vbdguard.report import ScanReport

COLUMNS = ("key", "digest", "label", "class", "score", "suggested_label", "suggested_class")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


def render(report: ScanReport, _: Extras) -> str:
    """Return the flagged samples as RFC 4180 CSV with a header; lines end in newlines."""
    names = {entry.label: entry.name for entry in report.classes}
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    for sample in report.flagged:
        suggested = sample.suggested_label
        rows.writerow(
            (
                _cell(sample.key),
                sample.digest,
                sample.label,
                _cell(names.get(sample.label, "")),
                sample.score,
                "" if suggested is None else suggested,
                "" if suggested is None else _cell(names.get(suggested, "")),
            )
        )
    return buffer.getvalue()


def _cell(text: str) -> str:
    """Return text from the data as a cell that stays text."""
    is_formula = text.lstrip(" ").startswith(_FORMULA)
    return f"'{visible(text)}" if is_formula else visible(text)
