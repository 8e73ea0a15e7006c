"""The scan report, version 1: what a scan found, as data.

Nothing in a report depends on the clock except `timings`: the same data, config and seed give the
same bytes on the same kind of device. `report.schema.json` beside this file describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from vbdguard.errors import ReportError

SCHEMA_VERSION = 1

Status = Literal["complete", "incomplete"]
Verdict = Literal["clean", "poisoned"]


@dataclass(frozen=True, slots=True)
class TriggerReport:
    """The part of a trigger that does the harm, as far as the scan could recover it."""

    bbox: tuple[int, int, int, int]
    """Top, left, height, width in canonical pixels."""
    pixels: int
    """How many pixels the mask sets."""
    blend_factor: float | None
    """Estimated blend factor in (0, 1], or None where it was not estimated."""
    pattern_png: str
    """Base64 of an RGBA PNG (H, W): the pattern, transparent outside the mask."""
    mask_png: str
    """Base64 of an 8-bit grey PNG (H, W): 255 inside the mask."""


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What the scan says about one class."""

    label: int
    name: str
    samples: int
    poisoned: bool
    flagged: int
    p_value: float | None
    """Two-sided Kolmogorov-Smirnov p-value of stage 2, in [0, 1]; None where it could not be computed."""
    attack_success_rate: float | None
    """Share in [0, 1] of other classes' samples that the pasted trigger turns into this class (stage 4)."""
    trigger: TriggerReport | None


@dataclass(frozen=True, slots=True)
class FlaggedSample:
    """One sample that a detector holds for poisoned."""

    key: str
    digest: str
    label: int
    score: float
    """Detector output in [0, 1]."""
    suggested_label: int | None
    """The class that the poisoned model finds second most likely; None where there is none."""


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A sample or a whole shard that could not be read, and why."""

    key: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One unit of reading: a tar or parquet file, a slice of a folder."""

    name: str
    digest: str
    samples: int
    status: Literal["complete", "incomplete", "unreadable"]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What was scanned."""

    digest: str
    sources: tuple[str, ...]
    samples: int
    classes: int
    image_shape: tuple[int, int, int]
    """Height, width and channels of the canonical image."""
    shards: tuple[ShardReport, ...]


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The outcome of one scan."""

    status: Status
    verdict: Verdict
    dataset: DatasetReport
    config: Mapping[str, Any]
    seed: int
    device: str
    classes: tuple[ClassReport, ...]
    flagged: tuple[FlaggedSample, ...]
    skipped: tuple[SkippedSample, ...]
    timings: Mapping[str, float]
    """Seconds per stage: ingest, ensemble, suspects, trigger, attack_check, detector, flagging, total."""
    environment: Mapping[str, str]
    tool: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION
    from_cache: bool = field(default=False, compare=False)
    """Whether this process loaded the findings instead of computing them; not part of the JSON."""

    @property
    def poisoned_classes(self) -> tuple[ClassReport, ...]:
        """The classes with a trigger, in label order."""
        return tuple(c for c in self.classes if c.poisoned)

    def exit_code(self, *, fail_on: Literal["never", "poisoned"] = "poisoned") -> int:
        """Return the exit code of the command line: 0 clean, 1 poisoned, 2 incomplete (findings outrank)."""
        if self.verdict == "poisoned" and fail_on == "poisoned":
            return 1
        return 0 if self.status == "complete" else 2

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready dicts and lists, keys in the order of the schema."""
        body = asdict(replace(self, config=dict(self.config)))
        del body["from_cache"]
        order = (
            *("schema_version", "tool", "status", "verdict", "dataset", "config", "seed", "device"),
            *("classes", "flagged", "skipped", "timings", "environment"),
        )
        return {name: body[name] for name in order}

    def to_json(self) -> str:
        """Return the report as JSON text that ends with a newline."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Rebuild a report from `to_dict`.

        Raises:
            ReportError: if the version is unknown or a field is missing or surplus.
        """
        version = body.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ReportError(f"expected a report with schema_version {SCHEMA_VERSION}, got {version!r}; scan again")
        try:
            data = dict(body)
            dataset = dict(data["dataset"])
            dataset["sources"] = tuple(dataset["sources"])
            dataset["image_shape"] = tuple(dataset["image_shape"])
            dataset["shards"] = tuple(ShardReport(**shard) for shard in dataset["shards"])
            data["dataset"] = DatasetReport(**dataset)
            data["classes"] = tuple(_class_report(entry) for entry in data["classes"])
            data["flagged"] = tuple(FlaggedSample(**entry) for entry in data["flagged"])
            data["skipped"] = tuple(SkippedSample(**entry) for entry in data["skipped"])
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ReportError(f"not a complete vbdguard report: {error}; scan again") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a report from `to_json`.

        Raises:
            ReportError: if the text is not JSON or not a report.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            raise ReportError(f"not JSON: {error}") from error
        if not isinstance(body, dict):
            raise ReportError(f"expected a JSON object, got {type(body).__name__}")
        return cls.from_dict(body)


def _class_report(entry: Mapping[str, Any]) -> ClassReport:
    data = dict(entry)
    if data["trigger"] is not None:
        data["trigger"] = TriggerReport(**{**data["trigger"], "bbox": tuple(data["trigger"]["bbox"])})
    return ClassReport(**data)
