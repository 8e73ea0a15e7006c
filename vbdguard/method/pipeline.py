"""Stages 1 to 6 in a row: samples in, poisoned classes and flagged samples out (paper, Algorithm 1)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vbdguard.config import DetectorConfig, LabelCheckConfig, MethodConfig
from vbdguard.method.attack_check import Candidate, CheckedCandidate, check_candidates
from vbdguard.method.detector import Detector, fit_detector
from vbdguard.method.device import large_buffers_reused
from vbdguard.method.ensemble import Ensemble, fit_ensemble, predict
from vbdguard.method.flagging import Flags, flag_samples, suggested_labels
from vbdguard.method.label_check import label_agreements
from vbdguard.method.region_detector import fit_region_detector
from vbdguard.method.samples import Samples
from vbdguard.method.suspects import ClassEvidence, find_suspects
from vbdguard.method.trigger import (
    ENOUGH_TO_SHARPEN,
    SharpTrigger,
    TriggerCandidate,
    extract_trigger,
    sharpen_trigger,
)
from vbdguard.progress import Progress, Silent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClassFinding:
    """What stages 1 to 6 say about one class."""

    label: int
    is_poisoned: bool
    p_value: float | None
    """Smallest Kolmogorov-Smirnov p-value over the models, or that of the model whose trigger was kept."""
    attack_success_rate: float | None
    trigger: TriggerCandidate | None
    """Set where the class is poisoned."""
    blend_factor: float | None


@dataclass(frozen=True, slots=True)
class Detection:
    """The outcome of stages 1 to 6."""

    classes: tuple[ClassFinding, ...]
    is_flagged: Tensor
    """bool (N,)."""
    scores: Tensor
    """float (N,) in [0, 1]."""
    suggested: Tensor
    """int64 (N,): a likely true class for flagged samples, -1 for others."""
    seconds: dict[str, float]
    """Wall-clock seconds per stage."""


def detect(samples: Samples, config: MethodConfig, *, seed: int = 0, progress: Progress | None = None) -> Detection:
    """Return which classes and samples are poisoned.

    Args:
        samples: the training set, on the device that does the work.
        config: settings of stages 1 to 6.
        seed: seed of everything random.
        progress: hears of each stage.
    """
    clock = _Clock(progress or Silent())
    generator = torch.Generator().manual_seed(seed)
    n_train = round(len(samples) * config.ensemble.train_share)
    with clock("ensemble", config.ensemble.plan(samples.image_shape, n_train)[1]) as listener:
        ensemble = fit_ensemble(samples, config.ensemble, seed=seed, progress=listener)
    detection = samples.subset(ensemble.detection) if len(ensemble.detection) < len(samples) else samples
    with clock("suspects", len(ensemble.models)) as listener:
        evidence = _evidence(ensemble, detection, config, listener)
    with clock("trigger"):
        candidates = _candidates(evidence, detection)
    with clock("attack_check"):
        checked = check_candidates(candidates, ensemble, detection, config.attack_check, generator=generator)
    harmful = [check for check in checked.values() if check.is_harmful]
    with clock("detector", len(harmful)) as listener:
        detectors = _fit_detectors(harmful, ensemble, samples, config, generator, listener)
    with clock("flagging"):
        flags = flag_samples(samples, detectors)
        sharp: dict[int, SharpTrigger] = {}
        if config.label_check:
            sharp = _sharp_triggers(flags, samples, harmful)
            flags = _look_back(flags, samples, sharp, config, config.label_check, seed)
        findings = _findings(samples, evidence, checked, sharp, flags)
        suggested = _suggest(samples, ensemble, harmful, flags)
    return Detection(findings, flags.is_flagged, flags.scores, suggested, clock.seconds)


class _Clock:
    """Times the stages and tells the listener of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str, total: int | None = None) -> Iterator[Progress]:
        self.progress.begin(stage, total)
        start = time.perf_counter()
        try:
            # Per stage, so that what one stage kept for reuse is given back before the next.
            with large_buffers_reused():
                yield self.progress
        finally:
            self.seconds[stage] = time.perf_counter() - start
            self.progress.end()


def _evidence(
    ensemble: Ensemble, detection: Samples, config: MethodConfig, progress: Progress
) -> list[tuple[ClassEvidence, ...]]:
    found = []
    for fitted in ensemble.models:
        logits = predict(fitted.model, detection.images)
        found.append(find_suspects(fitted.model, detection, logits, config.suspects))
        progress.advance()
    return found


