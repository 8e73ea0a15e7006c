"""Stages 1 to 6 in a row: samples in, poisoned classes and flagged samples out (paper, Algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.config import DetectorConfig, LabelCheckConfig, MethodConfig
from vbdguard.method.attack_check import Candidate, CheckedCandidate, check_candidates
from vbdguard.method.detector import Detector, fit_detector
from vbdguard.method.device import large_buffers_reused
from vbdguard.method.ensemble import Ensemble, fit_ensemble, predict
from vbdguard.method.flagging import Flags, flag_samples, suggested_labels
from vbdguard.method.label_check import fit_content_model, label_agreement
from vbdguard.method.region_detector import fit_region_detector
from vbdguard.method.samples import Samples
from vbdguard.method.suspects import ClassEvidence, find_suspects
from vbdguard.method.trigger import TriggerCandidate, estimate_blend_factor, extract_trigger, sharpen_trigger
from vbdguard.progress import Progress, Silent


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
    with large_buffers_reused():
        with clock("ensemble", config.ensemble.epochs) as listener:
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
            if config.label_check and flags.is_flagged.any():
                flags = _look_back(flags, samples, detectors, config, config.label_check, seed)
            poisoned = {d.label for d in detectors if flags.is_flagged[samples.members(d.label)].any()}
            findings = _findings(samples, evidence, checked, poisoned, flags, is_sharp=config.label_check is not None)
            suggested = _suggest(samples, ensemble, checked, poisoned, flags)
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
    for check in harmful:
        trigger = check.candidate.trigger
        if isinstance(config.detector, DetectorConfig):
            model = ensemble.models[check.candidate.model_index].model
            fitted = fit_detector(model, samples, check.label, trigger, config.detector, generator=generator)
            if fitted.train_accuracy >= config.detector.min_accuracy:
                detectors.append(fitted)
        else:
            models = [fitted.model for fitted in ensemble.models]
            detectors.append(
                fit_region_detector(models, samples, check.label, trigger, config.detector, generator=generator)
            )
        progress.advance()
    return detectors


def _look_back(
    flags: Flags,
    samples: Samples,
    detectors: Sequence[Detector],
    config: MethodConfig,
    label_check: LabelCheckConfig,
    seed: int,
) -> Flags:
    """Clear the classes whose flagged samples belong where they are."""
    content = fit_content_model(samples, flags.is_flagged, config.ensemble, label_check, seed=seed)
    for detector in detectors:
        if not flags.is_flagged[samples.members(detector.label)].any():
            continue
        agreement = label_agreement(content, samples, detector.label, flags.is_flagged, label_check)
        if not agreement.is_stranger:
            flags = flags.cleared(samples, detector.label)
    return flags


def _findings(
    samples: Samples,
    evidence: Sequence[Sequence[ClassEvidence]],
    checked: dict[int, CheckedCandidate],
    poisoned: set[int],
    flags: Flags,
    *,
    is_sharp: bool,
) -> tuple[ClassFinding, ...]:
    p_values: dict[int, float] = {}
    for found in (found for classes in evidence for found in classes):
        p_values[found.label] = min(found.p_value, p_values.get(found.label, 1.0))
    findings = []
    for label in range(samples.n_classes):
        check = checked.get(label)
        trigger, blend_factor = None, None
        if check is not None and label in poisoned:
            trigger = check.candidate.trigger
            if is_sharp:
                members = samples.members(label)
                flagged = samples.images[members[flags.is_flagged[members]]]
                others = samples.images[samples.labels != label]
                trigger = sharpen_trigger(trigger, flagged, others)
                blend_factor = estimate_blend_factor(trigger.mask, flagged, others)
        findings.append(
            ClassFinding(
                label=label,
                is_poisoned=label in poisoned,
                p_value=check.candidate.evidence.p_value if check else p_values.get(label),
                attack_success_rate=check.attack_success_rate if check else None,
                trigger=trigger,
                blend_factor=blend_factor,
            )
        )
    return tuple(findings)


def _suggest(
    samples: Samples, ensemble: Ensemble, checked: dict[int, CheckedCandidate], poisoned: set[int], flags: Flags
) -> Tensor:
    suggested = torch.full_like(samples.labels, -1)
    for label in sorted(poisoned):
        members = samples.members(label)
        flagged = members[flags.is_flagged[members]]
        model = ensemble.models[checked[label].candidate.model_index].model
        suggested[flagged] = suggested_labels(model, samples.images[flagged], label)
    return suggested
