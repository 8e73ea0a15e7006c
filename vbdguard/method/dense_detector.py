"""A window detector that is asked about every place of an image at once (`WindowNet.everywhere`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.samples import at_once
from vbdguard.method.window import Window
from vbdguard.method.window_detector import WindowDetector, robust_scale, seen_of_score
from vbdguard.method.window_net import WindowNet, network_pixels


@dataclass(frozen=True, slots=True)
class DenseDetector:
    """What a network says of the windows at all places, each filter's score measured by what is usual there."""

    net: WindowNet
    kernels: Tensor
    """float32 (T, C, h, w), the matched filters."""
    window: Window
    """That of the first place."""
    places: tuple[int, int]
    """Rows and columns, R and S."""
    centre: Tensor
    """float32 (T, R, S): median score."""
    scale: Tensor
    """float32 (T, R, S): robust standard deviation."""

    @classmethod
    def of(cls, detector: WindowDetector, first: Window, places: tuple[int, int], usual: Tensor) -> DenseDetector:
        """Return the detector for R x S places, one pixel apart.

        Args:
            detector: for one place.
            first: its window, moved to the first place.
            places: R and S.
            usual: uint8 (n, H, W, C), images that say what scores are usual at each place.
        """
        height, width, channels = *first.size, usual.shape[3]
        weights = [each.weights.view(height, width, channels).permute(2, 0, 1) for each in detector.matched.filters]
        nothing = torch.zeros(1, *places, device=usual.device)
        bare = cls(detector.net, torch.stack(weights).contiguous(), first, places, nothing, nothing + 1)
        few = at_once((usual.shape[1], usual.shape[2]))
        scores = torch.cat([bare._scores(chunk) for chunk in usual.split(few)])
        centre = scores.median(0).values
        scale = robust_scale(scores, centre, bare.kernels)
        return cls(detector.net, bare.kernels, first, places, centre, scale)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the log-likelihood ratio (nats) of a trigger over none at each place, float32 (n, R, S).

        Args:
            images: uint8 (n, H, W, C).
        """
        score = self._scores(images).sub_(self.centre).div_(self.scale).amax(1)
        return self.net.everywhere(self._padded(network_pixels(images)), seen_of_score(score))

    def _scores(self, images: Tensor) -> Tensor:
        """Return each filter's answer at each place, float32 (n, T, R, S)."""
        return F.conv2d(self._padded(images.permute(0, 3, 1, 2).float()), self.kernels)

    def _padded(self, x: Tensor) -> Tensor:
        """Return (n, C, H, W) with as much of its mirror image around it as windows reach beyond the border."""
        below, right = (
            low + side + places - 1 - size
            for low, side, places, size in zip(
                (self.window.top, self.window.left), self.window.size, self.places, x.shape[2:], strict=True
            )
        )
        return F.pad(x, (-self.window.left, right, -self.window.top, below), mode="reflect")
