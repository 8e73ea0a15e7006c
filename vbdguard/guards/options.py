"""The keywords that every guard takes, as one value that is handed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from vbdguard.config import ScanConfig
from vbdguard.errors import ConfigError
from vbdguard.guards.policy import OnPoison, OnUnscanned
from vbdguard.report import ScanReport


class StreamKeywords(TypedDict, total=False):
    """What the guards of streams take; there is no `raw`, since a stream is identified by what it yields."""

    on_poison: OnPoison
    on_unscanned: OnUnscanned
    config: ScanConfig | None
    report: ScanReport | None
    cache_dir: str | Path | None


class Keywords(StreamKeywords, total=False):
    """What the guards of map-style datasets take."""

    raw: Any | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOptions:
    """The keywords of `vbdguard.guard`; `vbdguard.guards.wrapping` says what they mean."""

    on_poison: OnPoison = "drop"
    on_unscanned: OnUnscanned = "raise"
    raw: Any | None = None
    config: ScanConfig | None = None
    report: ScanReport | None = None
    cache_dir: str | Path | None = None

    def for_streams(self) -> StreamKeywords:
        """Return all but `raw`.

        Raises:
            ConfigError: if `raw` is set: there is no index by which it could be asked.
        """
        if self.raw is not None:
            raise ConfigError(
                "raw= is for map-style datasets, got it for a stream; hand in the stream without its random "
                "transforms, and apply them behind the guard"
            )
        return self._common()

    def for_datasets(self) -> Keywords:
        """Return all of them."""
        return {**self._common(), "raw": self.raw}

    def _common(self) -> StreamKeywords:
        return {
            "on_poison": self.on_poison,
            "on_unscanned": self.on_unscanned,
            "config": self.config,
            "report": self.report,
            "cache_dir": self.cache_dir,
        }
