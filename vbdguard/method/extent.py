"""What must be painted over so that models see nothing of a trigger, preset `default`."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import DirectMethodConfig
from vbdguard.method.suspect import Suspect

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
    carries = suspect.logits > 0
    if 0 < int(carries.sum()) <= len(carries) - _FEWEST_BESIDE:
        shown, usual = (_mean_image(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
        scores = level.usual.scores(shown - usual, suspect.label)
        # Few carriers have a noisier mean than the whole class, by whose contrasts the scores are scaled.
        noise = float(level.means.counts[suspect.label]) / int(carries.sum())
        is_odd = scores > max(_SURELY_ODD * noise, _ODD_SHARE * float(scores.max()))
        if not level.is_coarse:
            is_odd = _beyond_margin(is_odd, extent, level.usual.side)
        extent = extent | (F.interpolate(is_odd[None, None].float(), level.image_size)[0, 0] > 0)
    if float(extent.float().mean()) <= config.label_check.max_blanked:
        return replace(suspect, extent=extent, is_wide=False, is_painted=True)
    hidden = _hidden_below(suspect)
    if int((hidden & extent).sum()) < _OPAQUE_SHARE * int(extent.sum()):
        return replace(suspect, extent=extent, is_wide=True, is_painted=False)
    extent = hidden | _beyond_margin(extent, hidden, suspect.level.usual.side)
    is_painted = float(extent.float().mean()) <= config.label_check.max_opaque
    return replace(suspect, extent=extent, is_wide=True, is_painted=is_painted)


def _hidden_below(suspect: Suspect) -> Tensor:
    """Return the pixels, bool (H, W), in which carriers vary so little that their content cannot be seen."""
    level, carries = suspect.level, suspect.logits > 0
    if not 1 < int(carries.sum()) < len(carries) - 1:
        return torch.zeros_like(suspect.extent)
    of_carriers, usual = (_variance(level.samples.images, suspect.members[chosen]) for chosen in (carries, ~carries))
    is_hidden = (of_carriers < _HIDING * usual).float()
    return F.interpolate(is_hidden[None, None], level.image_size)[0, 0] > 0


def _variance(images: Tensor, indices: Tensor) -> Tensor:
    """Return the variance of each pixel, over all colours, double (H, W)."""
    squares = torch.stack([images[chunk].long().square().sum(0) for chunk in indices.split(_CHUNK)]).sum(0)
    return (squares.double() / len(indices) - _mean_image(images, indices).square()).sum(2)


def _beyond_margin(is_odd: Tensor, mask: Tensor, side: int) -> Tensor:
    """Return the odd pixels whose windows hold none of the mask, bool (H, W); all that are odd if those are many.

    One odd pixel makes all windows odd that hold it, which for a small patch is a margin of several times its area. A
    picture is odd beyond the mask's margin, and then no margin can be told from its calm parts.
    """
    margin = F.max_pool2d(mask[None, None].float(), side, stride=1, padding=side // 2)[0, 0] > 0
    beyond = is_odd & ~margin
    return is_odd if int(beyond.sum()) > _MUCH_BEYOND * int(is_odd.sum()) else beyond


def _mean_image(images: Tensor, indices: Tensor) -> Tensor:
    sums = torch.stack([images[chunk].sum(0, dtype=torch.int64) for chunk in indices.split(_CHUNK)]).sum(0)
    return sums.double() / len(indices)
