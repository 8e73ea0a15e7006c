"""Stage 5 of preset `default`: a detector that looks at the trigger's neighbourhood only.

It departs from the paper (section 3.3.5): it sees the pixels of a window around the trigger instead of the gradients of
the whole image, and beside them the score of the matched filter for the trigger, which is hard to learn from few
samples when the blend is faint. It learns from samples of other classes, clean and stamped. Instead of learning from
pseudo-labels, which drift, it starts again with the trigger as the samples show it that the first round flags
(`all_detectors`). Classes that share a trigger share a network. And its score is a posterior under the share of poison
that the class seems to hold, where the paper's threshold of 0.5 assumes that half of the class is poisoned.
`benchmarks/README.md` has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.config import WindowDetectorConfig
from vbdguard.method.moves import Reading
from vbdguard.method.optimizers import OneCycleAdamW
from vbdguard.method.samples import PIXEL_NOISE, Samples, evenly, shuffled_batches
from vbdguard.method.score_density import LEAST_SCALE
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window, window_around
from vbdguard.method.window_net import WindowNet, network_pixels

_PRIOR_STEPS = 200
_PRIOR_LIMITS = (1e-4, 0.99)
_FILTER_SAMPLES = 6000
"""Samples of other classes that a matched filter is made of, at most."""
_CHUNK = 2048
_LOWEST_SCORE, _HIGHEST_SCORE, _SCORE_SCALE = -8.0, 24.0, 2.0


@dataclass(frozen=True, slots=True)
class MatchedFilter:
    """The linear score that tells stamped windows from others best if all are Gaussian."""

    weights: Tensor
    """float32 (D,)."""
    centre: float
    """Median score of other classes' windows; their robust standard deviation is 1."""

    @classmethod
    def scaled(cls, weights: Tensor, windows: Tensor) -> MatchedFilter:
        """Return the filter with such weights, (D,), up to a factor, for clean windows, uint8 (n, h, w, C)."""
        scores = windows.flatten(1).float() @ weights
        centre = scores.median()
        scale = robust_scale(scores, centre, weights.norm())
        return cls(weights / scale, float(centre / scale))

    def __call__(self, windows: Tensor) -> Tensor:
        """Return the score, float32 (n,), of uint8 windows (n, h, w, C)."""
        return windows.flatten(1).float() @ self.weights - self.centre


@dataclass(frozen=True, slots=True)
class MatchedFilters:
    """One filter for each place where the trigger's copies lie; the one that answers most speaks."""

    filters: tuple[MatchedFilter, ...]

    def __call__(self, windows: Tensor) -> Tensor:
        """Return what the network sees of the score, float32 (n, 2), of uint8 windows (n, h, w, C)."""
        return seen_of_score(torch.stack([each(windows) for each in self.filters]).amax(0))


def robust_scale(scores: Tensor, centre: Tensor, length: Tensor) -> Tensor:
    """Return the robust standard deviation of scores, float32 (n, ...), around their medians, float32 (...).

    What `score_scale` says of one filter holds for many, of Euclidean lengths float32 (...).
    """
    least = LEAST_SCALE * scores.std(0, correction=0).maximum(length)
    return (1.4826 * (scores - centre).abs_().median(0).values).maximum(least)


def seen_of_score(score: Tensor) -> Tensor:
    """Return the clipped score and its square, float32 (n, 2, ...), of float32 (n, ...)."""
    clipped = score.clamp(_LOWEST_SCORE, _HIGHEST_SCORE) / _SCORE_SCALE
    return torch.stack([clipped, clipped.clamp(max=8).square() / 8], dim=1)


