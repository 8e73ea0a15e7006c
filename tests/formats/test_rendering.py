from __future__ import annotations

import subprocess
import sys
from pathlib import PurePath

import pytest

from vbdguard.formats.rendering import FORMATS, SUFFIXES, Extras, format_of, render
from vbdguard.report import ScanReport


@pytest.mark.parametrize("name", FORMATS)
def test_every_report_can_be_written_in_every_format(name: str, any_report: ScanReport) -> None:
    text = render(any_report, name)
    assert text.endswith("\n")
    # Lone surrogates would make the file impossible to write.
    text.encode("utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_report_gives_the_same_bytes(name: str, any_report: ScanReport) -> None:
    assert render(any_report, name) == render(ScanReport.from_json(any_report.to_json()), name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("json", "jsonl")])
def test_no_control_character_of_the_data_gets_through(name: str, evil: ScanReport) -> None:
    assert all(char == "\n" or char.isprintable() for char in render(evil, name))


def test_an_unknown_format_is_refused_with_the_known_ones(clean: ScanReport) -> None:
    with pytest.raises(ValueError, match="expected one of the formats json, jsonl, sarif.*got 'pdf'"):
        render(clean, "pdf")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/r.json", "json"),
        ("r.JSONL", "jsonl"),
        ("r.sarif", "sarif"),
        ("r.sarif.json", "sarif"),
        ("junit.xml", "junit"),
        ("r.v1.md", "markdown"),
        ("r.html", "html"),
        ("r.csv", "csv"),
        ("r.pdf", None),
        ("report", None),
    ],
)
def test_a_file_names_its_format_by_its_suffix(file: str, name: str | None) -> None:
    assert format_of(PurePath(file)) == name


def test_every_suffix_stands_for_a_format() -> None:
    assert {format_of(PurePath(f"r{suffix}")) for suffix in SUFFIXES} == set(FORMATS) - {"github"}


def test_rendering_loads_no_torch(poisoned: ScanReport) -> None:
    code = (
        "import sys; from vbdguard.report import ScanReport; from vbdguard.formats.rendering import FORMATS, render\n"
        "report = ScanReport.from_json(sys.stdin.read())\n"
        "for name in FORMATS: render(report, name)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=poisoned.to_json(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_nothing_is_accepted_unless_it_is_said() -> None:
    assert Extras() == Extras(accepted={}, images=None)
