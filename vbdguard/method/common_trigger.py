"""Stage 3 of preset `default`, second look: what one class bears may lie elsewhere in others.

An attacker of all classes often pastes the same trigger for each at a place of its own. Once some class has shown it
clearly, a matched filter for it finds it in the mean images of classes where it is too faint to stand out by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vbdguard.method.contrast import natural_covariance
from vbdguard.method.evidence import evidence_maps
from vbdguard.method.level import Level
from vbdguard.method.likeness import Likeness, aligned
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.window import Window, window_at

Floats = NDArray[np.float64]

_FAINT_PART = 0.25
_TEMPLATES = 4
"""Different triggers that are looked for, at most."""
_FEWEST_SAMPLED = 2
"""Classes that show a trigger already, from which on single samples of all are asked for it."""
MANY_CLASSES = 10
"""Classes that show a template, from which on it is there beyond doubt, and any class may carry it."""
_LEAST_SCORE, _PLACES = 4.0, 2
"""Standard deviations by which a template must stand out of a class's natural contrast, and in how many places."""
_PEAK = 5
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Template:
    """What a trigger does to the mean of its carriers."""

    shift: Floats
    """(h, w, C), grey levels; no larger than the trigger."""
    weight: float
    """How many samples it was read from."""
    gain: float
    """Log-likelihood (nats) that it explains, in all classes that show it."""
    labels: frozenset[int]
    """Those classes."""

    @classmethod
    def of(cls, planted: PlantedTrigger, background: Tensor, carriers: float, gain: float, label: int) -> Template:
        """Cut it out of the image.

        Args:
            planted: the trigger.
            background: float (H, W, C), mean of the images that it was pasted on.
            carriers: samples that show it.
            gain: log-likelihood (nats) that it explains.
            label: the class that shows it.
        """
        top, left, height, width = planted.trigger.bbox
        shift = planted.shift(background.permute(2, 0, 1)).permute(1, 2, 0)
        box = shift[top : top + height, left : left + width].double().cpu().numpy()
        return cls(box, carriers, gain, frozenset({label}))

    def cropped(self) -> Template:
        """Return the part that is clearly there: a mean has little left of what single estimates added."""
        strength = np.linalg.norm(self.shift, axis=2)
        rows, columns = np.nonzero(strength > _FAINT_PART * strength.max())
        shift = self.shift[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        return replace(self, shift=shift)

    def is_like(self, other: Template) -> bool:
        """Return whether both may show the same trigger."""
        return aligned(self.shift, other.shift) is not None


@dataclass(frozen=True, slots=True)
class Expected:
    """Where a class may carry a template."""

    window: Window
    shift: Floats
    """(h, w, C): how far the mean of its carriers moves there."""
    is_common: bool
    """Whether many classes show the template."""

    @classmethod
    def of(cls, template: Template, top: int, left: int, level: Level) -> Expected:
        """Return a template with its corner at a pixel, in the window around it."""
        height, width, channels = template.shift.shape
        window = window_at(top + height // 2, left + width // 2, level.side, level.image_size)
        shift = np.zeros((*window.size, channels))
        row, column = top - window.top, left - window.left
        shift[row : row + height, column : column + width] = template.shift
        return cls(window, shift, len(template.labels) >= MANY_CLASSES)


def common_templates(templates: Sequence[Template], least_gain: float = 0.0) -> list[Template]:
    """Return the few different templates that explain most, each the mean of those that are alike.

    Args:
        templates: what single classes show.
        least_gain: log-likelihood (nats) that those that are alike must explain together.
    """
    if not templates:
        return []
    common: list[Template] = []
    known = Likeness.to_any_of([template.shift for template in templates])
    for template in sorted(templates, key=lambda each: -each.gain):
        for i in known.candidates(template.shift):
            earlier, moved = common[i], aligned(template.shift, common[i].shift)
            if moved is not None:
                weight = earlier.weight + template.weight
                mean = (earlier.weight * earlier.shift + template.weight * moved) / weight
                common[i] = Template(mean, weight, earlier.gain + template.gain, earlier.labels | template.labels)
                known.replace(i, mean)
                break
        else:
            common.append(template)
            known.add(template.shift)
    most = sorted((each for each in common if each.gain >= least_gain), key=lambda each: -each.gain)[:_TEMPLATES]
    return [template.cropped() for template in most]


def template_scores(template: Template, contrasts: Tensor, natural: Tensor, side: int) -> Tensor:
    """Return how clearly the classes' contrasts show a template, float64 (K, H - h + 1, W - w + 1) by its top left.

    Natural contrasts have scores of standard deviation 1.

    Args:
        template: what to look for, no larger than `side`.
        contrasts: float64 (K, H, W, C).
        natural: float64 (D, D), how their windows of that side vary.
        side: of the windows, cut to the image.
    """
    n_classes, height, width, channels = contrasts.shape
    shift = torch.from_numpy(template.shift).to(contrasts)
    sides = min(side, height), min(side, width)
    covariance = natural.clone()
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + _RIDGE)
    filters = []
    for top, rows, row in _offsets(sides[0], shift.shape[0], height):
        for left, columns, column in _offsets(sides[1], shift.shape[1], width):
            placed = contrasts.new_zeros(*sides, channels)
            placed[top : top + shift.shape[0], left : left + shift.shape[1]] = shift
            weights = torch.linalg.solve(covariance, placed.flatten())
            filters.append((rows, columns, row, column, weights / (weights @ placed.flatten()).sqrt()))
    scores = contrasts.new_zeros(n_classes, height - shift.shape[0] + 1, width - shift.shape[1] + 1)
    for contrast, found in zip(contrasts, scores, strict=True):  # all windows at once would take gigabytes
        windows = contrast.unfold(0, sides[0], 1).unfold(1, sides[1], 1).permute(0, 1, 3, 4, 2).flatten(2)
        for rows, columns, row, column, weights in filters:
            found[row, column] = windows[rows, columns] @ weights
    return scores


def expected_elsewhere(templates: Sequence[Template], level: Level) -> dict[int, list[Expected]]:
    """Return for each class where it may carry one of the templates; classes without such places are left out.

    The mean of a class tells of faint triggers on thousands of samples, single samples of those on a few dozen. Both
    together tell of the faintest, where it is beyond doubt that there is such a trigger.
    """
    expected: dict[int, list[Expected]] = {}
    for template, by_corner in zip(templates, _maps(templates, level), strict=True):
        most = 1 if len(template.labels) >= MANY_CLASSES else _PLACES
        for label, scores in enumerate(zip(*by_corner, strict=True)):
            for row, column in dict.fromkeys(peak for one in scores for peak in peaks(one, most, least=_LEAST_SCORE)):
                expected.setdefault(label, []).append(Expected.of(template, row, column, level))
    return expected


def _maps(templates: Sequence[Template], level: Level) -> list[list[Tensor]]:
    """Return how clearly each class shows each template, (K, H - h + 1, W - w + 1) by its top left corner.

    For one that few classes show there are several such maps; natural scores have a standard deviation of 1.
    """
    if not templates:
        return []
    contrasts = level.means.against_others()
    natural = natural_covariance(contrasts, level.side, level.natural_share)
    shared = [template for template in templates if len(template.labels) >= _FEWEST_SAMPLED]
    evidence = iter(evidence_maps(level.samples, [template.shift for template in shared]))
    maps = []
    for template in templates:
        by_corner = [template_scores(template, contrasts, natural, level.side)]
        if len(template.labels) >= _FEWEST_SAMPLED:
            (height, width), (rows, columns) = template.shift.shape[:2], by_corner[0].shape[1:]
            by_corner.append(next(evidence)[:, height // 2 :, width // 2 :][:, :rows, :columns])
        if len(template.labels) >= MANY_CLASSES:
            by_corner = [(by_corner[0] + by_corner[1]) / 2**0.5]
        maps.append(by_corner)
    return maps


def peaks(scores: Tensor, most: int, *, least: float = -math.inf) -> list[tuple[int, int]]:
    """Return row and column of the highest peaks, so many at most, of one class's scores (H, W), highest first.

    A peak is the highest within a square of five pixels, and above a score.
    """
    highest = F.max_pool2d(scores[None, None], _PEAK, stride=1, padding=_PEAK // 2)[0, 0]
    found = ((scores == highest) & (scores > least)).nonzero()
    order = scores[found[:, 0], found[:, 1]].argsort(descending=True, stable=True)[:most]
    return [(int(row), int(column)) for row, column in found[order].tolist()]


def _offsets(side: int, length: int, size: int) -> list[tuple[int, slice, slice]]:
    """Return where a template lies in the windows along one axis: its offset, which windows, and its places there.

    It lies in the middle of each window, but at the image's border, where only the first or last window reaches.
    """
    middle, last = (side - length) // 2, size - side
    offsets = [(middle, slice(0, last + 1), slice(middle, middle + last + 1))]
    offsets += [(offset, slice(0, 1), slice(offset, offset + 1)) for offset in range(middle)]
    offsets += [
        (offset, slice(last, last + 1), slice(last + offset, last + offset + 1))
        for offset in range(middle + 1, side - length + 1)
    ]
    return offsets
