"""Stages 1 to 6 as published (paper, section 3.3 and Algorithm 1): preset `paper`.

It keeps to the letter, and so to all samples at once: its memory grows with the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vbdguard.config import MethodConfig
from vbdguard.method.attack_check import Candidate, CheckedCandidate, check_candidates
from vbdguard.method.detection import ClassFinding, Detection, StageClock
from vbdguard.method.detector import GradientDetector, fit_detector
from vbdguard.method.ensemble import Ensemble, fit_ensemble, predict
from vbdguard.method.flagging import Flags, flag_samples, suggested_labels
from vbdguard.method.samples import Samples
from vbdguard.method.suspects import ClassEvidence, find_suspects
from vbdguard.method.trigger import extract_trigger
from vbdguard.progress import Progress


def detect_as_published(samples: Samples, config: MethodConfig, *, seed: int, clock: StageClock) -> Detection:
    """Return which classes and samples are poisoned; see `vbdguard.method.pipeline.detect`."""
    generator = torch.Generator().manual_seed(seed)
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
        findings = _findings(samples, evidence, checked, flags)
        suggested = _suggest(samples, ensemble, harmful, flags)
    return Detection(findings, flags.is_flagged, flags.scores, suggested, clock.seconds)


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
) -> list[GradientDetector]:
    detectors = []
    for check in harmful:
        trigger, settings = check.candidate.trigger, config.detector
        model = ensemble.models[check.candidate.model_index].model
        fitted = fit_detector(model, samples, check.label, trigger, settings, generator=generator)
        if fitted.train_accuracy >= settings.min_accuracy:
            detectors.append(fitted)
        progress.advance()
    return detectors


def _findings(
    samples: Samples,
    evidence: Sequence[Sequence[ClassEvidence]],
    checked: dict[int, CheckedCandidate],
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
                trigger=check.candidate.trigger if check and is_poisoned else None,
                blend_factor=None,
                mean_gradient=check.candidate.evidence.mean_gradient if check and is_poisoned else None,
            )
        )
    return tuple(findings)


def _suggest(samples: Samples, ensemble: Ensemble, harmful: Sequence[CheckedCandidate], flags: Flags) -> Tensor:
    suggested = torch.full_like(samples.labels, -1)
    for check in harmful:
        flagged = flags.members(samples, check.label)
        if len(flagged):
            model = ensemble.models[check.candidate.model_index].model
            suggested[flagged] = suggested_labels(model, samples.images[flagged], check.label)
    return suggested
