"""Stage 5 of preset `default`: a detector that looks at the trigger's neighbourhood only.

It departs from the paper (section 3.3.5) in four ways. It sees a window around the trigger instead of
the whole image, the pixels beside the gradients, and the gradients of every model of the ensemble. It
learns from a bounded number of other-class samples, each patched once. Instead of learning from
pseudo-labels, which drift, it sharpens the trigger on the samples that the first round flags and
starts again with that. And its score is a posterior under the share of poison that the class seems
to hold, where the paper's threshold of 0.5 assumes that half of the class is poisoned.
`benchmarks/README.md` has the figures.
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
from vbdguard.method.trigger import TriggerCandidate, sharpen_trigger

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
    scales = tuple(_gradient_scale(model, images[:_CHUNK], label) for model in models)
    clean, members = (_gradients(x, models, scales, label) for x in (images, own))
    blend_range = config.blend_range
    for last_round in range(config.rounds, -1, -1):
        window = window_around(trigger.mask, config.margin, config.max_side)
        low, high = blend_range
        alpha = torch.rand(len(images), generator=generator).to(samples.device) * (high - low) + low
        patched = _views(trigger.paste(images, alpha), models, scales, label, window)
        y = torch.arange(2, device=samples.device, dtype=torch.float32).repeat_interleave(len(images))
        net = _train(torch.cat([_look(images, clean, window), patched]), y, config, generator)
        shift, posterior = _posterior(net.logits(_look(own, members, window)))
        surest = own[posterior > config.threshold]
        if last_round == 0 or len(surest) < config.min_to_sharpen:
            break
        sharp = sharpen_trigger(trigger, surest, images)
        trigger, blend_factor = sharp.trigger, sharp.blend_factor
        lowest = max(config.blend_range[0], blend_factor - config.blend_slack)
        blend_range = (lowest, min(1.0, blend_factor + config.blend_slack))
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


def _gradients(images: Tensor, models: Sequence[SimpleModel], scales: Sequence[float], label: int) -> Tensor:
    """Return the margin gradients of M models, float16 (n, M C, H, W), each of order 1."""
    n, height, width, channels = images.shape
    gradients = torch.empty((n, len(models) * channels, height, width), dtype=torch.float16, device=images.device)
    for chunk, target in zip(images.split(_CHUNK), gradients.split(_CHUNK), strict=True):
        x = centred(chunk)
        for model, scale, part in zip(models, scales, target.split(channels, dim=1), strict=True):
            part.copy_(margin_gradients(model, x, label) / scale)
    return gradients


def _look(images: Tensor, gradients: Tensor, window: Window) -> Tensor:
    """Return pixels and gradients inside a window, float16 (n, C + M C, h, w)."""
    inside = images[:, window.top : window.bottom, window.left : window.right]
    return torch.cat([(centred(inside) / _PIXEL_SCALE).half(), window.cut(gradients)], dim=1)


def _views(
    images: Tensor, models: Sequence[SimpleModel], scales: Sequence[float], label: int, window: Window
) -> Tensor:
    """Return what `_look` does, without keeping the gradients outside the window."""
    chunks = images.split(_CHUNK)
    return torch.cat([_look(chunk, _gradients(chunk, models, scales, label), window) for chunk in chunks])


def _train(x: Tensor, y: Tensor, config: RegionDetectorConfig, generator: torch.Generator) -> DetectorNet:
    """Return a network fitted to labels y, 0 or 1."""
    _, channels, height, width = x.shape
    net = DetectorNet((height, width, channels), config.filters, config.dropout, generator).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    positions = torch.arange(len(x), device=x.device)
    for _ in range(config.epochs):
        for batch in shuffled_batches(positions, config.batch_size, generator):
            loss = F.binary_cross_entropy_with_logits(net(x[batch].float()), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


def _posterior(logits: Tensor) -> tuple[float, Tensor]:
    """Return the logit shift from even odds to the class's own share of poison, and the posteriors under it.

    The share is found by expectation maximisation (Saerens, Latinne and Decaestecker, 2002).
    """
    share, (low, high) = 0.1, _PRIOR_LIMITS
    shift = 0.0
    for _ in range(_PRIOR_STEPS):
        shift = math.log(share / (1 - share))
        share = min(max(float((logits + shift).sigmoid().mean()), low), high)
    return shift, (logits + shift).sigmoid()
