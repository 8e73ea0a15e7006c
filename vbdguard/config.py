"""Every knob of a scan.

`paper` holds the values of the published experiments (paper, section 4.1, and the configuration that
its authors published); `default` is whatever measures best. A `ScanConfig` carries one resolved
`MethodConfig`, so that what ran is always written down in full.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from vbdguard.errors import ConfigError

Preset = Literal["default", "paper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """The settings of stages 1 to 6 (placeholder until the stages land)."""

    @classmethod
    def preset(cls, name: Preset) -> MethodConfig:
        """Return the settings that a preset's name stands for."""
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanConfig:
    """The settings of one scan.

    Args:
        preset: `default`, or `paper` for the published settings.
        seed: seed of everything random, 0 to 2**32 - 1.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        image_size: canonical height and width in pixels, one number or (height, width), 8 to 512;
            None takes it from the data (see `vbdguard.ingest.decode`).
        label_key: name of the tar member suffix, JSON key or parquet column that holds the label;
            None looks for the usual ones.
        jobs: processes for reading; None takes one per core. Never changes a result.
        method: settings of stages 1 to 6; None takes those of the preset.

    Raises:
        ConfigError: if a value is out of range.
    """

    preset: Preset = "default"
    seed: int = 0
    device: str = "auto"
    image_size: int | tuple[int, int] | None = None
    label_key: str | None = None
    jobs: int | None = None
    method: MethodConfig = field(default=None)  # type: ignore[assignment]  # resolved in __post_init__

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigError(f"preset must be one of {', '.join(get_args(Preset))}, got {self.preset!r}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        if isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", (self.image_size, self.image_size))
        if self.image_size is not None and not all(8 <= side <= 512 for side in self.image_size):
            raise ConfigError(f"image_size must be 8 to 512 pixels a side, got {self.image_size}")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be at least 1, got {self.jobs}")
        if self.method is None:
            object.__setattr__(self, "method", MethodConfig.preset(self.preset))

    @property
    def reading_jobs(self) -> int:
        """How many processes read: `jobs`, or one per core that this process may use."""
        return self.jobs or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def result_settings(self) -> dict[str, Any]:
        """Return the settings that a result depends on, JSON-ready: everything but `jobs`, `seed` and `device`."""
        body = asdict(self)
        for name in ("jobs", "seed", "device"):
            del body[name]
        if self.image_size is not None:
            body["image_size"] = list(self.image_size)  # type: ignore[arg-type]  # resolved to a pair above
        return body
