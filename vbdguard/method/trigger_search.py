"""Stage 3 of preset `default`, third look: a detector of a trigger that many classes share looks for it in all.

What a matched filter finds is right in two classes of three where each has a few dozen faint carriers. A network that
has learned the trigger from stamped samples, as in stage 5, tells carriers better, and it does not matter which of the
classes that taught it where to look were right. It is asked about all places of all samples at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.common_trigger import peaks
from vbdguard.method.dense_detector import DenseDetector
from vbdguard.method.evidence import SHARE_OF_CARRIERS, mean_log_ratios, over_others, standing_out
from vbdguard.method.kin_reading import common_reading
from vbdguard.method.moves import Reading
from vbdguard.method.place_filters import Places, filters_for
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples, evenly, other_samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect, flagged_by_none
from vbdguard.method.window import window_at
from vbdguard.method.window_detector import Sight, WindowDetector, fit_window_detectors
from vbdguard.progress import Progress

_VARIED, _USUAL, _OWN = 6000, 1000, 1000
"""Samples that tell how windows vary, what is usual at a place, and of a class that tell which places are likeliest."""
_FEWEST_USUAL, _USUAL_PIXELS = 50, 2**25
"""Where images are large fewer must do for the former."""

Corner = tuple[int, int]


def search(
    samples: Samples, kin: Sequence[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return where each class is likeliest to carry the trigger of kin, if anywhere; nothing if the trigger is large.

    Args:
        samples: the training set, of three classes at least.
        kin: suspects of many classes that seem to show the same trigger in images as they are.
        config: all settings.
        seed: of the network.
        progress: gets one step for each class.
    """
    learning = config.detector.thorough(len(kin))
    is_honest = flagged_by_none(samples, kin)
    sights = _sights(samples, kin, learning, seed, is_honest)
    if not sights:
        progress.advance(samples.n_classes)
        return []
    middle = _in_the_middle(sights[0])

    def fitted(sights: list[Sight]) -> WindowDetector:
        return fit_window_detectors(samples, sights, learning, generator=torch.Generator().manual_seed(seed))[-1]

    # Side by side, be it with itself, so that it does not hang on the number of cores.
    (detector,) = side_by_side(fitted, [[*sights, middle]], device=samples.device)
    planted, level = middle.reading.planted, kin[0].level
    top, left, height, width = planted.trigger.bbox
    dense = _everywhere(samples, detector, planted)
    likely = _likely_corners(samples, dense, config, progress)

    def of_class(label: int) -> list[Suspect]:
        own, others = samples.members(label), other_samples(samples, label, _USUAL, seed, among=is_honest)

        def at(corner: Corner) -> WindowDetector:
            return detector.at(
                dense.places.window(*corner), dense.filters.weights(*corner), samples.images, own, others
            )

        asked = [(corner, at(corner)) for corner in likely[label]]
        (row, column), found = max(asked, key=lambda one: one[1].gain)
        trigger = planted.trigger.moved(row - top, column - left)
        suspect = Suspect(
            label=label,
            members=own,
            level=level,
            planted=PlantedTrigger(trigger, planted.blend_factor),
            window=window_at(row + height // 2, column + width // 2, level.side, level.image_size),
            logits=found.logits(samples.images, own),
            gain=found.gain,
            trace=found,
            extent=trigger.mask,
            is_wide=False,
            is_painted=True,
            is_common=True,
        )
        return [suspect] if suspect.explains_enough(config) else []

    by_class = side_by_side(of_class, likely, device=samples.device)
    return [suspect for of_one in by_class for suspect in of_one]


def _in_the_middle(sight: Sight) -> Sight:
    """Return a sight with its trigger in the middle of the image, which is like most places and nothing mirrored."""
    planted = sight.reading.planted
    top, left, height, width = planted.trigger.bbox
    rows, columns = planted.trigger.mask.shape
    moved = planted.trigger.moved((rows - height) // 2 - top, (columns - width) // 2 - left)
    return replace(sight, reading=Reading(PlantedTrigger(moved, planted.blend_factor)))


def _everywhere(samples: Samples, detector: WindowDetector, planted: PlantedTrigger) -> DenseDetector:
    """Return a detector of a trigger for all places where it may lie, with the trigger where the detector has it."""
    top, left, *size = planted.trigger.bbox
    rows, columns = (whole - side + 1 for whole, side in zip(samples.image_shape[:2], size, strict=True))
    places = Places(detector.window.moved(-top, -left), rows, columns)
    first = PlantedTrigger(planted.trigger.moved(-top, -left), planted.blend_factor)
    (matched,) = detector.matched.filters
    elsewhere = matched.weights.view(*places.first.size, samples.image_shape[2])
    # A filter answers less to what it was made from than to anything else: that cannot say what is usual.
    indices = torch.arange(len(samples), device=samples.device)
    varied = evenly(indices, _VARIED)
    unseen = indices[~torch.isin(indices, varied)]
    most = max(_FEWEST_USUAL, min(_USUAL, _USUAL_PIXELS // (rows * columns)))
    usual = evenly(unseen if len(unseen) >= most else indices, most)
    filters = filters_for(first, places, samples.images, varied, elsewhere)
    return DenseDetector.of(detector.net, places, filters, samples.images[usual])


def _likely_corners(
    samples: Samples, dense: DenseDetector, config: DirectMethodConfig, progress: Progress
) -> dict[int, list[Corner]]:
    """Return the one or two places where each class is likeliest to carry a trigger, by its top left corner.

    One stands out of its surroundings most, the other exceeds the other classes most: where many carry the trigger at
    the same place, none of them stands out there.

    Args:
        samples: the training set.
        dense: the detector of the trigger.
        config: says which classes are too small to be asked.
        progress: gets one step for each class.
    """
    counts = samples.labels.bincount(minlength=samples.n_classes)
    asked = (counts >= config.mixture.min_carriers).nonzero().squeeze(1)

    def log_ratios(images: Tensor) -> Tensor:
        carried = dense.logits(images) + math.log(SHARE_OF_CARRIERS)
        return torch.logaddexp(carried, torch.full_like(carried, math.log(1 - SHARE_OF_CARRIERS)))

    mean = mean_log_ratios(samples, asked.tolist(), log_ratios, _OWN, progress)
    progress.advance(samples.n_classes - len(asked))
    maps = zip(standing_out(mean, counts[asked].clamp_max(_OWN)), over_others(mean), strict=True)
    return {
        label: list(dict.fromkeys(corner for one in of_class for corner in peaks(one, 1)))
        for label, of_class in zip(asked.tolist(), maps, strict=True)
    }


def _sights(
    samples: Samples, kin: Sequence[Suspect], learning: WindowDetectorConfig, seed: int, is_honest: Tensor
) -> list[Sight]:
    """Return where a network is to learn what kin show together; it need not be right about any of them.

    Places at the border that cut off a part of it are left out; a trigger that fills the window, at any place.
    """
    alike: dict[tuple[int, ...], list[Sight]] = {}
    for suspect, planted in zip(kin, common_reading(kin), strict=True):
        if planted is None:
            continue
        others = other_samples(samples, suspect.label, learning.thorough_others, seed, among=is_honest)
        sight = Sight(suspect.members, others, Reading(planted), beyond=True)
        if sight.window(learning).size == tuple(side + 2 * learning.margin for side in planted.trigger.bbox[2:]):
            alike.setdefault(sight.layout(learning), []).append(sight)
    return max(alike.values(), key=len, default=[])
