"""What a trained network makes of each image: activations, gradients and densities, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.rivals.pixels import BATCH, Pixels
from benchmarks.rivals.victim import Victim
from vbdguard.training.models import PreActBlock, PreActResNet18


def pooled_features(victim: Victim, pixels: Pixels) -> NDArray[np.float32]:
    """Return what the last linear layer sees of each image, float32 (N, D): the penultimate representation."""
    return _collect(victim, pixels, victim.network.norm, lambda maps: torch.relu(maps).mean((2, 3)))


def summed_features(victim: Victim, pixels: Pixels) -> NDArray[np.float32]:
    """Return the output of the last residual block, summed over height and width, float32 (N, D)."""
    return _collect(victim, pixels, victim.network.blocks, lambda maps: maps.sum((2, 3)))


def convolutions(network: PreActResNet18) -> tuple[nn.Conv2d, ...]:
    """Return the two convolutions of each of the eight blocks, in order; shortcuts and stem are left out."""
    blocks = [block for block in network.blocks if isinstance(block, PreActBlock)]
    return tuple(convolution for block in blocks for convolution in (block.conv1, block.conv2))


def logit_gradients(victim: Victim, pixels: Pixels, labels: NDArray[np.int64]) -> list[Tensor]:
    """Return how the labelled class's logit depends on each convolution's output, averaged over height and width.

    Args:
        victim: the network.
        pixels: n images.
        labels: int64 (n,).

    Returns:
        For each of the 16 convolutions float32 (n, C) on the device.
    """
    layers = convolutions(victim.network)
    parts: list[list[Tensor]] = [[] for _ in layers]
    targets = torch.from_numpy(labels).to(victim.device).split(BATCH)
    for images, target in zip(pixels.batches(), targets, strict=True):
        with _outputs(layers) as outputs:
            logits = victim.network(images)
        # The samples of a batch do not meet in eval mode: the gradient of the sum is each one's own.
        gradients = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), outputs)
        for part, gradient in zip(parts, gradients, strict=True):
            part.append(gradient.mean((2, 3)))
    return [torch.cat(part) for part in parts]


def least_log_densities(victim: Victim, pixels: Pixels) -> NDArray[np.float32]:
    """Return how unlikely the least likely value is that each image shows each normalisation layer.

    A value's density is that of a normal distribution with the layer's running mean and variance of its channel.

    Returns:
        float32 (N, L), natural logarithms, for the L batch normalisations in order of depth.
    """
    layers = [module for module in victim.network.modules() if isinstance(module, nn.BatchNorm2d)]
    rows = []
    for images in pixels.batches():
        with torch.no_grad(), _inputs(layers) as inputs:
            victim.network(images)
        rows.append(torch.stack([_least(layer, maps) for layer, maps in zip(layers, inputs, strict=True)], dim=1))
    return torch.cat(rows).cpu().numpy()


def logits(victim: Victim, pixels: Pixels) -> Tensor:
    """Return the network's outputs, float32 (N, K) on the device."""
    with torch.no_grad():
        return torch.cat([victim.network(images) for images in pixels.batches()])


def _least(layer: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    """Return the smallest log-density (n,) over the channels and places of (n, C, H, W)."""
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        raise ValueError("expected a batch normalisation that tracks running statistics")
    variance = variance + layer.eps
    # In each channel the value farthest from the mean has the least density.
    distance = (maps - mean[:, None, None]).square().amax((2, 3))
    log_density = -0.5 * (distance / variance + torch.log(2 * torch.pi * variance))
    return log_density.amin(1)


def _collect(
    victim: Victim, pixels: Pixels, module: nn.Module, reduce: Callable[[Tensor], Tensor]
) -> NDArray[np.float32]:
    rows = []
    for images in pixels.batches():
        with torch.no_grad(), _outputs([module]) as outputs:
            victim.network(images)
        rows.append(reduce(outputs[0]))
    return torch.cat(rows).cpu().numpy()


@contextmanager
def _outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass inside the block fills with each module's output, in order of running."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for module in modules
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _inputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass inside the block fills with each module's input, in order of running."""
    found: list[Tensor] = []
    handles = [module.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0])) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
