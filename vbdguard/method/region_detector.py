"""Stage 5 of preset `default`: a detector that looks at the trigger's neighbourhood only.

It departs from the paper (section 3.3.5) in four ways. It sees a window around the trigger instead of
the whole image, the pixels beside the gradients, and the gradients of every model of the ensemble; it
learns from a bounded number of other-class samples, each patched once; its second round learns from
the class's own samples, each with the probability that the first round gave it; and its score is a
posterior under the share of poison that the class seems to hold, where the paper's threshold of 0.5
assumes that half of the class is poisoned. `benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import RegionDetectorConfig
from vbdguard.method.detector import DetectorNet
from vbdguard.method.gradients import margin_gradients
from vbdguard.method.samples import Samples, centred, shuffled_batches
from vbdguard.method.simple_model import SimpleModel
from vbdguard.method.trigger import TriggerCandidate

_CHUNK = 256
_PIXEL_SCALE = 64.0
_PRIOR_STEPS = 50
_PRIOR_LIMITS = (1e-4, 0.99)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the image, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, x: Tensor) -> Tensor:
        """Return the rectangle of (n, C, H, W)."""
        return x[:, :, self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True)
class RegionDetector:
    """A classifier of windows into clean and patched, with a score corrected for the class's share of poison."""

    label: int
    models: tuple[SimpleModel, ...]
    scales: tuple[float, ...]
    """Standard deviation of each model's gradients on clean samples."""
    window: Window
    net: DetectorNet
    shift: float
    """What turns the network's logit into the logit of the posterior."""
    threshold: float

    def scores(self, images: Tensor) -> Tensor:
        """Return the posterior probability of poison for each of uint8 (n, H, W, C) images, float (n,)."""
        views = _views(images, self.models, self.scales, self.label, self.window)
        return torch.sigmoid(self.net.logits(views) + self.shift)


def fit_region_detector(
    models: Sequence[SimpleModel],
    samples: Samples,
    label: int,
    trigger: TriggerCandidate,
    config: RegionDetectorConfig,
    *,
    generator: torch.Generator,
) -> RegionDetector:
    """Return a detector for a trigger.

    Args:
        models: the simple poisoned models.
        samples: the training set.
        label: the suspected class.
        trigger: its candidate.
        config: settings of the detector.
        generator: CPU generator for weights, dropout, batch order, choice of samples and blend factors.
    """
    images = samples.images[_other_samples(samples, label, config.others, generator)]
    own = samples.images[samples.members(label)]
    window = window_around(trigger.mask, config.margin, config.max_side)
    scales = tuple(_gradient_scale(model, images[:_CHUNK], label) for model in models)

    def views(images: Tensor) -> Tensor:
        return _views(images, models, scales, label, window)

    low, high = config.blend_range
    alpha = torch.rand(len(images), generator=generator).to(samples.device) * (high - low) + low
    clean, patched, members = views(images), views(trigger.paste(images, alpha)), views(own)
    y = torch.cat([torch.zeros(len(clean)), torch.ones(len(patched))]).to(clean)
    net = _train(torch.cat([clean, patched]), y, config, config.epochs, generator)
    shift, posterior = _posterior(net.logits(members), float(y.mean()))
    for _ in range(config.rounds):
        y = torch.cat([torch.zeros(len(clean)).to(clean), posterior])
        net = _train(torch.cat([clean, members]), y, config, config.epochs_per_round, generator)
        shift, posterior = _posterior(net.logits(members), float(y.mean()))
    net.eval().requires_grad_(False)
    return RegionDetector(label, tuple(models), scales, window, net, shift, config.threshold)


def window_around(mask: Tensor, margin: int, max_side: int) -> Window:
    """Return the bounding box of a bool (H, W) mask with a margin, at most `max_side` a side.

    A larger box gives way to the square of that side that holds most of the mask.
    """
    (top, bottom), (left, right) = (_span(mask.any(axis), margin, mask.shape[1 - axis]) for axis in (1, 0))
    if bottom - top > max_side or right - left > max_side:
        height, width = (min(max_side, side) for side in mask.shape)
        inside = F.avg_pool2d(mask[None, None].float(), (height, width), stride=1)[0, 0]
        top, left = divmod(int(inside.argmax()), inside.shape[1])
        bottom, right = top + height, left + width
    return Window(top, bottom, left, right)


def _span(is_used: Tensor, margin: int, size: int) -> tuple[int, int]:
    used = is_used.nonzero()
    return max(0, int(used.min()) - margin), min(size, int(used.max()) + 1 + margin)


def _other_samples(samples: Samples, label: int, limit: int, generator: torch.Generator) -> Tensor:
    others = (samples.labels != label).nonzero().squeeze(1)
    order = torch.randperm(len(others), generator=generator)[:limit].to(others.device)
    return others[order]


def _gradient_scale(model: SimpleModel, images: Tensor, label: int) -> float:
    return max(float(margin_gradients(model, centred(images), label).std()), 1e-12)


def _views(
    images: Tensor, models: Sequence[SimpleModel], scales: Sequence[float], label: int, window: Window
) -> Tensor:
    """Return pixels and gradients inside the window, float (n, C + M C, h, w), each of order 1."""
    chunks = []
    for chunk in images.split(_CHUNK):
        x = centred(chunk)
        gradients = [
            window.cut(margin_gradients(model, x, label)) / scale for model, scale in zip(models, scales, strict=True)
        ]
        chunks.append(torch.cat([window.cut(x) / _PIXEL_SCALE, *gradients], dim=1))
    return torch.cat(chunks)


def _train(x: Tensor, y: Tensor, config: RegionDetectorConfig, epochs: int, generator: torch.Generator) -> DetectorNet:
    """Return a network fitted to soft labels y in [0, 1]."""
    _, channels, height, width = x.shape
    net = DetectorNet((height, width, channels), config.filters, config.dropout, generator).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    positions = torch.arange(len(x), device=x.device)
    for _ in range(epochs):
        for batch in shuffled_batches(positions, config.batch_size, generator):
            loss = F.binary_cross_entropy_with_logits(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


def _posterior(logits: Tensor, trained_share: float) -> tuple[float, Tensor]:
    """Return the logit shift to the class's own share of poison, and the posteriors under it.

    The share is found by expectation maximisation from the share that the network was trained with
    (Saerens, Latinne and Decaestecker, 2002).
    """
    trained = min(max(trained_share, 1e-6), 1 - 1e-6)
    base = -math.log(trained / (1 - trained))
    share, (low, high) = 0.1, _PRIOR_LIMITS
    shift = base
    for _ in range(_PRIOR_STEPS):
        shift = base + math.log(share / (1 - share))
        share = min(max(float((logits + shift).sigmoid().mean()), low), high)
    return shift, (logits + shift).sigmoid()
