"""Stages 1 to 6 of preset `default`: it looks at the samples before it trains anything.

    suspects      classes whose mean differs from all others' as no natural class does, and where    contrast
    trigger       which samples carry something there, and what                                      mixture
    detector      a classifier of stamped and clean windows for each trigger                         window_detector
    ensemble      models that cannot see the triggers learn what the classes look like               label_check
    attack_check  a class stays accused if its flagged samples do not belong there; what the trigger does to a model
    flagging      trigger and content together judge each sample

The published method (`published`) trains models first and asks their gradients for suspects; it misses classes of which
few samples are poisoned, blends that are faint, and accuses clean classes. `docs/method.md` compares them stage by
stage, and `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.attack_check import attack_success_rate
from vbdguard.method.contrast import Place, class_contrasts, contrast_scores, find_places, natural_covariance
from vbdguard.method.detection import ClassFinding, Detection, StageClock
from vbdguard.method.ensemble import fit_ensemble
from vbdguard.method.flagging import suggested_labels
from vbdguard.method.label_check import Membership, blind_fits, membership
from vbdguard.method.mixture import Mixture, PlantedTrigger, View, fit_mixture, planted_trigger
from vbdguard.method.samples import Samples, stratified_split
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.simple_model import SimpleModel
from vbdguard.method.trigger import ENOUGH_TO_SHARPEN, SharpTrigger, sharpen_trigger
from vbdguard.method.window import Window, window_at
from vbdguard.method.window_detector import fit_window_detector
from vbdguard.progress import Progress, Silent

log = logging.getLogger(__name__)

_SAME_PLACE = 3
"""Pixels by which two windows may differ and still show the same thing."""
_NEWS = 0.5
"""Share of a further trigger's carriers that no earlier trigger of the class explains, at least."""
_ATTACKED = 500
"""Samples on which the attack success rate is measured, at most."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A trigger of a class, and how sure each sample of the class is to carry it."""

    label: int
    members: Tensor
    """int64 (n,)."""
    planted: PlantedTrigger
    window: Window
    """Where stage 3 looked."""
    logits: Tensor
    """float32 (n,): posterior log-odds of the members."""
    gain: float
    """Log-likelihood (nats) that the trigger explains."""

    def flagged_among(self, n: int) -> NDArray[np.bool_]:
        """Return bool (n,): which of n samples carry the trigger more likely than not."""
        is_flagged = np.zeros(n, dtype=np.bool_)
        is_flagged[self.members[self.logits > 0].cpu().numpy()] = True
        return is_flagged


@dataclass(frozen=True, slots=True)
class _Blind:
    """What models that see no trigger say of every sample."""

    fits: NDArray[np.float64]
    """(N, L): log-probability of the labels that are suspect."""
    column: Mapping[int, int]


def detect_direct(samples: Samples, config: DirectMethodConfig, *, seed: int, clock: StageClock) -> Detection:
    """Return which classes and samples are poisoned; see `vbdguard.method.pipeline.detect`."""
    with clock("suspects"):
        contrasts = class_contrasts(samples)
        scores = contrast_scores(contrasts, config.contrast)
        places = {
            label: found for label, of_class in enumerate(scores) if (found := find_places(of_class, config.contrast))
        }
    with clock("trigger", len(places)) as listener:
        natural = natural_covariance(contrasts, _size(samples, config), config.contrast.natural_share)
        suspects = _fit_to_blank(_suspects(samples, places, natural, config, seed, listener), config)
    with clock("ensemble", 2 if suspects else 0) as listener:
        blind = _look_without_triggers(samples, suspects, config, seed, listener)
        strangers = [suspect for suspect, fit in _memberships(samples, suspects, blind, config) if fit.is_stranger]
    with clock("detector", len(strangers)) as listener:
        sharper = _train_detectors(samples, strangers, natural, config, seed, listener)
    with clock("flagging"):
        accused = [(suspect, fit) for suspect, fit in _memberships(samples, sharper, blind, config) if fit.is_stranger]
        is_flagged, posterior = _flags(samples, accused, config)
        sharp = _sharp_triggers(is_flagged, samples, [suspect for suspect, _ in accused])
    with clock("attack_check"):
        model = _simple_model(samples, config, seed) if sharp else None
        p_values = {suspect.label: fit.p_value for suspect, fit in accused}
        findings = tuple(
            _finding(samples, label, sharp.get(label), p_values, model) for label in range(samples.n_classes)
        )
        suggested = _suggest(samples, is_flagged, sharp, model)
    return Detection(findings, is_flagged, posterior, suggested, clock.seconds)


def _size(samples: Samples, config: DirectMethodConfig) -> tuple[int, int]:
    height, width, _ = samples.image_shape
    return min(config.mixture.side, height), min(config.mixture.side, width)


