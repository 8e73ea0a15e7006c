"""The training loop that the poisoned model and ABL share: SGD on PreAct-ResNet18.

The package's own loop trains with a warm-up and unlearns; neither belongs to the published comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from benchmarks.rivals.pixels import Pixels
from benchmarks.rivals.settings import Fitting
from vbdguard.errors import ConfigError
from vbdguard.method.device import activation_dtype, large_buffers_reused
from vbdguard.training.augment import crop_and_flip
from vbdguard.training.models import PreActResNet18, build_model

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, K) and labels (n,) to a number to be descended."""


def new_network(n_classes: int, image_shape: tuple[int, int, int], *, width: int, seed: int) -> PreActResNet18:
    """Return an untrained PreAct-ResNet18 on the CPU."""
    network = build_model(lambda K: PreActResNet18(K, width), n_classes, image_shape, seed=seed)
    return cast(PreActResNet18, network)


def fit(
    network: nn.Module,
    pixels: Pixels,
    labels: Tensor,
    fitting: Fitting,
    *,
    seed: int,
    loss: Loss = F.cross_entropy,
) -> tuple[float, ...]:
    """Train a network in place and return the mean loss of each epoch; the network is left in eval mode.

    Args:
        network: on the device of the pixels.
        pixels: N images.
        labels: int64 (N,) on the same device.
        fitting: the settings.
        seed: of order and augmentation.
        loss: of a batch.

    Raises:
        ConfigError: if the loss is no longer a number.
    """
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=fitting.lr,
        momentum=fitting.momentum,
        nesterov=fitting.nesterov,
        weight_decay=fitting.weight_decay,
    )
    after_epoch = _decay(optimizer, fitting)
    generator = torch.Generator().manual_seed(seed)
    history = []
    network.train()
    with large_buffers_reused(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for epoch in range(fitting.epochs):
            total = torch.zeros((), device=pixels.device)
            count = 0
            for images, targets in _lessons(pixels, labels, fitting, generator):
                value = loss(_logits(network, images), targets)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                total += value.detach()
                count += 1
            mean = float(total) / count
            if mean != mean:
                raise ConfigError(f"the loss is no longer a number in epoch {epoch + 1} at lr {fitting.lr}; lower it")
            history.append(mean)
            after_epoch(mean)
    network.eval()
    return tuple(history)


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    dtype = activation_dtype(images.device)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits: Tensor = network(images)
    return logits.float()


def _decay(optimizer: torch.optim.Optimizer, fitting: Fitting) -> Callable[[float], None]:
    """Return what lowers the rate after an epoch of the given mean loss."""
    if fitting.decay == "cosine":
        cosine = CosineAnnealingLR(optimizer, fitting.epochs)
        return lambda _: cosine.step()
    if fitting.decay == "plateau":
        # Watches the loss in training: no clean test set is at hand when a defence works.
        plateau = ReduceLROnPlateau(optimizer)
        return plateau.step
    return lambda _: None


def _lessons(
    pixels: Pixels, labels: Tensor, fitting: Fitting, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised images and labels of one epoch in full batches; the rest is left over, others each time."""
    size = min(fitting.batch_size, len(pixels))
    order = torch.randperm(len(pixels), generator=generator)
    for chosen in order[: len(order) - len(order) % size].split(size):
        indices = chosen.to(pixels.device)
        images = pixels.images[indices]
        if fitting.augment:
            images = crop_and_flip(images, generator)
        yield pixels.normalization.apply(images), labels[indices]
