"""Stage 3 of preset `default`, before the first look: patterns that the mean images of many classes repeat.

Where an attacker of all classes leaves each a few dozen faint carriers, no class shows the trigger clearly enough to
begin with. But the mean images of all of them show the same thing, at one place each, and nothing natural does. The
oddest windows of each class are looked for in all other classes, and what is found there is averaged, until it is
stable. Whether that is a pattern or chance is told by classes that had no part in the average: there it must score
higher than its opposite does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vbdguard.method.common_trigger import Template
from vbdguard.method.contrast import natural_covariance
from vbdguard.method.evidence import SHARE_OF_CARRIERS
from vbdguard.method.samples import evenly

_FEWEST_CLASSES, _MOST_CLASSES = 20, 200
"""Classes from which on an average of half of them says something, and how many are compared at most."""
_PLACES, _MOST_CANDIDATES = 4, 400
_TRIED, _ROUNDS = 20, 6
_CHANCE, _ALIKE = 4.5, 0.5
"""Standard errors by which a pattern must score higher than its opposite, and the correlation of what both halves of
the classes show. Where nothing is repeated the best of those tried reaches about 2, seldom 4."""
_STEEPNESS, _BEYOND = 2.0, 0.5
"""How sure it is that a class shows the pattern where it scores by so much more than opposites do."""
_PEAK, _RIDGE, _RELEVANCE_ROUNDS = 5, 1e-6, 30
_LEAST_VARIANCE, _IRRELEVANT = 1e-12, 0.1
"""Of pixels that do not belong to a pattern, and the part of the strongest pixel below which they do not."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """How directions score in some classes."""

    highest: Tensor
    """(n, K), standard deviations."""
    lowest: Tensor
    """(n, K): the highest of the opposite direction."""
    windows: Tensor
    """(n, K, D), whitened: where each class scores highest."""

    def clarity(self, heard: Tensor) -> Tensor:
        """Return by how many standard errors directions score higher than their opposites, (n,).

        Args:
            heard: bool (n, K), the classes that have a say.
        """
        weights = heard.to(self.highest.dtype)
        more, n = self.highest - self.lowest, weights.sum(1)
        mean = (more * weights).sum(1) / n
        variance = ((more - mean[:, None]).square() * weights).sum(1) / (n - 1)
        return mean / (variance / n).sqrt().clamp_min(1e-12)

    def weights(self) -> Tensor:
        """Return how sure it is that each class shows each pattern, in [0, 1], (n, K)."""
        usual = self.lowest.quantile(0.5, dim=1, keepdim=True)
        return (_STEEPNESS * (self.highest - usual - _BEYOND)).sigmoid()

    def averaged(self) -> Tensor:
        """Return the directions, of length 1, that the classes which show them have in common, (n, D)."""
        return F.normalize(torch.einsum("nk,nkd->nd", self.weights(), self.windows), dim=1)


@dataclass(frozen=True, slots=True)
class _Windows:
    """All windows of the classes' contrasts, in coordinates in which natural ones vary by 1 in every direction."""

    contrasts: Tensor
    """float32 (K, H, W, C)."""
    side: tuple[int, int]
    covariance: Tensor
    """float64 (D, D)."""
    root: Tensor
    """float32 (D, D): a window times it is whitened."""

    @classmethod
    def of(cls, contrasts: Tensor, side: int, natural_share: float) -> _Windows:
        covariance = natural_covariance(contrasts, side, natural_share)
        covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + _RIDGE)
        root = torch.linalg.cholesky(torch.linalg.inv(covariance)).float()
        height, width = (min(side, length) for length in contrasts.shape[1:3])
        return cls(contrasts.float(), (height, width), covariance, root)

    def of_class(self, label: int) -> Tensor:
        """Return the whitened windows of a class, (P, D)."""
        height, width = self.side
        windows = self.contrasts[label].unfold(0, height, 1).unfold(1, width, 1).permute(0, 1, 3, 4, 2)
        return windows.flatten(2).flatten(0, 1) @ self.root

    def oddest(self) -> tuple[Tensor, Tensor]:
        """Return the oddest windows of all classes, of length 1, (n, D), and whose they are, (n,)."""
        rows, columns = (length - side + 1 for length, side in zip(self.contrasts.shape[1:3], self.side, strict=True))
        found, lengths, labels = [], [], []
        for label in range(len(self.contrasts)):
            windows = self.of_class(label)
            length = windows.norm(dim=1)
            highest = F.max_pool2d(length.view(1, 1, rows, columns), _PEAK, stride=1, padding=_PEAK // 2).flatten()
            peaks = (length == highest).nonzero().squeeze(1)
            chosen = peaks[length[peaks].argsort(descending=True, stable=True)[:_PLACES]]
            found.append(windows[chosen])
            lengths.append(length[chosen])
            labels.append(torch.full_like(chosen, label))
        order = torch.cat(lengths).argsort(descending=True, stable=True)[:_MOST_CANDIDATES]
        return F.normalize(torch.cat(found)[order], dim=1), torch.cat(labels)[order]

    def seen(self, directions: Tensor, labels: Tensor) -> _Seen:
        """Return how (n, D) directions score in some classes, (K,)."""
        highest, lowest, where = [], [], []
        for label in labels.tolist():
            windows = self.of_class(label)
            scores = directions @ windows.T
            most = scores.max(1)
            highest.append(most.values)
            lowest.append(-scores.min(1).values)
            where.append(windows[most.indices])
        return _Seen(torch.stack(highest, 1), torch.stack(lowest, 1), torch.stack(where, 1))

    def refined(self, directions: Tensor, labels: Tensor) -> Tensor:
        """Return what the classes show of directions, stable, (n, D)."""
        for _ in range(_ROUNDS):
            directions = self.seen(directions, labels).averaged()
        return directions

    def shift(self, direction: Tensor, scale: float, n: float) -> Tensor:
        """Return what a direction that n windows have in common is in grey levels, float64 (h, w, C).

        Differences between classes leave much of themselves in an average. How much of each pixel is believed follows
        from the average itself (automatic relevance determination: a normal prior whose variance is each pixel's own).

        Args:
            direction: (D,), whitened, of length 1.
            scale: its mean score where it is there.
            n: how many windows were averaged.
        """
        raw = torch.linalg.solve(self.root.double().T, scale * direction.double())
        precision = n * torch.linalg.inv(self.covariance)
        channels = self.contrasts.shape[3]
        shift, variance = raw, raw.square().mean().expand(len(raw) // channels)
        for _ in range(_RELEVANCE_ROUNDS):
            prior = variance.clamp_min(_LEAST_VARIANCE).reciprocal().repeat_interleave(channels)
            posterior = torch.linalg.inv(precision + prior.diag())
            shift = torch.mv(posterior, torch.mv(precision, raw))
            variance = (shift.square() + posterior.diagonal()).view(-1, channels).mean(1)
        found = shift.view(*self.side, channels)
        strength = found.norm(dim=2, keepdim=True)
        return torch.where(strength > _IRRELEVANT * strength.max(), found, 0.0)


def repeated_patterns(contrasts: Tensor, counts: Tensor, side: int, natural_share: float) -> list[Template]:
    """Return what the mean images of many classes repeat, the clearest first; usually nothing.

    Args:
        contrasts: float64 (K, H, W, C), of the classes to all others.
        counts: int64 (K,), samples of each class; classes without any are not looked at.
        side: of the windows, cut to the image.
        natural_share: share of the windows, the smoothest, that is natural for sure.
    """
    present = evenly((counts > 0).nonzero().squeeze(1), _MOST_CLASSES)
    if len(present) < _FEWEST_CLASSES:
        return []
    windows = _Windows.of(contrasts[present], side, natural_share)
    labels = torch.arange(len(present), device=contrasts.device)
    directions = _repeated(windows, labels)
    if not len(directions):
        return []
    directions = windows.refined(directions, labels)
    seen = windows.seen(directions, labels)
    found: list[Template] = []
    for direction, scores, weights in zip(directions, seen.highest, seen.weights(), strict=True):
        shows = weights > 0.5
        if not bool(shows.any()):
            continue
        shift = windows.shift(direction, float((weights * scores).sum() / weights.sum()), float(weights.sum()))
        template = Template(
            shift.cpu().numpy() / SHARE_OF_CARRIERS,
            float(counts[present[shows]].sum()) * SHARE_OF_CARRIERS,
            float(scores[shows].square().sum()) / 2,
            frozenset(present[shows].tolist()),
        )
        if not any(template.is_like(earlier) for earlier in found):
            found.append(template)
    return found


def _repeated(windows: _Windows, labels: Tensor) -> Tensor:
    """Return the directions, of length 1, that two halves of the classes show alike, the clearest first, (n, D)."""
    candidates, own = windows.oddest()
    at_first = windows.seen(candidates, labels)
    directions, clarity = [], []
    for half in range(2):
        learned, unseen = labels[half::2], labels[1 - half :: 2]
        # The class that a candidate comes from shows it anyhow.
        heard = (own[:, None] != labels[None]) & (labels % 2 == half)[None]
        chosen = at_first.clarity(heard).argsort(descending=True, stable=True)[:_TRIED]
        directions.append(windows.refined(candidates[chosen], learned))
        clarity.append(windows.seen(directions[half], unseen).clarity(own[chosen][:, None] != unseen[None]))
    together = (clarity[0][:, None] + clarity[1][None]) / 2**0.5
    is_repeated = (directions[0] @ directions[1].T > _ALIKE) & (together > _CHANCE)
    pairs = is_repeated.nonzero()
    pairs = pairs[together[is_repeated].argsort(descending=True, stable=True)]
    return F.normalize(directions[0][pairs[:, 0]] + directions[1][pairs[:, 1]], dim=1)