def _candidates(evidence: Sequence[Sequence[ClassEvidence]], detection: Samples) -> list[Candidate]:
    candidates = []
    for model_index, classes in enumerate(evidence):
        for found in classes:
            if not found.is_suspect:
                continue
            trigger = extract_trigger(detection.images[found.likely_poisoned], found.mean_gradient)
            if trigger is not None:
                candidates.append(Candidate(model_index, found, trigger))
    return candidates


def _fit_detectors(
    harmful: Sequence[CheckedCandidate],
    ensemble: Ensemble,
    samples: Samples,
    config: MethodConfig,
    generator: torch.Generator,
    progress: Progress,
) -> list[Detector]:
    detectors: list[Detector] = []
    models = [fitted.model for fitted in ensemble.models]
    for check in harmful:
        trigger, settings = check.candidate.trigger, config.detector
        if isinstance(settings, DetectorConfig):
            model = models[check.candidate.model_index]
            fitted = fit_detector(model, samples, check.label, trigger, settings, generator=generator)
            if fitted.train_accuracy >= settings.min_accuracy:
                detectors.append(fitted)
        else:
            share = replace(settings, others=min(settings.others, settings.others_in_all // len(harmful)))
            detectors.append(fit_region_detector(models, samples, check.label, trigger, share, generator=generator))
        progress.advance()
    return detectors


def _sharp_triggers(flags: Flags, samples: Samples, harmful: Sequence[CheckedCandidate]) -> dict[int, SharpTrigger]:
    """Return the trigger of each class with flagged samples, as those samples show it."""
    sharp = {}
    for check in harmful:
        flagged = flags.members(samples, check.label)
        if len(flagged):
            others = (samples.labels != check.label).nonzero().squeeze(1)[:ENOUGH_TO_SHARPEN]
            trigger = check.candidate.trigger
            sharp[check.label] = sharpen_trigger(trigger, samples.images[flagged], samples.images[others])
    return sharp


def _look_back(
    flags: Flags,
    samples: Samples,
    sharp: dict[int, SharpTrigger],
    config: MethodConfig,
    label_check: LabelCheckConfig,
    seed: int,
) -> Flags:
    """Return the flags without those of classes whose flagged samples belong where they are."""
    if not sharp:
        return flags
    masks = {label: found.trigger.mask for label, found in sharp.items()}
    agreements = label_agreements(samples, flags.is_flagged, masks, config.ensemble, label_check, seed=seed)
    for label, agreement in agreements.items():
        log.info("class %d, mask of %d pixels: %s", label, int(masks[label].sum()), agreement)
        if not agreement.is_stranger:
            flags = flags.cleared(samples, label)
    return flags


def _findings(
    samples: Samples,
    evidence: Sequence[Sequence[ClassEvidence]],
    checked: dict[int, CheckedCandidate],
    sharp: dict[int, SharpTrigger],
    flags: Flags,
) -> tuple[ClassFinding, ...]:
    p_values: dict[int, float] = {}
    for found in (found for classes in evidence for found in classes):
        p_values[found.label] = min(found.p_value, p_values.get(found.label, 1.0))
    findings = []
    for label in range(samples.n_classes):
        check = checked.get(label)
        is_poisoned = bool(len(flags.members(samples, label)))
        findings.append(
            ClassFinding(
                label=label,
                is_poisoned=is_poisoned,
                p_value=check.candidate.evidence.p_value if check else p_values.get(label),
                attack_success_rate=check.attack_success_rate if check else None,
                trigger=_trigger(check, sharp.get(label)) if is_poisoned else None,
                blend_factor=sharp[label].blend_factor if is_poisoned and label in sharp else None,
            )
        )
    return tuple(findings)


def _trigger(check: CheckedCandidate | None, sharp: SharpTrigger | None) -> TriggerCandidate | None:
    if sharp is not None:
        return sharp.trigger
    return check.candidate.trigger if check else None


def _suggest(samples: Samples, ensemble: Ensemble, harmful: Sequence[CheckedCandidate], flags: Flags) -> Tensor:
    suggested = torch.full_like(samples.labels, -1)
    for check in harmful:
        flagged = flags.members(samples, check.label)
        if len(flagged):
            model = ensemble.models[check.candidate.model_index].model
            suggested[flagged] = suggested_labels(model, samples.images[flagged], check.label)
    return suggested
