"""`vbdguard scan` as somebody calls it, in a process of its own, timed from the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed_watch import watch
from vbdguard.config import Preset
from vbdguard.report import ScanReport

_CLEAN_OR_POISONED = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """What the command line of a scan says besides its source and its cache."""

    preset: Preset = "default"
    seed: int = 0
    device: str = "auto"
    jobs: int | None = None
    threads: int | None = None
    """Threads of torch, by OMP_NUM_THREADS."""

    def arguments(self) -> list[str]:
        """Return them as the command takes them."""
        jobs = ["--jobs", str(self.jobs)] if self.jobs else []
        return ["--preset", self.preset, "--seed", str(self.seed), "--device", self.device, *jobs]

    def environ(self) -> dict[str, str]:
        """Return the variables that the process needs."""
        return {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}


@dataclass(frozen=True, slots=True)
class TimedScan:
    """One scan."""

    report: ScanReport
    wall_seconds: float
    """From the start of the process to its end, imports and all."""
    peak_memory_mb: int | None
    peak_unmapped_mb: int | None
    """Without pages of mapped files."""

    @property
    def stages(self) -> Mapping[str, float]:
        """Seconds by stage, from the report, without their total."""
        return {stage: seconds for stage, seconds in self.report.timings.items() if stage != "total"}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures JSON-ready."""
        return {
            "wall": round(self.wall_seconds, 3),
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
            "peak_memory_mb": self.peak_memory_mb,
            "peak_unmapped_mb": self.peak_unmapped_mb,
        }


def timed_scan(source: Path, cache: Path, options: ScanOptions) -> TimedScan:
    """Return what a scan of a folder came to; whether it is cold, the cache's folder decides.

    Raises:
        CommandFailedError: if it could not complete.
    """
    command = [sys.executable, "-m", "vbdguard.cli.main", "scan", str(source), "--quiet", "--format", "json"]
    watched = watch(
        [*command, "--cache-dir", str(cache), *options.arguments()],
        environ=options.environ(),
        fine=_CLEAN_OR_POISONED,
    )
    report = ScanReport.from_json(watched.stdout)
    return TimedScan(report, watched.seconds, watched.peak_memory_mb, watched.peak_unmapped_mb)
