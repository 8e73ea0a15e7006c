"""The gradient test on a model whose gradients are known, against loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from vbdguard.config import SuspectsConfig
from vbdguard.method.samples import Samples
from vbdguard.method.suspects import find_suspects

TOP = SuspectsConfig(top=8, min_top=3)


class Quadratic(nn.Module):
    """Two classes; the margin of class 0 is half the squared norm of the input, so its gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_std", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        margin = x.square().sum((1, 2, 3)) / 2
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def drawn(n: int, seed: int = 0) -> Samples:
    """Random images of two classes; a gradient of class 0 is then pixel - 128, known by hand."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 156, (n, 5, 6, 3), dtype=np.uint8)
    return Samples(torch.from_numpy(images), torch.from_numpy(rng.integers(0, 2, n)), 2)


def drawn_logits(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 100).normal(size=(n, 2)).astype(np.float32))


def by_loops(samples: Samples, logits: Tensor, top: int) -> tuple[list[int], list[int]]:
    """Indices of the likely poisoned and the likely clean samples of class 0, one after the other."""
    ranked = []
    for index, (label, row) in enumerate(zip(samples.labels.tolist(), logits.tolist(), strict=True)):
        if label == 0:
            probability = np.exp(row[0]) / sum(np.exp(row))
            ranked.append((-probability, index, row[0] > row[1]))
    ranked.sort()
    poisoned = [index for _, index, is_correct in ranked if is_correct][:top]
    rest = [index for _, index, _ in ranked if index not in poisoned]
    return poisoned, rest[-top:]


@pytest.mark.parametrize("seed", range(4))
def test_the_evidence_is_what_loops_and_scipy_find(seed: int) -> None:
    samples, logits = drawn(60, seed), drawn_logits(60, seed)
    evidence = find_suspects(Quadratic(), samples, logits, TOP)[0]
    poisoned, clean = by_loops(samples, logits, TOP.top)
    gradients = samples.images.numpy().astype(np.float64) - 128
    mean = gradients[poisoned].mean(0)
    np.testing.assert_allclose(evidence.mean_gradient.permute(1, 2, 0), mean, rtol=1e-5, atol=1e-4)
    row, column = np.unravel_index(np.abs(mean.mean(2)).argmax(), (5, 6))
    importance = np.abs(gradients[:, row, column]).max(1)
    assert evidence.likely_poisoned.tolist() == poisoned
    assert evidence.p_value == pytest.approx(ks_2samp(importance[poisoned], importance[clean]).pvalue, rel=1e-9)


def test_a_pixel_that_only_the_surest_samples_care_for_makes_a_class_suspect() -> None:
    samples = Samples(torch.full((40, 5, 6, 3), 129, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64), 2)
    logits = torch.stack([torch.linspace(5, -5, 40), torch.zeros(40)], 1)
    calm = find_suspects(Quadratic(), samples, logits, TOP)[0]
    assert (calm.p_value, calm.is_suspect) == (1.0, False)
    samples.images[:8, 2, 4, 1] = 250
    alarmed = find_suspects(Quadratic(), samples, logits, TOP)[0]
    assert alarmed.likely_poisoned.tolist() == list(range(8))
    # 8 against 8 values that do not overlap: 2 / binomial(16, 8)
    assert alarmed.p_value == pytest.approx(2 / 12870, rel=1e-6)
    assert alarmed.is_suspect


@pytest.mark.parametrize(("significance", "expected"), [(1e-5, False), (1e-3, True)])
def test_the_significance_decides_who_is_suspect(significance: float, expected: bool) -> None:
    samples = Samples(torch.full((40, 5, 6, 3), 129, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64), 2)
    samples.images[:8, 2, 4, 1] = 250
    logits = torch.stack([torch.linspace(5, -5, 40), torch.zeros(40)], 1)
    config = SuspectsConfig(top=8, min_top=3, significance=significance)
    assert find_suspects(Quadratic(), samples, logits, config)[0].is_suspect is expected


def test_wrongly_predicted_samples_are_never_taken_for_poisoned() -> None:
    samples, logits = drawn(60), drawn_logits(60)
    for evidence in find_suspects(Quadratic(), samples, logits, TOP):
        assert set(logits[evidence.likely_poisoned].argmax(1).tolist()) == {evidence.label}
        assert set(samples.labels[evidence.likely_poisoned].tolist()) == {evidence.label}


@pytest.mark.parametrize(
    ("correct", "wrong", "is_tested"), [(3, 3, True), (2, 30, False), (3, 2, False), (11, 0, True)]
)
def test_both_sides_need_their_least_number_of_samples(correct: int, wrong: int, is_tested: bool) -> None:
    n = correct + wrong
    samples = Samples(drawn(n).images, torch.zeros(n, dtype=torch.int64), 2)
    sureness = torch.tensor([1.0] * correct + [-1.0] * wrong)
    evidence = find_suspects(Quadratic(), samples, torch.stack([sureness, torch.zeros(n)], 1), TOP)
    assert [entry.label for entry in evidence] == ([0] if is_tested else [])


def test_ties_go_to_the_earlier_sample() -> None:
    samples = Samples(drawn(30).images, torch.zeros(30, dtype=torch.int64), 2)
    logits = torch.tensor([[2.0, 0.0]]).repeat(30, 1)
    assert find_suspects(Quadratic(), samples, logits, TOP)[0].likely_poisoned.tolist() == list(range(8))
