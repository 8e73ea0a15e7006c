"""The networks of the yardstick: those of the published experiments (paper, Figure 1), in plain PyTorch layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ENSEMBLE: tuple[tuple[int, ...], ...] = ((64,), (10, 10), (16, 16))
"""Filters per block of the three simple models."""
_DETECTOR_FILTERS = 32


def simple_model(filters: Sequence[int], n_classes: int, side: tuple[int, int]) -> nn.Module:
    """Return blocks of convolution, batch norm and ReLU, a max pool behind the last, and one linear layer.

    Args:
        filters: filters of each block.
        n_classes: K, the number of logits.
        side: height and width of the images in pixels.
    """
    layers: list[nn.Module] = []
    channels = 3
    for size in filters:
        layers += [nn.Conv2d(channels, size, 3, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
        channels = size
    return nn.Sequential(
        *layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * _pooled(side, len(filters)), n_classes)
    )


def detector_network(side: tuple[int, int]) -> nn.Module:
    """Return one block without batch norm, dropout 0.5 and one sigmoid output, (n, 1) in [0, 1]."""
    return nn.Sequential(
        nn.Conv2d(3, _DETECTOR_FILTERS, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(_DETECTOR_FILTERS * _pooled(side, 1), 1),
        nn.Sigmoid(),
    )


def margin_gradient(model: nn.Module, x: Tensor, label: int) -> Tensor:
    """Return the gradient (n, C, H, W) of the class's logit minus the largest other, by the input (Eq. 5 and 6)."""
    x = x.clone().requires_grad_()
    logits = model(x)
    is_label = torch.arange(logits.shape[1], device=x.device) == label
    margin = logits[:, label] - logits.masked_fill(is_label, -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad(margin.sum(), x)
    return gradient


def _pooled(side: tuple[int, int], blocks: int) -> int:
    """Return how many places are left after so many 3 x 3 convolutions without padding and a 2 x 2 pool."""
    height, width = side
    return ((height - 2 * blocks) // 2) * ((width - 2 * blocks) // 2)
