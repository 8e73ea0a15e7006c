"""Stage 3 of preset `default`, third look: a detector of a trigger that many classes share looks for it in all.

What a matched filter finds is right in two classes of three where each has a few dozen faint carriers. A network that
has learned the trigger from stamped samples, as in stage 5, tells carriers better, but looks at one window at a time.
So it is asked about the likeliest places of each class, and about what is next to the best of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.common_trigger import Template, likely_corners
from vbdguard.method.kin_reading import common_reading
from vbdguard.method.moves import Reading
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples, evenly, other_samples
from vbdguard.method.side_by_side import side_by_side
from vbdguard.method.suspect import Suspect
from vbdguard.method.window import window_at
from vbdguard.method.window_detector import Sight, WindowDetector, fit_window_detectors
from vbdguard.progress import Progress

_PLACES, _BEST = 20, 3
"""Places of a class that a detector is asked about, and those of them whose neighbours it is asked about too."""
_USUAL, _OWN = 1000, 1000
"""Samples of other classes that tell what is usual at a place, and of the class that tell which place is best."""
_AROUND = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))

Corner = tuple[int, int]


def search(
    samples: Samples, kin: Sequence[Suspect], config: DirectMethodConfig, seed: int, progress: Progress
) -> list[Suspect]:
    """Return where each class is likeliest to carry the trigger of kin, if anywhere; nothing if the trigger is large.

    Args:
        samples: the training set.
        kin: suspects of many classes that seem to show the same trigger in images as they are.
        config: all settings.
        seed: of the network.
        progress: gets one step for each class.
    """
    learning = config.detector.thorough(len(kin))
    sights = _sights(samples, kin, learning, seed)
    if not sights:
        progress.advance(samples.n_classes)
        return []
    detector = fit_window_detectors(samples, sights, learning, generator=torch.Generator().manual_seed(seed))[0]
    planted, level = sights[0].reading.planted, kin[0].level
    template = Template.of(planted, kin[0].background, carriers=0.0, gain=0.0, label=kin[0].label)
    labels = frozenset(suspect.label for suspect in kin)
    likely = likely_corners(replace(template, labels=labels), level, _PLACES)
    top, left, height, width = planted.trigger.bbox
    last = tuple(size - length for size, length in zip(level.image_size, (height, width), strict=True))

    def of_class(label: int) -> list[Suspect]:
        own = samples.members(label)
        if len(own) < config.mixture.min_carriers:
            return []
        some, others = evenly(own, _OWN), other_samples(samples, label, _USUAL, seed)
        gains: dict[Corner, float] = {}

        def at(corner: Corner, members: Tensor) -> WindowDetector:
            window = detector.window.moved(corner[0] - top, corner[1] - left)
            return detector.at(window, samples.images, members, others)

        def ask(corners: Iterable[Corner]) -> list[Corner]:
            for corner in corners:
                if corner not in gains and 0 <= corner[0] <= last[0] and 0 <= corner[1] <= last[1]:
                    gains[corner] = at(corner, some).gain
            return sorted(gains, key=lambda corner: -gains[corner])

        best = ask(likely[label])[:_BEST]
        (row, column), *_ = ask((row + down, column + right) for row, column in best for down, right in _AROUND)
        found = at((row, column), own)
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

    by_class = side_by_side(of_class, range(samples.n_classes), device=samples.device, progress=progress)
    return [suspect for of_one in by_class for suspect in of_one]


def _sights(samples: Samples, kin: Sequence[Suspect], learning: WindowDetectorConfig, seed: int) -> list[Sight]:
    """Return where a network is to learn what kin show together; it need not be right about any of them.

    Places at the border that cut off a part of it are left out; a trigger that fills the window, at any place.
    """
    alike: dict[tuple[int, ...], list[Sight]] = {}
    for suspect, planted in zip(kin, common_reading(kin), strict=True):
        if planted is None:
            continue
        others = other_samples(samples, suspect.label, learning.thorough_others, seed)
        sight = Sight(suspect.members, others, Reading(planted), beyond=True)
        if sight.window(learning).size == tuple(side + 2 * learning.margin for side in planted.trigger.bbox[2:]):
            alike.setdefault(sight.layout(learning), []).append(sight)
    return max(alike.values(), key=len, default=[])
