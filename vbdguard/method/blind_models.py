"""Models that cannot see the suspected triggers, and what they make of every sample.

Two models, each trained on one half of the samples, judge the other half, so no sample is judged by a model that has
learned its label. Where the triggers are small, or hide what is below them, they are painted over in all images; where
the content of much of the image is seen through them, painting over would hide it, and the models are kept from the
flagged samples instead. Where hardly anything is seen through them, what is left of the content is brought out again
before it is judged. Samples that neither half holds are judged by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import LabelCheckConfig
from vbdguard.method.content_model import ContentNet, fit_content_model, log_probabilities
from vbdguard.method.samples import Samples, by_chunks, evenly, halved, stratified_split
from vbdguard.method.side_by_side import side_by_side
from vbdguard.progress import Progress, Silent

_CHUNK = 256
_USUAL = 1000
"""Samples that say how much images vary."""
LEAST_CONTRAST = 1 / 16
"""Share of the usual standard deviation that must be left of content to be brought out again: of copies of the same
picture, compression leaves almost as much."""


@dataclass(frozen=True, slots=True)
class Painting:
    """How the models see an image."""

    mask: Tensor
    """bool (H, W): what is painted over."""
    colour: Tensor
    """uint8 (C,): with what."""
    side: int
    """Longest side of what is left, in pixels."""

    @classmethod
    def over(cls, samples: Samples, masks: Sequence[Tensor], max_side: int) -> Painting:
        """Paint the masks, bool (H, W) each, and a pixel around them in their mean colour.

        What an image shows can be told from a small copy, in a fraction of the time.
        """
        longest = max(samples.image_shape[:2])
        side = min(max_side, longest - 1) if longest >= max_side else longest
        height, width, channels = samples.image_shape
        if not masks:
            nowhere = torch.zeros(height, width, dtype=torch.bool, device=samples.device)
            return cls(nowhere, torch.zeros(channels, dtype=torch.uint8, device=samples.device), side)
        mask = torch.stack(list(masks)).any(0)
        wider = F.max_pool2d(mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
        chunks = samples.images.split(_CHUNK)
        total = torch.stack([chunk[:, wider].sum((0, 1), dtype=torch.int64) for chunk in chunks]).sum(0)
        colour = (total.double() / (len(samples) * max(1, int(wider.sum())))).round().to(torch.uint8)
        return cls(wider, colour, side)

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 (n, h, w, C), no larger than `side`, of uint8 (n, H, W, C) images."""

        def seen(chunk: Tensor) -> Tensor:
            return halved(torch.where(self.mask[:, :, None], self.colour, chunk), self.side)

        return by_chunks(seen, images)


@dataclass(frozen=True, slots=True)
class BlindModels:
    """The models of the two halves, less those that had nothing to learn from."""

    painting: Painting
    models: tuple[ContentNet, ...]
    n_classes: int

    def log_probability(self, images: Tensor) -> Tensor:
        """Return what they make of images of neither half, on average, float32 (n, K) of uint8 (n, H, W, C).

        All 0 where no model could learn anything.
        """
        if not self.models:
            return torch.zeros(len(images), self.n_classes, device=images.device)
        seen = self.painting(images)
        return torch.stack([log_probabilities(model, seen) for model in self.models]).mean(0)


@dataclass(frozen=True, slots=True)
class BlindFits:
    """What models that cannot see triggers make of each sample that they were fitted across."""

    labels: tuple[int, ...]
    """Those asked for."""
    log_probability: Tensor
    """float32 (N, L), of these labels."""
    likeliest: Tensor
    """int64 (N, 2): the two likeliest labels, likeliest first."""
    models: BlindModels
    """They judge other samples as well."""

    def fit(self, label: int) -> Tensor:
        """Return the log-probability of one of the labels for each sample, float32 (N,)."""
        return self.log_probability[:, self.labels.index(label)]


def brought_out(images: Tensor, usual: Tensor) -> Tensor:
    """Return images that share a picture as they may have been below it: with the mean and variance of usual ones.

    A picture p that is blended with factor a into images x leaves a p + (1 - a) x: their mean, and 1 - a of their
    standard deviation (paper, Eq. 1), in which images are opened up again.

    Args:
        images: uint8 (n, h, w, C), n >= 2.
        usual: uint8 (m, h, w, C), m >= 2, images without a picture.
    """
    shown, others = images.float(), usual.float()
    contrast = (shown.var(0).sum(-1) / others.var(0).sum(-1).clamp_min(1e-9)).sqrt().clamp(LEAST_CONTRAST, 1)
    content = (shown - shown.mean(0)) / contrast[..., None] + others.mean(0)
    return content.round().clamp(0, 255).to(torch.uint8)


def blind_fits(
    samples: Samples,
    masks: Sequence[Tensor],
    labels: Sequence[int],
    is_hidden: Tensor,
    config: LabelCheckConfig,
    *,
    faded: Sequence[Tensor] = (),
    seed: int,
    progress: Progress | None = None,
) -> BlindFits:
    """Return what models that cannot see triggers make of every sample.

    Args:
        samples: N samples of the training set.
        masks: bool (H, W), what to paint over in all images.
        labels: the L labels asked for.
        is_hidden: bool (N,), samples that the models must not learn from, since their triggers cannot be painted over.
        config: settings of the check.
        faded: int64 (n,) each, samples, none of which the models learn from, that share a picture under which their
            content can hardly be seen.
        seed: seed of halves, weights and batch order.
        progress: gets one step per half.

    Returns:
        The fits; all 0 for samples whose judge had nothing to learn from.
    """
    painting = Painting.over(samples, masks, config.max_side)
    visible = replace(samples, images=painting(samples.images))
    usual = evenly((~is_hidden).nonzero().squeeze(1), _USUAL)
    for carriers in faded if len(usual) > 1 else ():
        visible.images[carriers] = brought_out(visible.images[carriers], visible.images[usual])
    halves = stratified_split(samples.labels, 0.5, torch.Generator().manual_seed(seed))
    log_probability = torch.zeros(len(samples), len(labels), device=samples.device)
    likeliest = torch.zeros(len(samples), 2, dtype=torch.int64, device=samples.device)

    def judge(half: tuple[Tensor, Tensor]) -> ContentNet | None:
        learned, judged = half
        seen = learned[~is_hidden[learned]]
        if not len(seen):
            return None
        model = fit_content_model(visible.subset(seen), config, seed=seed)
        fit = log_probabilities(model, visible.images[judged])
        log_probability[judged] = fit[:, list(labels)]
        likeliest[judged] = fit.topk(2, dim=1).indices
        return model

    judges = side_by_side(judge, (halves, halves[::-1]), device=samples.device, progress=progress or Silent())
    models = tuple(model for model in judges if model is not None)
    return BlindFits(tuple(labels), log_probability, likeliest, BlindModels(painting, models, samples.n_classes))
