"""What the small networks of both presets are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def uniform_parameter(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter drawn as PyTorch's convolution and linear layers draw theirs.

    Args:
        shape: shape of the weight.
        fan_in: how many inputs each output sees.
        generator: CPU generator.
    """
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


class NormalisedConvolutions(nn.Module):
    """The parameters of blocks of 3 x 3 convolution and batch normalisation, and of the linear layer behind them.

    Args:
        filters: filters of each block.
        channels: of the images.
        features: inputs of the linear layer.
        n_classes: K, its outputs.
        generator: CPU generator for the initial weights (PyTorch's default distributions).
    """

    def __init__(
        self, filters: Sequence[int], channels: int, features: int, n_classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = (channels, *filters)
        self.weights = nn.ParameterList(
            uniform_parameter((size, sizes[i], 3, 3), 9 * sizes[i], generator) for i, size in enumerate(filters)
        )
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(size)) for size in filters)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in filters)
        for i, size in enumerate(filters):
            self.register_buffer(f"running_mean{i}", torch.zeros(size))
            self.register_buffer(f"running_var{i}", torch.ones(size))
        self.head_weight = uniform_parameter((n_classes, features), features, generator)
        self.head_bias = uniform_parameter((n_classes,), features, generator)

    def statistics(self, i: int) -> tuple[Tensor, Tensor]:
        """Return the running mean and variance of a block, float32 (F,) each."""
        return self.get_buffer(f"running_mean{i}"), self.get_buffer(f"running_var{i}")
