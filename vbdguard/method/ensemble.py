"""Stage 1: train simple models that overfit the trigger (paper, sections 3.3.1 and 3.3.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import EnsembleConfig
from vbdguard.method.device import activation_dtype
from vbdguard.method.optimizers import MomentumSGD
from vbdguard.method.samples import Samples, centred, shuffled_batches, stratified_split
from vbdguard.method.simple_model import SimpleModel, patch_moments
from vbdguard.progress import Progress

_EVALUATION_BATCH = 512
_COUNTED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class FittedModel:
    """One simple poisoned model."""

    model: SimpleModel
    """In evaluation mode, without gradients for its weights."""
    train_accuracy: float
    """Share in [0, 1] of training samples predicted right during the last epoch."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The simple poisoned models and the samples kept from them."""

    models: tuple[FittedModel, ...]
    detection: Tensor
    """int64 indices of the detection split, on which stages 2 to 4 look."""


def fit_ensemble(samples: Samples, config: EnsembleConfig, *, seed: int, progress: Progress) -> Ensemble:
    """Return simple models trained on a stratified share of the samples.

    The models are independent; they share batches so that each batch is read once.

    Args:
        samples: N samples of K classes.
        config: settings of stage 1.
        seed: seed of split, initial weights and batch order.
        progress: gets one step per epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    train, detection = stratified_split(samples.labels, config.train_share, generator)
    if not len(detection):
        detection = train
    models = _new_models(samples, config, generator)
    batch_size = config.batch(samples.image_shape, len(train))
    optimizer = MomentumSGD(
        [weight for model in models for weight in model.parameters()],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    correct = [0] * len(models)
    for _ in range(config.epochs):
        correct = [0] * len(models)
        for batch in shuffled_batches(train, batch_size, generator):
            hits = _step(models, samples.pixels(batch), samples.labels[batch], optimizer)
            correct = [total + int(hit) for total, hit in zip(correct, hits, strict=True)]
        progress.advance()
    for model in models:
        model.eval().requires_grad_(False)
    fitted = (FittedModel(model, hits / len(train)) for model, hits in zip(models, correct, strict=True))
    return Ensemble(tuple(fitted), detection)


@torch.no_grad()
def predict(model: SimpleModel, images: Tensor) -> Tensor:
    """Return logits (n, K) for uint8 images (n, H, W, C)."""
    return torch.cat([model(centred(batch)) for batch in images.split(_EVALUATION_BATCH)])


def _new_models(samples: Samples, config: EnsembleConfig, generator: torch.Generator) -> list[SimpleModel]:
    mean, std = _pixel_statistics(samples.images)
    dtype = activation_dtype(samples.device)
    return [
        SimpleModel(
            filters,
            samples.n_classes,
            samples.image_shape,
            pixel_mean=mean,
            pixel_std=std,
            generator=generator,
            dtype=dtype,
        ).to(samples.device)
        for filters in config.architectures
    ]


def _pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, (C,) each, from exact integer counts."""
    levels = torch.arange(256, dtype=torch.float64)
    # A chunk at a time: bincount makes a copy of eight bytes per pixel.
    shares = torch.stack([_histograms(chunk) for chunk in images.split(_COUNTED_AT_ONCE)]).sum(0).cpu().double()
    shares /= shares.sum(1, keepdim=True)
    mean = shares @ levels
    std = ((shares @ levels.square()) - mean.square()).clamp_min(0).sqrt()
    return mean.float(), std.clamp_min(1.0).float()


def _histograms(images: Tensor) -> Tensor:
    """Return how many pixels have each level, int64 (C, 256)."""
    return torch.stack([channel.reshape(-1).bincount(minlength=256) for channel in images.unbind(-1)])


def _step(models: Sequence[SimpleModel], x: Tensor, y: Tensor, optimizer: MomentumSGD) -> list[Tensor]:
    moments = patch_moments(x)
    hits = []
    optimizer.zero_grad()
    for model in models:
        logits = model(x, moments)
        F.cross_entropy(logits, y).backward()
        hits.append((logits.detach().argmax(1) == y).sum())
    optimizer.step()
    return hits
