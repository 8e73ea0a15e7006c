"""A window detector that is asked about every place of an image at once (`WindowNet.everywhere`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vbdguard.method.place_filters import PlaceFilters, Places
from vbdguard.method.samples import at_once
from vbdguard.method.window_detector import robust_scale, seen_of_score
from vbdguard.method.window_net import WindowNet, network_pixels


@dataclass(frozen=True, slots=True)
class DenseDetector:
    """What a network says of the windows at all places, each filter's score measured by what is usual there."""

    net: WindowNet
    places: Places
    filters: PlaceFilters
    centre: Tensor
    """float32 (R, S): median score."""
    scale: Tensor
    """float32 (R, S): robust standard deviation."""

    @classmethod
    def of(cls, net: WindowNet, places: Places, filters: PlaceFilters, usual: Tensor) -> DenseDetector:
        """Return the detector for R x S places.

        Args:
            net: has learned the trigger.
            places: where to ask.
            filters: for the trigger there.
            usual: uint8 (n, H, W, C), images that say what scores are usual at each place.
        """
        few = at_once((usual.shape[1], usual.shape[2]))
        scores = torch.cat([filters.scores(_around(places, chunk)) for chunk in usual.split(few)])
        centre = scores.median(0).values
        return cls(net, places, filters, centre, robust_scale(scores, centre, filters.lengths))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the log-likelihood ratio (nats) of a trigger over none at each place, float32 (n, R, S).

        Args:
            images: uint8 (n, H, W, C).
        """
        around = _around(self.places, images)
        score = self.filters.scores(around).sub_(self.centre).div_(self.scale)
        return self.net.everywhere(network_pixels(around), seen_of_score(score))


def _around(places: Places, images: Tensor) -> Tensor:
    """Return all that some window sees of images, with their mirror image where it reaches beyond the border."""
    return places.around.cut(images, torch.arange(len(images), device=images.device))
