"""Stage 5: train a detector for each trigger (paper, section 3.3.5 and Algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vbdguard.config import DetectorConfig
from vbdguard.method.device import activation_dtype
from vbdguard.method.gradients import margin_gradients
from vbdguard.method.net import uniform_parameter
from vbdguard.method.optimizers import MomentumSGD
from vbdguard.method.samples import Samples, at_once, centred, shuffled_batches
from vbdguard.method.simple_model import SimpleModel
from vbdguard.method.trigger import TriggerCandidate

_CHUNK = 256
_LEAST_INT64 = torch.iinfo(torch.int64).min


@dataclass(frozen=True, slots=True)
class GradientDetector:
    """The paper's detector: a classifier of margin-gradient images into clean and patched."""

    label: int
    model: SimpleModel
    """The simple poisoned model whose gradients it reads."""
    net: DetectorNet
    train_accuracy: float
    """Share in [0, 1] of training samples put on the right side during the last epoch."""
    threshold: float

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Return a score in [0, 1] for each of uint8 (n, H, W, C) images, float (n,)."""
        return torch.sigmoid(self.net.logits(_gradient_images(self.model, images, self.label)))


def fit_detector(
    model: SimpleModel,
    samples: Samples,
    label: int,
    trigger: TriggerCandidate,
    config: DetectorConfig,
    *,
    generator: torch.Generator,
) -> GradientDetector:
    """Return a detector for a trigger, trained on all samples of the other classes, clean and patched.

    After each epoch from `pseudo_first` to `pseudo_last` the class's own samples are labelled anew by
    the detector. Once labelled they join the training, and an epoch then ends when they have all been
    seen, as in the published runs.

    Args:
        model: the simple poisoned model that the trigger came from.
        samples: the whole training set.
        label: the suspected class.
        trigger: its candidate.
        config: settings of stage 5.
        generator: CPU generator for weights, dropout, batch order and blend factors.
    """
    others = (samples.labels != label).nonzero().squeeze(1)
    # Clean gradients never change, so they are computed once and not once an epoch.
    clean = _gradient_images(model, samples.images[others], label)
    own = _gradient_images(model, samples.images[samples.members(label)], label)
    dtype = activation_dtype(samples.device)
    net = DetectorNet(samples.image_shape, config.filters, config.dropout, generator, dtype=dtype).to(samples.device)
    optimizer = MomentumSGD(net.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    pseudo: Tensor | None = None
    accuracy = 0.0
    for epoch in range(1, config.epochs + 1):
        hits = seen = 0
        for batch, own_batch in _batches(len(others), len(own) if pseudo is not None else 0, config, generator):
            alpha = _blend_factors(len(batch), config.blend_range, generator)
            patched = trigger.paste(samples.images[others[batch]], alpha.to(samples.device))
            x = torch.cat([clean[batch].float(), margin_gradients(model, centred(patched), label)])
            y = torch.arange(2, device=x.device, dtype=x.dtype).repeat_interleave(len(batch))
            if pseudo is not None:
                x, y = torch.cat([x, own[own_batch].float()]), torch.cat([y, pseudo[own_batch]])
            hits += _learn(net, optimizer, x, y)
            seen += len(y)
        accuracy = hits / seen
        if config.pseudo_first <= epoch <= config.pseudo_last:
            pseudo = (net.logits(own).sigmoid() > config.threshold).float()
    net.eval().requires_grad_(False)
    return GradientDetector(label, model, net, accuracy, config.threshold)


class DetectorNet(nn.Module):
    """One block without batch normalisation, dropout, one output (paper, section 3.3.5).

    Args:
        input_shape: height, width and channels of what it judges.
        filters: filters of the 3 x 3 convolution.
        dropout: share of features dropped in training, 0 to 1, rounded to a 256th.
        generator: CPU generator of weights and dropout.
        dtype: type of activations; weights and logits stay float32.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        filters: int,
        dropout: float,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        height, width, channels = input_shape
        features = filters * ((height - 2) // 2) * ((width - 2) // 2)
        self.weight = uniform_parameter((filters, channels, 3, 3), 9 * channels, generator)
        self.head_weight = uniform_parameter((1, features), features, generator)
        self.head_bias = uniform_parameter((1,), features, generator)
        self.dropout = dropout
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit per input, (n,), for float (n, C, H, W); above 0 means patched."""
        x, weight = (t.to(self.dtype, memory_format=torch.channels_last) for t in (x, self.weight))
        h = F.max_pool2d(F.conv2d(x, weight), 2).relu()
        h = h.permute(0, 2, 3, 1).flatten(1)
        if self.training and self.dropout:
            h = h * self._kept(h.numel()).view(h.shape).to(h.device)
        return F.linear(h, self.head_weight.to(self.dtype), self.head_bias.to(self.dtype)).squeeze(1).float()

    def _kept(self, n: int) -> Tensor:
        """Return n factors, 0 for a dropped feature; a byte of chance for each takes an eighth of the draws."""
        chance = torch.empty(-(-n // 8), dtype=torch.int64).random_(_LEAST_INT64, None, generator=self.generator)
        n_dropped = round(self.dropout * 256)
        return (chance.view(torch.uint8)[:n] >= n_dropped).to(self.dtype).mul_(256 / max(1, 256 - n_dropped))

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of many inputs without dropout, chunk by chunk."""
        was_training = self.training
        self.eval()
        logits = torch.cat([self(chunk.float()) for chunk in x.split(_CHUNK)])
        self.train(was_training)
        return logits


def _gradient_images(model: SimpleModel, images: Tensor, label: int) -> Tensor:
    """Return the margin gradients of uint8 (n, H, W, C) images, float16 (n, C, H, W)."""
    return torch.cat([margin_gradients(model, centred(chunk), label).half() for chunk in images.split(_CHUNK)])


def _batches(
    n_others: int, n_own: int, config: DetectorConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the others, each with one of the class's own samples where there are any."""
    others = shuffled_batches(torch.arange(n_others), config.batch_size, generator)
    if not n_own:
        yield from ((batch, batch[:0]) for batch in others)
        return
    own = shuffled_batches(torch.arange(n_own), config.batch_size, generator)
    yield from zip(others, own, strict=False)


def _blend_factors(n: int, blend_range: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = blend_range
    return torch.rand(n, generator=generator) * (high - low) + low


def _learn(net: DetectorNet, optimizer: MomentumSGD, x: Tensor, y: Tensor) -> int:
    """Take one step; the batch goes through in parts whose activations stay in the processor's cache."""
    optimizer.zero_grad()
    hits = 0
    size = at_once((x.shape[2], x.shape[3]))
    for part, truth in zip(x.split(size), y.split(size), strict=True):
        logits = net(part)
        (F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(y)).backward()
        hits += int(((logits.detach() > 0) == (truth > 0.5)).sum())
    optimizer.step()
    return hits
