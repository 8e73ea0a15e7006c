"""Images to paste on, and triggers as stage 3 hands them on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vbdguard.attacks.triggers import Trigger
from vbdguard.method.trigger import TriggerCandidate


def random_images(n: int, seed: int = 0, side: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def candidate(trigger: Trigger) -> TriggerCandidate:
    mask = torch.from_numpy(trigger.mask)
    return TriggerCandidate(mask, torch.from_numpy(trigger.pattern).permute(2, 0, 1).float() * mask)
