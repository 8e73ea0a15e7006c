"""Random crops and flips of a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image shifted by up to an eighth of its side, black where nothing was, and every second mirrored.

    For 32 pixels these are the usual crops with a padding of 4.

    Args:
        images: uint8 (n, H, W, C).
        generator: CPU generator; the draw is the same whatever the device.
    """
    n, height, width, _ = images.shape
    down, right = height // 8, width // 8
    padded = F.pad(images, (0, 0, right, right, down, down))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (n, 2 down + 1, 2 right + 1, C, H, W), no copy
    top = torch.randint(2 * down + 1, (n,), generator=generator).to(images.device)
    left = torch.randint(2 * right + 1, (n,), generator=generator).to(images.device)
    is_flipped = (torch.rand(n, generator=generator) < 0.5).to(images.device)
    crops = windows[torch.arange(n, device=images.device), top, left].permute(0, 2, 3, 1)
    return torch.where(is_flipped[:, None, None, None], crops.flip(2), crops)