def _suspects(
    samples: Samples,
    places: Mapping[int, list[Place]],
    natural: Tensor,
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> list[_Suspect]:
    """Return what each suspicious class seems to carry."""

    def of_class(label: int) -> list[_Suspect]:
        own, others = samples.members(label), _others(samples, label, config, seed)
        found: list[Mixture] = []
        for place in places[label]:
            window = window_at(place.row, place.column, config.mixture.side, samples.image_shape[:2])
            if any(window.overlaps(earlier.window, _SAME_PLACE) for earlier in found):
                continue
            mixture = fit_mixture(View.of(samples.images, own, others, natural, window), config.mixture)
            if mixture is not None and mixture.gain >= config.mixture.min_gain:
                found.append(mixture)
        return [_suspect(label, own, mixture) for mixture in _distinct(found)]

    found = side_by_side(of_class, places, device=samples.device, progress=progress)
    return [suspect for of_one in found for suspect in of_one]


def _suspect(label: int, members: Tensor, mixture: Mixture) -> _Suspect:
    posterior = torch.from_numpy(mixture.posterior).to(members.device)
    return _Suspect(label, members, mixture.planted, mixture.window, posterior.logit(eps=1e-9).float(), mixture.gain)


def _distinct(mixtures: list[Mixture]) -> list[Mixture]:
    """Return the mixtures that each explain samples which those with more gain do not."""
    chosen: list[Mixture] = []
    for mixture in sorted(mixtures, key=lambda found: -found.gain):
        explained = (
            np.max([found.posterior for found in chosen], axis=0) if chosen else np.zeros_like(mixture.posterior)
        )
        if (mixture.posterior * (1 - explained)).sum() >= _NEWS * mixture.posterior.sum():
            chosen.append(mixture)
    return chosen


def _fit_to_blank(suspects: list[_Suspect], config: DirectMethodConfig) -> list[_Suspect]:
    """Return the suspects with the most gain whose triggers together leave enough of the image to judge it by.

    The first is always among them.
    """
    chosen: list[_Suspect] = []
    union: Tensor | None = None
    for suspect in sorted(suspects, key=lambda found: -found.gain):
        mask = suspect.planted.trigger.mask
        wider = mask if union is None else union | mask
        if union is not None and float(wider.float().mean()) > config.label_check.max_blanked:
            log.info("class %d: a trigger of %d pixels is left out: no room", suspect.label, int(mask.sum()))
            continue
        union = wider
        chosen.append(suspect)
    return sorted(chosen, key=lambda found: found.label)


def _look_without_triggers(
    samples: Samples, suspects: list[_Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> _Blind:
    labels = sorted({suspect.label for suspect in suspects})
    if not labels:
        return _Blind(np.zeros((len(samples), 0)), {})
    is_flagged = np.any([suspect.flagged_among(len(samples)) for suspect in suspects], axis=0)
    masks = [suspect.planted.trigger.mask for suspect in suspects]
    flagged = torch.from_numpy(is_flagged).to(samples.device)
    fits = blind_fits(samples, masks, labels, flagged, config.label_check, seed=seed, progress=progress)
    return _Blind(fits.double().cpu().numpy(), {label: i for i, label in enumerate(labels)})


def _memberships(
    samples: Samples, suspects: list[_Suspect], blind: _Blind, config: DirectMethodConfig
) -> list[tuple[_Suspect, Membership]]:
    """Return for each suspect whether the samples that carry its trigger belong to their class."""
    labels = samples.labels.cpu().numpy()
    flagged = [suspect.flagged_among(len(samples)) for suspect in suspects]
    is_kept = ~np.any(flagged, axis=0) if flagged else np.ones(len(samples), dtype=np.bool_)
    judged = []
    for suspect, is_flagged in zip(suspects, flagged, strict=True):
        if is_flagged.sum() < config.mixture.min_carriers:
            continue
        fit = membership(
            blind.fits[:, blind.column[suspect.label]],
            labels == suspect.label,
            is_flagged,
            is_kept,
            own_share=1 / samples.n_classes,
            significance=config.label_check.significance,
        )
        log.info("class %d: %s", suspect.label, _words(suspect, int(is_flagged.sum()), fit))
        judged.append((suspect, fit))
    return judged


def _train_detectors(
    samples: Samples,
    suspects: list[_Suspect],
    natural: Tensor,
    config: DirectMethodConfig,
    seed: int,
    progress: Progress,
) -> list[_Suspect]:
    """Return the suspects as their detectors see them."""

    def judge(suspect: _Suspect) -> _Suspect:
        own, others = suspect.members, _others(samples, suspect.label, config, seed)
        view = View.of(samples.images, own, others, natural, suspect.window)
        planted, best = suspect.planted, None
        for _ in range(config.detector.rounds + 1):
            generator = torch.Generator().manual_seed(seed)
            detector = fit_window_detector(samples, own, others, planted, config.detector, generator=generator)
            logits = detector.logits(samples.images, own)
            if best is None or detector.gain > best.gain:
                best = replace(suspect, planted=planted, logits=logits, gain=detector.gain)
            posterior = logits.sigmoid().double().cpu().numpy()
            if posterior.sum() < config.mixture.min_carriers:
                break
            planted = planted_trigger(view, posterior)
        return best or suspect

    found = side_by_side(judge, suspects, device=samples.device, progress=progress)
    return [suspect for suspect in found if suspect.gain >= config.mixture.min_gain]


def _others(samples: Samples, label: int, config: DirectMethodConfig, seed: int) -> Tensor:
    """Return samples of other classes, int64 (m,), ascending, the same for every stage."""
    generator = torch.Generator().manual_seed(seed)
    others = (samples.labels != label).nonzero().squeeze(1)
    drawn = torch.randperm(len(others), generator=generator)[: config.mixture.others].sort().values
    return others[drawn.to(others.device)]


def _flags(
    samples: Samples, accused: list[tuple[_Suspect, Membership]], config: DirectMethodConfig
) -> tuple[Tensor, Tensor]:
    """Return which samples are poisoned, bool (N,), and how sure that is, float32 (N,) in [0, 1].

    Trigger and content are seen by different models in different pixels, so their log-odds add up.
    """
    posterior = torch.zeros(len(samples), device=samples.device)
    for suspect, fit in accused:
        content = torch.from_numpy(fit.log_ratio).float().to(samples.device)[suspect.members]
        posterior[suspect.members] = torch.maximum(posterior[suspect.members], (suspect.logits - content).sigmoid())
    return posterior > config.detector.threshold, posterior


def _sharp_triggers(is_flagged: Tensor, samples: Samples, suspects: list[_Suspect]) -> dict[int, SharpTrigger]:
    """Return the trigger of each class with flagged samples, as those samples show it; the strongest where several."""
    sharp: dict[int, SharpTrigger] = {}
    for suspect in sorted(suspects, key=lambda found: found.gain):
        flagged = suspect.members[is_flagged[suspect.members] & (suspect.logits > 0)]
        if len(flagged):
            others = (samples.labels != suspect.label).nonzero().squeeze(1)[:ENOUGH_TO_SHARPEN]
            found = sharpen_trigger(suspect.planted.trigger, samples.images[flagged], samples.images[others])
            sharp[suspect.label] = found
    return dict(sorted(sharp.items()))


def _simple_model(samples: Samples, config: DirectMethodConfig, seed: int) -> SimpleModel:
    """Return a model that has learned some of the data as they are, triggers included."""
    share = min(1.0, config.attack_samples / len(samples))
    chosen, _ = stratified_split(samples.labels, share, torch.Generator().manual_seed(seed))
    settings = config.label_check.training
    return fit_ensemble(samples.subset(chosen), settings, seed=seed, progress=Silent()).models[0].model


def _finding(
    samples: Samples,
    label: int,
    sharp: SharpTrigger | None,
    p_values: Mapping[int, float],
    model: SimpleModel | None,
) -> ClassFinding:
    rate = None
    if sharp is not None and model is not None:
        others = (samples.labels != label).nonzero().squeeze(1)
        attacked = samples.images[others[:: max(1, len(others) // _ATTACKED)]]
        rate = attack_success_rate(model, sharp.trigger, attacked, label)
    return ClassFinding(
        label=label,
        is_poisoned=sharp is not None,
        p_value=p_values.get(label),
        attack_success_rate=rate,
        trigger=sharp.trigger if sharp else None,
        blend_factor=sharp.blend_factor if sharp else None,
    )


def _suggest(
    samples: Samples, is_flagged: Tensor, sharp: Mapping[int, SharpTrigger], model: SimpleModel | None
) -> Tensor:
    suggested = torch.full_like(samples.labels, -1)
    if model is None:
        return suggested
    for label in sharp:
        found = (is_flagged & (samples.labels == label)).nonzero().squeeze(1)
        suggested[found] = suggested_labels(model, samples.images[found], label)
    return suggested


def _words(suspect: _Suspect, flagged: int, fit: Membership) -> str:
    return (
        f"trigger of {int(suspect.planted.trigger.mask.sum())} pixels, gain {suspect.gain:.0f}, {flagged} flagged, "
        f"membership {fit.flagged:.2f} (kept {fit.kept:.2f}, if poisoned {fit.if_poisoned:.2f}), p {fit.p_value:.2g}"
    )
