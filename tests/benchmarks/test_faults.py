"""The fault bench in small: one trial, and what it counts."""

from __future__ import annotations

import os
import random
from pathlib import Path

from benchmarks import faults
from benchmarks.faults import disturbed, segments, undisturbed
from benchmarks.scaling_data import Point, write_point


def test_a_killed_scan_gives_the_report_of_an_undisturbed_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_point(Point(samples=240, classes=3, poisoned=0, side=16), data, per_shard=20)
    expected, seconds, until_read = undisturbed(data, tmp_path / "undisturbed")
    assert 0 < until_read < seconds
    trial = disturbed(data, tmp_path / "cache", expected, random.Random(0), (until_read,))
    assert trial.is_same
    assert trial.kills
    assert (trial.segments_rewritten, trial.orphans, trial.leftovers) == (0, 0, 0)


def test_segments_that_are_half_written_do_not_count(tmp_path: Path) -> None:
    assert segments(tmp_path) == {}
    for name in ("whole", ".staging-0"):
        folder = tmp_path / "segments" / name
        folder.mkdir(parents=True)
        (folder / "samples.json").write_text("{}")
        os.utime(folder / "samples.json", ns=(5, 5))
    assert segments(tmp_path) == {"whole": 5}
    assert faults._stage(tmp_path) == "reading"
