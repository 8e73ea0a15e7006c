"""How the small networks of stages 1 and 5 draw their initial weights."""

from __future__ import annotations

import math

import torch
from torch import nn


def uniform_parameter(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter drawn as PyTorch's convolution and linear layers draw theirs.

    Args:
        shape: shape of the weight.
        fan_in: how many inputs each output sees.
        generator: CPU generator.
    """
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