@dataclass(frozen=True, slots=True)
class WindowDetector:
    """A classifier of windows into clean and stamped, with a score corrected for the class's share of poison."""

    window: Window
    matched: MatchedFilters
    net: WindowNet
    shift: float
    """What turns the network's logit into the logit of the posterior."""
    gain: float
    """Log-likelihood (nats) of the class's samples under that share above none."""

    @classmethod
    def of(cls, images: Tensor, own: Tensor, window: Window, matched: MatchedFilters, net: WindowNet) -> WindowDetector:
        """Return the detector of a class, int64 (n,) of uint8 (N, H, W, C) images, for a network that has learned."""
        shift, gain = share_of_poison(_judge(net, matched, window.cut(images, own)))
        return cls(window, matched, net, shift, gain)

    def at(self, window: Window, weights: Tensor, images: Tensor, own: Tensor, others: Tensor) -> WindowDetector:
        """Return the same for another place, perhaps in another class; what is usual there is told by others.

        Args:
            window: of the size of this one's.
            weights: float32 (D,), of the filter there, up to a factor.
            images: uint8 (N, H, W, C).
            own: int64 (n,), the samples of the class.
            others: int64 (m,), samples of other classes.
        """
        matched = MatchedFilters((MatchedFilter.scaled(weights, window.cut(images, others)),))
        return WindowDetector.of(images, own, window, matched, self.net)

    def logits(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the posterior log-odds of poison of some of uint8 (N, H, W, C) images, float (n,)."""
        return _judge(self.net, self.matched, self.window.cut(images, indices)) + self.shift


@dataclass(frozen=True, slots=True)
class Sight:
    """A class, and the trigger that a detector is to tell in it."""

    own: Tensor
    """int64 (n,), the samples of the class."""
    others: Tensor
    """int64 (m,), samples of other classes to learn from."""
    reading: Reading
    """The trigger, with the blend factor, and where its copies lie."""
    beyond: bool = False
    """Whether the window may reach beyond the border: then one network will do wherever the trigger lies."""

    def window(self, config: WindowDetectorConfig) -> Window:
        """Return what a detector sees of an image."""
        mask = self.reading.planted.trigger.mask
        return window_around(mask, config.margin, config.max_side, beyond=self.beyond)

    def layout(self, config: WindowDetectorConfig) -> tuple[int, ...]:
        """Return height and width of the window and where the trigger lies in it: alike where one network will do."""
        window, box = self.window(config), self.reading.planted.trigger.bbox
        return (*window.size, box[0] - window.top, box[1] - window.left)


def fit_window_detectors(
    samples: Samples, sights: Sequence[Sight], config: WindowDetectorConfig, *, generator: torch.Generator
) -> list[WindowDetector]:
    """Return a detector for each class: one network, which learns from all, each with its own filter and share.

    Args:
        samples: the training set.
        sights: classes with one trigger, at a place of its own in each, of the same layout.
        config: settings of the detector.
        generator: CPU generator for weights, batch order and blend factors.
    """
    lessons = [_lesson(samples, sight, i, len(sights), config, generator) for i, sight in enumerate(sights)]
    net = _train([lesson.taught for lesson in lessons], config, generator)
    return [
        WindowDetector.of(samples.images, sight.own, lesson.window, lesson.matched, net)
        for sight, lesson in zip(sights, lessons, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What one class adds to what the network learns from."""

    window: Window
    matched: MatchedFilters
    taught: tuple[Tensor, Tensor, Tensor, Tensor]
    """Windows of other classes, uint8 (m, h, w, C), clean and stamped, and what the filter says of them."""


def _lesson(
    samples: Samples, sight: Sight, part: int, parts: int, config: WindowDetectorConfig, generator: torch.Generator
) -> _Lesson:
    """Return what a class adds: of all its other samples every so many teach, others in each part."""
    window = sight.window(config)

    def stamped_windows(indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        clean, reading = window.cut(samples.images, indices), sight.reading
        low, high = config.blend_slack
        alpha = (torch.rand(len(indices), generator=generator) * (high - low) + low) * reading.planted.blend_factor
        step_of = _drawn_steps(reading, len(indices), generator).to(samples.device)
        return clean, _stamped(clean, reading, window, alpha.clamp(0, 1).to(samples.device), step_of), step_of

    matched = _matched_filters(*stamped_windows(evenly(sight.others, _FILTER_SAMPLES)))
    clean, stamped, _ = stamped_windows(sight.others[part::parts])
    return _Lesson(window, matched, (clean, stamped, matched(clean), matched(stamped)))


def _drawn_steps(reading: Reading, n: int, generator: torch.Generator) -> Tensor:
    """Return which step each of n copies takes, int64 (n,)."""
    if not reading.is_moving:
        return torch.zeros(n, dtype=torch.int64)
    return torch.multinomial(torch.tensor(reading.shares), n, replacement=True, generator=generator)


def _stamped(clean: Tensor, reading: Reading, window: Window, alpha: Tensor, step_of: Tensor) -> Tensor:
    """Return windows with a copy of the trigger each, uint8 (n, h, w, C)."""
    stamped = torch.empty_like(clean)
    for i, (down, right) in enumerate(reading.steps):
        chosen = step_of == i
        trigger = _inside(reading.planted.trigger.moved(down, right), window)
        stamped[chosen] = trigger.paste(clean[chosen], alpha[chosen])
    return stamped


def _inside(trigger: TriggerCandidate, window: Window) -> TriggerCandidate:
    pattern = window.of_image(trigger.pattern.permute(1, 2, 0)).permute(2, 0, 1)
    return TriggerCandidate(window.of_image(trigger.mask), pattern)


def _matched_filters(clean: Tensor, stamped: Tensor, step_of: Tensor) -> MatchedFilters:
    chosen = (step_of == step for step in step_of.unique())
    return MatchedFilters(tuple(_matched_filter(clean, stamped, at_step) for at_step in chosen))


def _matched_filter(clean: Tensor, stamped: Tensor, chosen: Tensor) -> MatchedFilter:
    """Return the filter for what a stamp does to the chosen windows, bool (n,); all others tell how windows vary."""
    x = clean.flatten(1).float()
    shift = stamped[chosen].flatten(1).float().mean(0) - x[chosen].mean(0)
    base = x - x.mean(0)
    covariance = (base.T @ base / len(base)).double()
    covariance.diagonal().add_(PIXEL_NOISE)
    return MatchedFilter.scaled(torch.linalg.solve(covariance, shift.double()).float(), clean)


def _train(
    taught: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], config: WindowDetectorConfig, generator: torch.Generator
) -> WindowNet:
    """Return a network fitted to uint8 (m, h, w, C) windows, clean and stamped, and the filter's (m, 2) of each."""
    clean, stamped, clean_scores, stamped_scores = (torch.cat(kind) for kind in zip(*taught, strict=True))
    windows, scores = torch.cat([clean, stamped]), torch.cat([clean_scores, stamped_scores])
    _, height, width, channels = windows.shape
    net = WindowNet((height, width, channels), config, generator).to(windows.device)
    y = torch.arange(2, device=windows.device, dtype=torch.float32).repeat_interleave(len(clean))
    steps = config.epochs * -(-len(windows) // config.batch_size)
    optimizer = OneCycleAdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, steps=steps)
    positions = torch.arange(len(windows), device=windows.device)
    for _ in range(config.epochs):
        for batch in shuffled_batches(positions, config.batch_size, generator):
            loss = F.binary_cross_entropy_with_logits(net(network_pixels(windows[batch]), scores[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def _judge(net: WindowNet, matched: MatchedFilters, windows: Tensor) -> Tensor:
    return torch.cat([net(network_pixels(chunk), matched(chunk)) for chunk in windows.split(_CHUNK)])


def share_of_poison(logits: Tensor) -> tuple[float, float]:
    """Return the logit shift from even odds to the class's own share of poison, and what that share gains (nats).

    The share is found by expectation maximisation (Saerens, Latinne and Decaestecker, 2002).
    """
    logits = logits.double()
    share, (low, high) = 0.1, _PRIOR_LIMITS
    shift = 0.0
    for _ in range(_PRIOR_STEPS):
        shift = math.log(share / (1 - share))
        share = min(max(float((logits + shift).sigmoid().mean()), low), high)
    gain = float((F.softplus(logits + shift) + math.log(1 - share)).sum())
    return shift, gain
