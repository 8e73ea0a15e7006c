"""The scan report, version 1: what a scan found, as data.

Nothing in a report depends on the clock except `timings`: the same data, config and seed give the
same bytes on the same kind of device. `report.schema.json` beside this file describes the JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, NoReturn, Self

from vbdguard.errors import ReportError
from vbdguard.typed_json import MismatchError, plain, rebuild

SCHEMA_VERSION = 1
STAGES = ("ingest", "ensemble", "suspects", "trigger", "attack_check", "detector", "flagging")
"""The stages of a scan, in order; `timings` has their seconds and those of the `total`."""
SCORE_BINS = 20
"""In so many equal bins of [0, 1] the scores of kept samples are counted."""

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
    gradient_png: str | None = None
    """Base64 of an 8-bit grey PNG (H, W): how strongly each pixel moves the class's margin, 255 for the strongest; None
    where no gradient was taken (preset `default`)."""

    def __post_init__(self) -> None:
        top, left, height, width = self.bbox
        if min(top, left) < 0 or min(height, width) < 1:
            raise ValueError(f"bbox must be (top, left, height, width) with a positive size, got {self.bbox}")
        if not 1 <= self.pixels <= height * width:
            raise ValueError(f"pixels must be 1 to {height * width} in a box of {height} x {width}, got {self.pixels}")
        if self.blend_factor is not None and not 0 < self.blend_factor <= 1:
            raise ValueError(f"blend_factor must be in (0, 1], got {self.blend_factor}")


@dataclass(frozen=True, slots=True)
class ArtefactReport:
    """A pattern that samples of one class share though their labels are right: a watermark, a border, a date stamp."""

    bearers: int
    """How many samples seem to bear it."""
    pattern: TriggerReport

    def __post_init__(self) -> None:
        if self.bearers < 1:
            raise ValueError(f"bearers must be at least 1, got {self.bearers}")


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What the scan says about one class."""

    label: int
    name: str
    samples: int
    poisoned: bool
    flagged: int
    p_value: float | None
    """Chance of the evidence in a clean class, in [0, 1]: Kolmogorov-Smirnov test of stage 2 (preset `paper`), or that
    the flagged samples belong to the class (preset `default`); None where there is none."""
    attack_success_rate: float | None
    """Share in [0, 1] of other classes' samples that the pasted trigger turns into this class (stage 4 of `paper`);
    None where it was not measured."""
    trigger: TriggerReport | None
    kept_scores: tuple[int, ...] | None = None
    """How many of the samples that are not flagged score in each twentieth of [0, 1], 1 in the last; the flagged ones
    carry their scores themselves. None where no detector judged the class."""
    artefact: ArtefactReport | None = None
    """What looks like a trigger and is none, since those that bear it belong to the class; the clearest."""

    def __post_init__(self) -> None:
        if not 0 <= self.flagged <= self.samples:
            raise ValueError(f"flagged must be 0 to the class's {self.samples} samples, got {self.flagged}")
        _check_share("p_value", self.p_value)
        _check_share("attack_success_rate", self.attack_success_rate)
        if self.kept_scores is not None:
            _check_counts(self.kept_scores, self.samples - self.flagged)
        if self.artefact is not None and self.artefact.bearers > self.samples:
            raise ValueError(f"an artefact's bearers must be at most {self.samples}, got {self.artefact.bearers}")


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

    def __post_init__(self) -> None:
        _check_digest(self.digest)
        _check_share("score", self.score)


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
    """Hex BLAKE3; empty where the shard could not be read at all."""
    samples: int
    status: Literal["complete", "incomplete", "unreadable"]

    def __post_init__(self) -> None:
        if self.digest or self.status != "unreadable":
            _check_digest(self.digest)
        if self.samples < 0:
            raise ValueError(f"samples must not be negative, got {self.samples}")


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

    def __post_init__(self) -> None:
        _check_digest(self.digest)
        if min(self.samples, self.classes) < 0:
            raise ValueError(f"samples and classes must not be negative, got {self.samples} and {self.classes}")
        if min(self.image_shape) < 1:
            raise ValueError(f"image_shape must be (height, width, channels), got {self.image_shape}")


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The outcome of one scan.

    Raises:
        ValueError: if a value is out of range, or if status or verdict contradict what was found: a report
            with a poisoned class or a flagged sample is never "clean", one with something skipped never "complete".
    """

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
    """Seconds per stage that ran (`STAGES`), and their `total`."""
    environment: Mapping[str, str]
    tool: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION
    from_cache: bool = field(default=False, compare=False, metadata={"json": False})
    """Whether this process loaded the findings instead of computing them; not part of the JSON."""

    def __post_init__(self) -> None:
        # as JSON gives it back, so that a report in memory equals its saved form (a tuple becomes a list)
        object.__setattr__(self, "config", json.loads(json.dumps(dict(self.config), allow_nan=False)))
        _check_timings(self.timings)
        self._check_consistent()

    def _check_consistent(self) -> None:
        found = bool(self.poisoned_classes)
        if found != (self.verdict == "poisoned"):
            raise ValueError(f"the verdict is {self.verdict!r} with {len(self.poisoned_classes)} poisoned classes")
        if self.flagged and not found:
            raise ValueError(f"{len(self.flagged)} samples are flagged but no class is poisoned")
        is_whole = not self.skipped and all(shard.status == "complete" for shard in self.dataset.shards)
        if self.status == "complete" and not is_whole:
            raise ValueError("the status is 'complete' although something could not be read")

    @property
    def poisoned_classes(self) -> tuple[ClassReport, ...]:
        """The classes with a trigger, in label order."""
        return tuple(c for c in self.classes if c.poisoned)

    @property
    def marked_classes(self) -> tuple[ClassReport, ...]:
        """The classes with an artefact, in label order."""
        return tuple(c for c in self.classes if c.artefact is not None)

    def exit_code(self, *, fail_on: Literal["never", "poisoned"] = "poisoned") -> int:
        """Return the exit code of the command line: 0 clean, 1 poisoned, 2 incomplete (findings outrank)."""
        if self.verdict == "poisoned" and fail_on == "poisoned":
            return 1
        return 0 if self.status == "complete" else 2

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready dicts and lists, keys in the order of the schema."""
        body = plain(self)
        order = (
            *("schema_version", "tool", "status", "verdict", "dataset", "config", "seed", "device"),
            *("classes", "flagged", "skipped", "timings", "environment"),
        )
        return {name: body[name] for name in order}

    def to_json(self) -> str:
        """Return the report as ASCII JSON text that ends with a newline."""
        body = self.to_dict()
        flagged = _listed(body["flagged"])
        body["flagged"] = []
        return json.dumps(body, indent=2, allow_nan=False).replace(_NONE_FLAGGED, flagged, 1) + "\n"

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Self:
        """Rebuild a report from parsed JSON.

        Raises:
            ReportError: if the version is unknown, or a value is missing, surplus, of another type, out of range
                or at odds with the rest; says which.
        """
        version = body.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ReportError(f"expected a report with schema_version {SCHEMA_VERSION}, got {version!r}; scan again")
        try:
            return rebuild(cls, dict(body))
        except MismatchError as error:
            raise ReportError(f"not a valid vbdguard report: {error}; scan again") from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a report from `to_json`.

        Raises:
            ReportError: if the text is not JSON or not a report.
        """
        try:
            body = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ReportError(f"expected a vbdguard report as JSON: {error}") from error
        if not isinstance(body, dict):
            raise ReportError(f"expected a vbdguard report as a JSON object, got {type(body).__name__}")
        return cls.from_dict(body)


_NONE_FLAGGED = '\n  "flagged": [],\n'
"""In a report of that indent: no text in it can hold a line break."""


def _listed(flagged: list[dict[str, Any]]) -> str:
    """Return what `json.dumps` makes of the flagged samples with an indent of 2, in a fifth of its time."""
    if not flagged:
        return _NONE_FLAGGED
    entries = json.dumps(flagged, separators=(",\n      ", ": "), allow_nan=False)
    lines = entries[2:-2].replace("},\n      {", "\n    },\n    {\n      ")
    return _NONE_FLAGGED.replace("[]", "[\n    {\n      " + lines + "\n    }\n  ]")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) that every report is valid against."""
    schema: dict[str, Any] = json.loads((files("vbdguard") / "report.schema.json").read_text("utf-8"))
    return schema


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest must be 64 hexadecimal digits, got {digest!r}")


def _check_share(name: str, value: float | None) -> None:
    # NaN fails this comparison too
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_counts(counts: tuple[int, ...], total: int) -> None:
    if len(counts) != SCORE_BINS or min(counts) < 0 or sum(counts) != total:
        raise ValueError(f"kept_scores must be {SCORE_BINS} counts of {total} samples in all, got {list(counts)}")


def _check_timings(timings: Mapping[str, float]) -> None:
    for stage, seconds in timings.items():
        if stage not in (*STAGES, "total"):
            raise ValueError(f"timings has the unknown stage {stage!r}; expected {', '.join(STAGES)} or total")
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"timings must be seconds, got {seconds} for {stage}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
