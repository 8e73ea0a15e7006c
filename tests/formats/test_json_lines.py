from __future__ import annotations

import json

from vbdguard.formats.rendering import render
from vbdguard.report import ScanReport


def test_the_lines_are_the_report_in_pieces(any_report: ScanReport) -> None:
    lines = [json.loads(line) for line in render(any_report, "jsonl").splitlines()]
    kinds = {"class": "classes", "flagged": "flagged", "skipped": "skipped"}
    body = {name: value for name, value in lines[0].items() if name != "type"}
    for kind, field in kinds.items():
        body[field] = [{k: v for k, v in line.items() if k != "type"} for line in lines if line["type"] == kind]
    assert lines[0]["type"] == "scan"
    assert ScanReport.from_dict(body) == any_report


def test_the_lines_are_ascii(evil: ScanReport) -> None:
    assert render(evil, "jsonl").isascii()
