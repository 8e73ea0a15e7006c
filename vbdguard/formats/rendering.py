"""One report in any format: the table of formats, and the function that renders one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

from vbdguard.report import ScanReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from vbdguard.ingest.stored_images import StoredImages

FORMATS: dict[str, str] = {
    "json": "the whole report (schema: vbdguard.report.report_schema)",
    "jsonl": "the same, a line for the scan, for each class, each flagged sample and each skipped one",
    "sarif": "SARIF 2.1.0 for code scanning, a result per class and shard",
    "junit": "JUnit XML, a test per class",
    "markdown": "a summary for a pull request or a CI job",
    "html": "one page with pictures that needs nothing else",
    "csv": "the flagged samples",
    "github": "annotations for the log of a GitHub job",
}
"""The formats by name, with what each is."""

_BY_SUFFIX = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".sarif": "sarif",
    ".xml": "junit",
    ".md": "markdown",
    ".html": "html",
    ".csv": "csv",
}
SUFFIXES = tuple(_BY_SUFFIX)
"""The suffixes of files that `format_of` knows."""

_MODULES = {"jsonl": "json_lines", "csv": "csv_table"}


@dataclass(frozen=True, slots=True)
class Extras:
    """What a format may use besides the report."""

    accepted: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of findings that a baseline accepts, with the reason of each."""
    images: StoredImages | None = None
    """The samples' pixels, for the HTML page; None where they are not at hand."""


def render(report: ScanReport, name: str, extras: Extras | None = None) -> str:
    """Return a report as text in one of `FORMATS`.

    Args:
        report: a scan's outcome.
        name: the format.
        extras: what else may be shown; None for nothing.

    Raises:
        ValueError: if there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"expected one of the formats {', '.join(FORMATS)}, got {name!r}")
    if name == "json":
        return report.to_json()
    module = import_module(f"vbdguard.formats.{_MODULES.get(name, name)}")
    one = cast("Callable[[ScanReport, Extras], str]", module.render)
    return one(report, extras or Extras())


def format_of(path: PurePath) -> str | None:
    """Return the format that a file's name asks for, None where it is not one of ours."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-2:] == [".sarif", ".json"]:
        return "sarif"
    return _BY_SUFFIX.get(suffixes[-1]) if suffixes else None
