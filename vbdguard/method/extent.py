"""What must be painted over so that models see nothing of a trigger, preset `default`."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.contrast import rim_of
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.suspect import Suspect
from vbdguard.method.trigger import TriggerCandidate

_SURELY_ODD, _ODD_SHARE = 10.0, 0.01
"""Contrast scores, absolute and as a share of the highest, from which on a pixel belongs to a trigger."""
_HIDING, _OPAQUE_SHARE = 0.1, 0.5
"""Variance of carriers, as a share of that of the others, below which a pixel hides what they show, and the share of
such pixels from which on a wide trigger is opaque."""
_FEWEST_BESIDE = 10
"""Samples of a class without a trigger that tell what its carriers have in common beside them, at least."""
_MUCH_BEYOND = 0.1
"""Share of the odd pixels that may lie beyond the margin of a small trigger."""
_CHUNK = 256


def with_extent(suspect: Suspect, config: DirectMethodConfig) -> Suspect:
    """Return the suspect with all of the image that its carriers have in common, which may reach beyond the window."""
    level, extent = suspect.level, suspect.extent
    rim = rim_of(*level.samples.image_shape[:2], level.usual.side)
    carries = suspect.logits > 0
    if 0 < int(carries.sum()) <= len(carries) - _FEWEST_BESIDE:
        shown, usual = (_mean_image(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
        scores = level.usual.scores(shown - usual, suspect.label)
        # Few carriers have a noisier mean than the whole class, by whose contrasts the scores are scaled.
        noise = float(level.means.counts[suspect.label]) / int(carries.sum())
        is_odd = scores > max(_SURELY_ODD * noise, _ODD_SHARE * float(scores.max()))
        if not level.is_coarse:
            is_odd = _beyond_margin(is_odd, extent, level.usual.side, rim)
        extent = extent | level.at_full_size(is_odd)
    if float(extent.float().mean()) <= config.label_check.max_blanked:
        return replace(suspect, extent=extent, is_wide=False, is_painted=True)
    left = level.at_full_size(_variance_left(suspect))
    hidden = left < _HIDING
    if int((hidden & extent).sum()) < _OPAQUE_SHARE * int(extent.sum()):
        return replace(suspect, extent=extent, is_wide=True, is_painted=False)
    margin = level.usual.side // 2 * level.scale
    extent = hidden | _beyond_margin(extent, hidden, 2 * margin + 1, rim * level.scale)
    if float(extent.float().mean()) <= config.label_check.max_opaque:
        return replace(suspect, extent=extent, is_wide=True, is_painted=True)
    left_below = float(left[hidden].median().sqrt())
    return replace(suspect, extent=extent, is_wide=True, is_painted=False, left_below=left_below)


def shown_whole(suspect: Suspect) -> Suspect:
    """Return a suspect that hides all that its carriers show as the one picture that they are."""
    level = suspect.level
    hidden = _variance_left(suspect) < _HIDING
    mean = _mean_image(level.samples.images, suspect.members[suspect.logits > 0]).float().permute(2, 0, 1)
    return replace(suspect, planted=PlantedTrigger(TriggerCandidate(hidden, mean * hidden), 1 - suspect.left_below))


def _variance_left(suspect: Suspect) -> Tensor:
    """Return the variance of carriers as a share of that of the class's others, float (h, w); 1 where it is unknown."""
    level, carries = suspect.level, suspect.logits > 0
    if not 1 < int(carries.sum()) < len(carries) - 1:
        return torch.ones(level.samples.image_shape[:2], device=carries.device)
    of_carriers, usual = (_variance(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
    return torch.where(usual > 0, of_carriers / usual.clamp_min(1e-9), 1.0).float()


def _variance(images: Tensor, indices: Tensor) -> Tensor:
    """Return the variance of each pixel, over all colours, double (H, W)."""
    squares = torch.stack([images[chunk].long().square().sum(0) for chunk in indices.split(_CHUNK)]).sum(0)
    return (squares.double() / len(indices) - _mean_image(images, indices).square()).sum(2)


def _beyond_margin(is_odd: Tensor, mask: Tensor, side: int, rim: int) -> Tensor:
    """Return the odd pixels whose windows hold none of the mask, bool (H, W); all that are odd if those are many.

    One odd pixel makes all windows odd that hold it, which for a small patch is a margin of several times its area. A
    picture is odd beyond the mask's margin, and then no margin can be told from its calm parts.

    Args:
        is_odd: bool (H, W).
        mask: bool (H, W).
        side: of the windows, in pixels.
        rim: pixels from the edge that share the window of the nearest other.
    """
    height, width = mask.shape
    holds = F.max_pool2d(mask[None].float(), side, stride=1, padding=side // 2)
    margin = F.pad(holds[:, rim : height - rim, rim : width - rim], (rim, rim, rim, rim), mode="replicate")[0] > 0
    beyond = is_odd & ~margin
    return is_odd if int(beyond.sum()) > _MUCH_BEYOND * int(is_odd.sum()) else beyond


def _mean_image(images: Tensor, indices: Tensor) -> Tensor:
    sums = torch.stack([images[chunk].sum(0, dtype=torch.int64) for chunk in indices.split(_CHUNK)]).sum(0)
    return sums.double() / len(indices)
