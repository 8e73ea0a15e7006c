"""What a user asked of a stream's guard, handed down to the file that knows the stream's library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbdguard.config import ScanConfig
from vbdguard.guards.policy import Policy
from vbdguard.guards.screen import Screen, make_screen, scanned
from vbdguard.guards.stream_source import StreamSource
from vbdguard.report import ScanReport
from vbdguard.sources.base import ExifRule


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a user asked for."""

    policy: Policy
    config: ScanConfig | None
    report: ScanReport | None
    cache_dir: Path | None

    def scan(self, items: Any, *, name: str, exif: ExifRule = "stored") -> tuple[ScanReport, Screen]:
        """Scan a stream of raw items; return the report, and the screen that it means."""
        source = StreamSource(items, exif=exif)
        report, digests = scanned(source, self.config, self.report, name=name, cache_dir=self.cache_dir)
        return report, make_screen(report, digests, self.policy, name=name, cache_dir=self.cache_dir)
