from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vbdguard.report import ArtefactReport, ScanReport, ShardReport, SkippedSample, TriggerReport

from ..cli.conftest import (  # noqa: F401 - fixtures
    clean,
    incomplete,
    make_report,
    make_trigger,
    poisoned,
    poisoned_and_incomplete,
)

EVIL = (
    "\x00\x1b[31m\x07\udc80\u202e\ufffe <script>alert(1)</script> \"'&;=+-@|` ``x`` [a](javascript:b) {0} \\| %0A,:"
    "\r\n::error::x ##vso[task] http://evil.example @someone ]]> </testcase> *b* _i_ #1\n\n# head\n| a | b |"
)
"""What a class, a file or a message may be called."""

Make = Callable[..., ScanReport]


@pytest.fixture
def evil(make_report: Make, make_trigger: Any) -> ScanReport:  # noqa: F811
    """A report in which everything that comes from the data is hostile."""
    report = make_report(
        {3: make_trigger(), 4: None},
        names=lambda k: f"{EVIL}{k}",
        keys=lambda i: f"{EVIL}/{i}",
        skipped=(SkippedSample(EVIL, EVIL, EVIL), SkippedSample("=1+1", "x", "y")),
        sources=(EVIL,),
    )
    report = with_artefact(report, 5, make_trigger())
    shards = (ShardReport(EVIL, "ab" * 32, 500, "incomplete"), *report.dataset.shards[1:])
    return replace(report, dataset=replace(report.dataset, shards=shards))


@pytest.fixture
def suspicious(make_report: Make) -> ScanReport:  # noqa: F811
    """A report with a class that stands out, short of proof."""
    report = make_report()
    classes = tuple(replace(entry, p_value=0.004) if entry.label == 2 else entry for entry in report.classes)
    return replace(report, classes=classes)


@pytest.fixture
def marked(make_report: Make, make_trigger: Any) -> ScanReport:  # noqa: F811
    """A clean report in which 80 of the 100 samples of class 2 bear a mark."""
    return with_artefact(make_report(), 2, make_trigger())


def with_artefact(report: ScanReport, label: int, pattern: TriggerReport) -> ScanReport:
    """Return the report with an artefact in one class."""
    artefact = ArtefactReport(80, pattern)
    classes = (replace(entry, artefact=artefact) if entry.label == label else entry for entry in report.classes)
    return replace(report, classes=tuple(classes))


@pytest.fixture(params=["clean", "poisoned", "incomplete", "poisoned_and_incomplete", "suspicious", "marked", "evil"])
def any_report(request: pytest.FixtureRequest) -> ScanReport:
    """Each of the reports above."""
    report: ScanReport = request.getfixturevalue(request.param)
    return report


@pytest.fixture
def huge(make_report: Make, make_trigger: Any) -> ScanReport:  # noqa: F811
    """1,000 poisoned classes in 20 shards: 8 samples flagged in each, each in a shard of its own."""
    trigger = make_trigger()
    report = make_report(dict.fromkeys(range(1000), trigger), classes=1000)
    flagged = tuple(
        replace(sample, key=f"train-{n % 20:06d}.tar/{n}", digest=f"{n:064x}")
        for n, sample in enumerate(report.flagged)
    )
    shards = tuple(ShardReport(f"train-{n:06d}.tar", "ab" * 32, 5000, "complete") for n in range(20))
    return replace(report, flagged=flagged, dataset=replace(report.dataset, shards=shards))
