"""Turn what was read and what was found into the report."""

from __future__ import annotations

import base64
import io
import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from vbdguard import __version__
from vbdguard.build import code_digest
from vbdguard.config import ScanConfig
from vbdguard.ingest.digest import DIGEST_BYTES
from vbdguard.ingest.reader import Ingested
from vbdguard.report import (
    SCORE_BINS,
    ArtefactReport,
    ClassReport,
    DatasetReport,
    FlaggedSample,
    ScanReport,
    TriggerReport,
)

if TYPE_CHECKING:
    from torch import Tensor

    from vbdguard.method.pipeline import ClassFinding, Detection
    from vbdguard.method.trigger import TriggerCandidate

_SCORE_DIGITS = 6


def build_report(
    ingested: Ingested, detection: Detection, config: ScanConfig, *, device: str, seconds: Mapping[str, float]
) -> ScanReport:
    """Return the report on a scan.

    Args:
        ingested: what was read.
        detection: what stages 1 to 6 found, on the store's samples in the store's order.
        config: the settings that ran.
        device: the kind of device that computed.
        seconds: wall-clock seconds per stage and in total.
    """
    flagged = _flagged(ingested, detection)
    counts = defaultdict(int, {entry.label: 0 for entry in flagged})
    for entry in flagged:
        counts[entry.label] += 1
    scores = _kept_scores(ingested, detection)
    classes = tuple(_class_report(ingested, finding, counts, scores) for finding in detection.classes)
    return ScanReport(
        status=ingested.status,
        verdict="poisoned" if any(entry.poisoned for entry in classes) else "clean",
        dataset=_dataset(ingested),
        config=config.result_settings(),
        seed=config.seed,
        device=device,
        classes=classes,
        flagged=flagged,
        skipped=ingested.skipped,
        timings=_rounded(seconds),
        environment=_environment(device),
        tool={"name": "vbdguard", "version": __version__, "code": code_digest()},
    )


def renew_report(cached: ScanReport, ingested: Ingested, *, seconds: Mapping[str, float]) -> ScanReport:
    """Return a cached report under the names that the same data bear now.

    The findings hang on digests; shards may have been renamed or cut anew since.
    """
    store = ingested.store
    known = {bytes.fromhex(entry.digest): entry for entry in cached.flagged}
    digests = np.ascontiguousarray(store.digests).view(f"V{DIGEST_BYTES}")[:, 0].tolist()
    flagged = (_under_key(known[digest], store.keys[index]) for index, digest in enumerate(digests) if digest in known)
    names = dict(zip(store.class_labels, store.class_names, strict=True))
    return replace(
        cached,
        status=ingested.status,
        dataset=_dataset(ingested),
        classes=tuple(replace(entry, name=names.get(entry.label, entry.name)) for entry in cached.classes),
        flagged=tuple(sorted(flagged, key=_by_key)),
        skipped=ingested.skipped,
        timings=_rounded(seconds),
    )


def _under_key(entry: FlaggedSample, key: str) -> FlaggedSample:
    return entry if entry.key == key else replace(entry, key=key)


def _dataset(ingested: Ingested) -> DatasetReport:
    return DatasetReport(
        digest=ingested.dataset_digest,
        sources=tuple(sorted(ingested.sources)),
        samples=len(ingested.store),
        classes=sum(count > 0 for count in ingested.class_counts),
        image_shape=ingested.store.image_shape,
        shards=ingested.shards,
    )


def _flagged(ingested: Ingested, detection: Detection) -> tuple[FlaggedSample, ...]:
    store = ingested.store
    indices: NDArray[np.int64] = detection.is_flagged.cpu().numpy().nonzero()[0]
    scores = detection.scores.cpu().numpy()
    suggested = detection.suggested.cpu().numpy()
    entries = (
        FlaggedSample(
            key=store.keys[index],
            digest=store.digests[index].tobytes().hex(),
            label=store.class_labels[store.labels[index]],
            score=round(float(scores[index]), _SCORE_DIGITS),
            suggested_label=store.class_labels[suggested[index]] if suggested[index] >= 0 else None,
        )
        for index in indices.tolist()
    )
    return tuple(sorted(entries, key=_by_key))


def _by_key(entry: FlaggedSample) -> tuple[str, str]:
    return entry.key, entry.digest


def _kept_scores(ingested: Ingested, detection: Detection) -> dict[int, tuple[int, ...]]:
    """Return the histogram of the kept samples' scores for each class index that a detector judged."""
    scores, labels = detection.scores.cpu().numpy(), ingested.store.labels
    is_kept = ~detection.is_flagged.cpu().numpy()
    found = {}
    for finding in detection.classes:
        if finding.is_poisoned:
            of_class = scores[is_kept & (labels == finding.label)]
            found[finding.label] = tuple(np.histogram(of_class, SCORE_BINS, (0.0, 1.0))[0].tolist())
    return found


def _class_report(
    ingested: Ingested,
    finding: ClassFinding,
    flagged: Mapping[int, int],
    kept_scores: Mapping[int, tuple[int, ...]],
) -> ClassReport:
    label = ingested.store.class_labels[finding.label]
    return ClassReport(
        label=label,
        name=ingested.store.class_names[finding.label],
        samples=ingested.class_counts[finding.label],
        poisoned=finding.is_poisoned,
        flagged=flagged[label],
        p_value=finding.p_value,
        attack_success_rate=finding.attack_success_rate,
        trigger=None
        if finding.trigger is None
        else _trigger_report(finding.trigger, finding.blend_factor, finding.mean_gradient),
        kept_scores=kept_scores.get(finding.label),
        artefact=None
        if (artefact := finding.artefact) is None
        else ArtefactReport(artefact.bearers, _trigger_report(artefact.pattern, artefact.blend_factor)),
    )


def _trigger_report(
    trigger: TriggerCandidate, blend_factor: float | None, mean_gradient: Tensor | None = None
) -> TriggerReport:
    mask = trigger.mask.cpu().numpy()
    colours = trigger.pattern.permute(1, 2, 0).round().cpu().numpy().astype(np.uint8)
    alpha = mask.astype(np.uint8) * 255
    return TriggerReport(
        bbox=trigger.bbox,
        pixels=int(mask.sum()),
        blend_factor=None if blend_factor is None else round(blend_factor, 2),
        pattern_png=_png(np.dstack([colours * mask[..., None], alpha])),
        mask_png=_png(alpha),
        gradient_png=None if mean_gradient is None else _png(_gradient_picture(mean_gradient)),
    )


def _gradient_picture(mean_gradient: Tensor) -> NDArray[np.uint8]:
    """Return how strong a gradient (C, H, W) is at each pixel, uint8 (H, W), 255 where it is strongest."""
    strength = mean_gradient.square().sum(0).sqrt().cpu().numpy()
    picture: NDArray[np.uint8] = np.rint(strength / max(float(strength.max()), 1e-30) * 255).astype(np.uint8)
    return picture


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in seconds.items()}


def _environment(device: str) -> dict[str, str]:
    import torch

    from vbdguard.method.device import activation_dtype

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "precision": str(activation_dtype(torch.device(device))).removeprefix("torch."),
    }
