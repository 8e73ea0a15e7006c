"""The trigger of preset `default`, as many flagged samples show it; not in the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.contrast import ClassMeans
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples, evenly
from vbdguard.method.trigger import TriggerCandidate

ENOUGH_TO_SHARPEN = 2000
"""More samples than this do not make a trigger sharper."""
_MAX_REMAINING = 0.85
_SPREAD_NOISE = 6.0
"""Five standard errors of an interquartile range, times the root of the number of samples, as a share of it. By chance
the narrowest of a thousand pixels lies three and a half below the others."""
_WIDE, _BESIDE = 0.25, 0.75
"""Share of the image from which on a trigger leaves little beside it, and the quantile of what it leaves elsewhere."""
_NEAR = 4
"""Pixels around a trigger in which few samples may show more of it."""
_ENOUGH_FOR_BLEND = 1000
"""Samples whose spread tells the blend factor of a faint trigger better than stage 3 does."""
_MIN_ALPHA = 0.01
_FEWEST_USUAL, _USUAL_FOR_EACH = 200, 4
"""Samples that say how flagged ones would look without the trigger, at least, and so many for each of them."""


@dataclass(frozen=True, slots=True)
class Usual:
    """How pixels look that nothing was pasted on."""

    mean: Tensor
    """float (H, W, C)."""
    spread: Tensor
    """float32 (H, W), at least 1, from `pixel_spread`."""

    def varies_in(self, mask: Tensor) -> bool:
        """Return whether most pixels of a mask differ between images; where none do, their spread tells nothing."""
        return bool((self.spread[mask] > 1).float().mean() > 0.5)


def usual_of(labels: Tensor, samples: Samples, is_kept: Tensor, means: ClassMeans) -> Usual:
    """Return how samples look that come from the same classes as flagged ones: in an all-to-all attack from one each.

    Args:
        labels: int64 (n,), the classes that the flagged samples look like, one at least.
        samples: the training set.
        is_kept: bool (N,), its samples that nothing flags.
        means: of its classes.
    """
    counts = labels.bincount(minlength=samples.n_classes)
    shares = counts.double() / len(labels)
    most = min(ENOUGH_TO_SHARPEN, max(_FEWEST_USUAL, _USUAL_FOR_EACH * len(labels)))
    drawn = [
        evenly((is_kept & (samples.labels == label)).nonzero().squeeze(1), math.ceil(most * float(shares[label])))
        for label in counts.nonzero().squeeze(1).tolist()
    ]
    images = samples.images[torch.cat(drawn)]
    spread = pixel_spread(images) if len(images) else torch.ones(samples.image_shape[:2], device=samples.device)
    return Usual(torch.tensordot(shares, means.means, 1), spread.clamp_min(1.0))


def sharpen_trigger(rough: PlantedTrigger, flagged: Tensor, usual: Usual) -> PlantedTrigger:
    """Return the trigger as the flagged samples show it.

    Pasting with blend factor a leaves 1 - a of a pixel's spread, so the trigger's pixels stand out once many
    poisoned samples are known. The pattern follows from the mean: (flagged - (1 - a) usual) / a.

    Args:
        rough: the trigger that led to the flags.
        flagged: uint8 (n, H, W, C), the samples that carry it.
        usual: how samples look that it may have been pasted on.

    Returns:
        The trigger, sharper where the spread parts two kinds of pixels, beyond what so few samples do by chance.
    """
    flagged = flagged[:ENOUGH_TO_SHARPEN]
    remaining = torch.where(usual.spread > 1, pixel_spread(flagged) / usual.spread, 1.0)
    mask = rough.trigger.mask
    # Of few samples a pixel anywhere may vary little by chance.
    near = torch.ones_like(mask) if len(flagged) >= _ENOUGH_FOR_BLEND else _grown(mask)
    # Flagged samples may vary less than others everywhere; what the trigger takes from them is told by the rest.
    kept = 1.0 if float(mask.float().mean()) > _WIDE else min(1.0, float(remaining.quantile(_BESIDE)))
    # Where most of them are the same picture nothing varies, and there is nothing beside the trigger.
    kept = kept or 1.0
    lost = 1 - float(remaining[near].min()) / kept
    is_told = lost >= max(1 - _MAX_REMAINING, _SPREAD_NOISE / len(flagged) ** 0.5)
    if is_told:
        mask = near & (remaining < kept * (1 - lost / 2))
    alpha = rough.blend_factor
    if is_told or len(flagged) >= _ENOUGH_FOR_BLEND:
        alpha = min(1.0, max(_MIN_ALPHA, 1 - float(remaining[mask].median()) / kept))
    pattern = ((flagged.float().mean(0) - (1 - alpha) * usual.mean.float()) / alpha).clamp(0, 255)
    return PlantedTrigger(TriggerCandidate(mask, pattern.permute(2, 0, 1) * mask), alpha)


def _grown(mask: Tensor) -> Tensor:
    """Return bool (H, W): a mask and the pixels near it."""
    return F.max_pool2d(mask[None, None].float(), 2 * _NEAR + 1, stride=1, padding=_NEAR)[0, 0] > 0


def pixel_spread(images: Tensor) -> Tensor:
    """Return the interquartile range of each pixel of uint8 (n, H, W, C), averaged over channels, float32 (H, W).

    A few wrongly flagged samples do not move it, as they would move the variance.
    """
    ranks = len(images) // 4, len(images) * 3 // 4
    # Ten times as fast as a sort: values of a pixel side by side in memory, and no more order than is needed.
    parted = np.partition(np.ascontiguousarray(images.flatten(1).T.cpu().numpy()), ranks, axis=1)
    low, high = (torch.from_numpy(parted[:, rank].astype(np.float32)) for rank in ranks)
    return (high - low).view(images.shape[1:]).mean(-1).to(images.device)
