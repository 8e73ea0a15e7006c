"""Stages 1 to 6 of preset `default`: it looks at the samples before it trains anything.

    suspects      classes whose mean differs from all others' as no natural class does, and where
                                                                        contrast, rare_detail, level
    trigger       which samples carry something there, and what; who else carries the same
                                                                        mixture, suspect_triggers, mirrored
                                                                        repeated_pattern, common_trigger, likeness,
                                                                        evidence, trigger_search, extent
    ensemble      models that cannot see the triggers: do their carriers belong in their class?
                                                                        blind_models, content_model, label_check
                                                                        strangers, cross_section, kin_judgement
    detector      a classifier of stamped and clean windows for each    all_detectors, kin_reading, moves,
                                                                        window_detector
    attack_check  do those that it flags belong there?                  strangers, kin_judgement
    flagging      trigger and content together judge each sample        judgement, sharp_trigger

The class means and the last stage look at all samples, the others at a bounded number of each class (`population`).

The published method (`published`) trains models first and asks their gradients for suspects; it misses classes of which
few samples are poisoned, blends that are faint, and accuses clean classes. `docs/method.md` compares them stage by
stage, and `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.all_detectors import train_detectors
from vbdguard.method.contrast import ClassMeans
from vbdguard.method.detection import Artefact, ClassFinding, Detection, StageClock
from vbdguard.method.judgement import judge_fitted, judge_unseen
from vbdguard.method.kin_judgement import Judged, together
from vbdguard.method.level import image_levels
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.sharp_trigger import sharpen_trigger, usual_of
from vbdguard.method.strangers import find_strangers, memberships
from vbdguard.method.suspect import Suspect
from vbdguard.method.suspect_triggers import LOOKS, find_suspect_triggers


def detect_direct(population: Population, config: DirectMethodConfig, *, seed: int, clock: StageClock) -> Detection:
    """Return which classes and samples are poisoned; see `vbdguard.method.pipeline.detect`."""
    with clock("suspects"):
        drawn = population.fit_sample(config.sample, seed)
        samples = population.at(drawn)
        if len(samples) == len(population):  # in memory now, so nothing is read again
            population = Population.of(samples)
        levels = image_levels(population, samples, config)
    with clock("trigger", LOOKS * samples.n_classes) as listener:
        suspects = find_suspect_triggers(samples, levels, config, seed, listener)
    with clock("ensemble") as listener:
        found = find_strangers(samples, suspects, config, seed, listener)
    with clock("detector", len(found.strangers)) as listener:
        sharper = train_detectors(samples, found.strangers, config, seed, listener)
    with clock("attack_check"):
        alone = memberships(samples, sharper, [], config, among=sharper)
        judged = together(alone, config, chances=len(sharper))
        accused = [(suspect, fit) for suspect, fit in judged if fit.is_stranger]
    with clock("flagging"):
        fitted = judge_fitted(samples, accused)
        is_flagged = fitted.posterior > config.detector.threshold
        sharp = _sharp_triggers(is_flagged, fitted.suggested, samples, levels[0].means, accused)
        shown = [(suspect, fit) for suspect, fit in accused if suspect.label in sharp]
        judgement = judge_unseen(population, drawn, fitted, shown)
        is_flagged = judgement.posterior > config.detector.threshold
        findings = _findings(population, accused, sharp, found.artefacts)
        suggested = torch.where(is_flagged, judgement.suggested, -1)
    return Detection(findings, is_flagged, judgement.posterior, suggested, clock.seconds)


def _sharp_triggers(
    is_flagged: Tensor, suggested: Tensor, samples: Samples, means: ClassMeans, accused: Judged
) -> dict[int, PlantedTrigger]:
    """Return the trigger of each class with flagged samples, as those samples show it; the strongest where several."""
    sharp: dict[int, PlantedTrigger] = {}
    for suspect in sorted((suspect for suspect, _ in accused), key=lambda found: found.gain):
        flagged = suspect.members[is_flagged[suspect.members] & (suspect.logits > 0)]
        if len(flagged):
            usual = usual_of(suggested[flagged], samples, ~is_flagged, means)
            rough = PlantedTrigger(suspect.trigger, suspect.planted.blend_factor)
            varies = usual.varies_in(rough.trigger.mask)
            sharp[suspect.label] = sharpen_trigger(rough, samples.images[flagged], usual) if varies else rough
    return dict(sorted(sharp.items()))


def _findings(
    population: Population,
    accused: Judged,
    sharp: Mapping[int, PlantedTrigger],
    artefacts: list[Suspect],
) -> tuple[ClassFinding, ...]:
    """Return what is to be said of each class."""
    # Of a class with several triggers the clearest is shown.
    p_values = {suspect.label: fit.p_value for suspect, fit in sorted(accused, key=lambda entry: entry[0].gain)}
    marks = _clearest(artefacts, population)
    return tuple(
        ClassFinding(
            label=label,
            is_poisoned=label in sharp,
            p_value=p_values.get(label),
            attack_success_rate=None,
            trigger=sharp[label].trigger if label in sharp else None,
            blend_factor=sharp[label].blend_factor if label in sharp else None,
            artefact=marks.get(label),
        )
        for label in range(population.n_classes)
    )


def _clearest(suspects: list[Suspect], population: Population) -> dict[int, Artefact]:
    """Return the clearest artefact of each class that has one."""
    found: dict[int, Artefact] = {}
    for suspect in sorted(suspects, key=lambda suspect: suspect.gain):
        share = float((suspect.logits > 0).float().mean())
        bearers = round(share * int((population.labels == suspect.label).sum()))
        found[suspect.label] = Artefact(suspect.trigger, suspect.planted.blend_factor, bearers)
    return found
