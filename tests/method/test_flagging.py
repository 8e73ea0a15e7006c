from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vbdguard.method.flagging import flag_samples, suggested_labels
from vbdguard.method.samples import Samples


@dataclass(frozen=True)
class ByBrightness:
    """A detector that calls bright images poisoned, and remembers nothing."""

    label: int
    threshold: float = 0.5

    def scores(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3)) / 255


class NearestLevel(nn.Module):
    """Predicts the class whose level, 60 times its number, is nearest to the mean pixel."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3)) + 128
        return -(level[:, None] - 60.0 * torch.arange(4)).abs()


def levels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 6, 6, 3).contiguous()


SAMPLES = Samples(levels(250, 10, 250, 200, 10, 250), torch.tensor([0, 0, 1, 2, 2, 2]), 3)


def test_a_detector_judges_only_samples_of_its_class() -> None:
    flags = flag_samples(SAMPLES, [ByBrightness(2)])
    assert flags.is_flagged.tolist() == [False, False, False, True, False, True]
    torch.testing.assert_close(flags.scores, torch.tensor([0, 0, 0, 200, 10, 250]) / 255)


def test_each_detector_has_its_own_threshold() -> None:
    flags = flag_samples(SAMPLES, [ByBrightness(0, 0.99), ByBrightness(2, 0.9)])
    assert flags.is_flagged.tolist() == [False, False, False, False, False, True]
    assert float(flags.scores[0]) > 0.9


def test_without_detectors_nothing_is_flagged() -> None:
    flags = flag_samples(SAMPLES, [])
    assert not flags.is_flagged.any()
    assert not flags.scores.any()


def test_a_score_at_the_threshold_is_no_flag() -> None:
    samples = Samples(levels(255, 0), torch.tensor([0, 0]), 1)
    assert not flag_samples(samples, [ByBrightness(0, 1.0)]).is_flagged.any()


def test_the_suggested_label_is_the_likeliest_beside_the_given_one() -> None:
    images = levels(5, 55, 100, 180, 179)
    assert suggested_labels(NearestLevel(), images, 1).tolist() == [0, 0, 2, 3, 3]
    assert suggested_labels(NearestLevel(), images, 3).tolist() == [0, 1, 2, 2, 2]
