from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vbdguard.report import (
    ClassReport,
    DatasetReport,
    FlaggedSample,
    ScanReport,
    ShardReport,
    SkippedSample,
    TriggerReport,
)

DIGEST = "0123456789abcdef" * 4
SKIPPED = SkippedSample(
    "train-000001.tar/img_12", "undecodable", "expected a JPEG, got text; repair or drop the sample"
)

MakeTrigger = Callable[..., TriggerReport]
MakeReport = Callable[..., ScanReport]


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _trigger(
    bbox: tuple[int, int, int, int] = (28, 28, 3, 3),
    *,
    frame: tuple[int, int] = (32, 32),
    color: tuple[int, int, int] = (250, 20, 20),
    blend_factor: float | None = 1.0,
) -> TriggerReport:
    """A filled box of one colour."""
    top, left, height, width = bbox
    mask = np.zeros(frame, np.uint8)
    mask[top : top + height, left : left + width] = 255
    pattern = np.zeros((*frame, 4), np.uint8)
    pattern[mask > 0] = (*color, 255)
    return TriggerReport(bbox, int((mask > 0).sum()), blend_factor, png(pattern), png(mask))


def _report(
    triggers: Mapping[int, TriggerReport | None] | None = None,
    *,
    classes: int = 10,
    names: Callable[[int], str] = "thing{}".format,
    keys: Callable[[int], str] = "train-000000.tar/img_{}".format,
    skipped: tuple[SkippedSample, ...] = (),
    sources: tuple[str, ...] = ("shards/",),
    **changes: Any,
) -> ScanReport:
    """A report on `classes` classes of 100 samples, 8 of them flagged in each class that has a trigger."""
    triggers = triggers or {}
    rows = tuple(
        ClassReport(
            label=k,
            name=names(k),
            samples=100,
            poisoned=k in triggers,
            flagged=8 if k in triggers else 0,
            p_value=1e-12 if k in triggers else 0.4,
            attack_success_rate=0.987 if k in triggers else None,
            trigger=triggers.get(k),
        )
        for k in range(classes)
    )
    shard_status = "incomplete" if skipped else "complete"
    fields: dict[str, Any] = {
        "status": shard_status,
        "verdict": "poisoned" if triggers else "clean",
        "dataset": DatasetReport(
            digest=DIGEST,
            sources=sources,
            samples=100 * classes,
            classes=classes,
            image_shape=(32, 32, 3),
            shards=(
                ShardReport("train-000000.tar", DIGEST, 50 * classes, "complete"),
                ShardReport("train-000001.tar", DIGEST, 50 * classes, shard_status),  # type: ignore[arg-type]
            ),
        ),
        "config": {"preset": "default", "method": {"models": 3}},
        "seed": 0,
        "device": "cpu",
        "classes": rows,
        "flagged": tuple(FlaggedSample(keys(i), DIGEST, k, 0.99 - 0.01 * i, None) for k in triggers for i in range(8)),
        "skipped": skipped,
        "timings": {"ingest": 1.25, "ensemble": 20.0, "total": 21.5},
        "environment": {"torch": "2.15.0"},
        "tool": {"name": "vbdguard", "version": "0.1.0"},
    }
    return ScanReport(**{**fields, **changes})


@pytest.fixture
def make_trigger() -> MakeTrigger:
    return _trigger


@pytest.fixture
def make_report() -> MakeReport:
    return _report


@pytest.fixture
def clean() -> ScanReport:
    return _report()


@pytest.fixture
def poisoned() -> ScanReport:
    return _report({3: _trigger()})


@pytest.fixture
def incomplete() -> ScanReport:
    return _report(skipped=(SKIPPED,))


@pytest.fixture
def poisoned_and_incomplete() -> ScanReport:
    return _report({3: _trigger()}, skipped=(SKIPPED,))
