"""Stage 3: the trigger's mask and pattern from gradient and variance (paper, section 3.3.3 and Algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TriggerCandidate:
    """The part of a trigger that changes the model's mind."""

    mask: Tensor
    """bool (H, W)."""
    pattern: Tensor
    """float (C, H, W), 0 to 255, zero outside the mask."""

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """Top, left, height, width of the mask."""
        rows, columns = self.mask.any(1).nonzero(), self.mask.any(0).nonzero()
        top, left = int(rows.min()), int(columns.min())
        return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1

    def moved(self, down: int, right: int) -> TriggerCandidate:
        """Return the trigger so many pixels further down and right, cut at the image's edges."""
        if (down, right) == (0, 0):
            return self
        height, width = self.mask.shape
        rows, columns = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
        padding = (max(0, right), max(0, -right), max(0, down), max(0, -down))
        return TriggerCandidate(
            F.pad(self.mask[rows, columns], padding), F.pad(self.pattern[:, rows, columns], padding)
        )

    def paste(self, images: Tensor, blend_factor: Tensor | float) -> Tensor:
        """Return uint8 (n, H, W, C) images with the pattern blended in (Eq. 1), floored to uint8.

        Args:
            images: uint8 (n, H, W, C).
            blend_factor: one number or float (n,), 0 to 1.
        """
        alpha = torch.as_tensor(blend_factor, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)
        patched = images.clone()
        inside = images[:, self.mask].float()
        patched[:, self.mask] = inside.lerp(self.pattern[:, self.mask].T, alpha).floor().to(torch.uint8)
        return patched


def extract_trigger(images: Tensor, mean_gradient: Tensor) -> TriggerCandidate | None:
    """Return the candidate trigger of likely poisoned images, or None where its mask is empty (Algorithm 2).

    Args:
        images: uint8 (n, H, W, C), the likely poisoned images of one class, n >= 2.
        mean_gradient: float (C, H, W), their mean margin gradient.
    """
    mask = candidate_mask(mean_gradient, variance_image(images.permute(0, 3, 1, 2).float()))
    if not mask.any():
        return None
    pattern = images.float().mean(0).permute(2, 0, 1) * mask
    return TriggerCandidate(mask, pattern)


def candidate_mask(mean_gradient: Tensor, variance: Tensor) -> Tensor:
    """Return where the gradient is large and the variance small, bool (H, W).

    Args:
        mean_gradient: float (C, H, W).
        variance: float (H, W) in [0, 1], from `variance_image`.
    """
    strength = _min_max(mean_gradient.square().sum(0).sqrt())
    important = _otsu(_blur(strength))
    return _otsu(important * (1 - variance))


def variance_image(x: Tensor) -> Tensor:
    """Return the min-max-scaled per-pixel variance, averaged over channels (Eq. 3).

    Args:
        x: float (N, C, H, W), one class's suspected samples, any scale, N >= 2.

    Returns:
        float (H, W) in [0, 1]; low values mark pixels that hardly change across the samples.

    Raises:
        ValueError: if N < 2.
    """
    if len(x) < 2:
        raise ValueError(f"expected at least 2 samples for a variance, got {len(x)}")
    return torch.stack([_min_max(channel) for channel in x.var(0, correction=0)]).mean(0)


def _min_max(image: Tensor) -> Tensor:
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else torch.zeros_like(image)


def _blur(image: Tensor) -> Tensor:
    """Return the image under the 3 x 3 binomial kernel, borders reflected."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    return F.conv2d(F.pad(image[None, None], (1, 1, 1, 1), mode="reflect"), line.outer(line)[None, None])[0, 0]


def _otsu(image: Tensor) -> Tensor:
    values = image.cpu().numpy()
    if values.min() == values.max():
        return torch.zeros_like(image, dtype=torch.bool)
    is_above: Tensor = image > float(threshold_otsu(values))
    return is_above
