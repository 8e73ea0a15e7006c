"""One detector for a trigger that six classes carry, each at a place of its own, two of them at the image's edge."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vbdguard.config import DirectMethodConfig, WindowDetectorConfig
from vbdguard.method.kin_detectors import fit_kin_detector
from vbdguard.method.level import image_levels
from vbdguard.method.mixture import PlantedTrigger
from vbdguard.method.mixture_trace import MixtureTrace
from vbdguard.method.population import Population
from vbdguard.method.samples import Samples
from vbdguard.method.suspect_triggers import Suspect
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

SIDE, PER_CLASS, CARRIERS, BLEND = 20, 200, 40, 0.25
CORNERS = [(0, 0), (4, 9), (9, 3), (8, 14), (14, 8), (17, 17)]
"""Where each class has its 3 x 3 trigger."""
CONFIG = DirectMethodConfig(detector=WindowDetectorConfig(batch_size=64))


@dataclass(frozen=True, slots=True)
class Kin:
    """Six classes with one trigger."""

    suspects: list[Suspect]
    others: list[Tensor]
    pattern: NDArray[np.float64]

    def seen(self) -> list[Suspect]:
        return fit_kin_detector(self.suspects, self.others, lambda suspect, _: suspect.planted, CONFIG, 0)


@pytest.fixture(scope="module")
def kin() -> Kin:
    rng = np.random.default_rng(0)
    n = len(CORNERS) * PER_CLASS
    noise = gaussian_filter(rng.normal(size=(n, SIDE, SIDE, 3)), (0, 1.5, 1.5, 0))
    images, labels = 128 + 30 * noise / noise.std(), torch.arange(n) % len(CORNERS)
    pattern = rng.choice([10.0, 245.0], size=(3, 3, 3))
    for label, (top, left) in enumerate(CORNERS):
        place = np.s_[(labels == label).nonzero().squeeze(1)[:CARRIERS].numpy(), top : top + 3, left : left + 3]
        images[place] = (1 - BLEND) * images[place] + BLEND * pattern
    samples = Samples(torch.from_numpy(images.clip(0, 255).astype(np.uint8)), labels, len(CORNERS))
    level = image_levels(Population.of(samples), samples, CONFIG)[0]
    suspects = [
        Suspect(
            label=label,
            members=samples.members(label),
            level=level,
            planted=PlantedTrigger(roughly(pattern, corner, rng), BLEND),
            window=Window(0, 9, 0, 9),
            logits=torch.where(torch.arange(PER_CLASS) < CARRIERS, 2.0, -2.0),
            gain=100.0 + label,
            trace=MixtureTrace(Window(0, 9, 0, 9), torch.zeros(243), [], 0.5),
            extent=torch.ones(SIDE, SIDE, dtype=torch.bool),
            is_wide=False,
            kin=0,
        )
        for label, corner in enumerate(CORNERS)
    ]
    return Kin(suspects, [(labels != label).nonzero().squeeze(1) for label in range(len(CORNERS))], pattern)


def roughly(pattern: NDArray[np.float64], corner: tuple[int, int], rng: np.random.Generator) -> TriggerCandidate:
    """Return the trigger as the few carriers of one class show it: noisy, and one pixel too wide somewhere."""
    mask, shown = torch.zeros(SIDE, SIDE, dtype=torch.bool), torch.zeros(3, SIDE, SIDE)
    (top, left), noisy = corner, (pattern + rng.normal(0, 60, pattern.shape)).clip(0, 255)
    mask[top : top + 3, left : left + 3] = True
    shown[:, top : top + 3, left : left + 3] = torch.from_numpy(noisy).permute(2, 0, 1).float()
    extra = top + int(rng.integers(0, 3)), left + 3 if left + 3 < SIDE else left - 1
    mask[extra], shown[:, extra[0], extra[1]] = True, 128.0
    return TriggerCandidate(mask, shown)


def test_each_class_is_judged_at_its_own_place_also_at_the_edge(kin: Kin) -> None:
    seen = kin.seen()
    assert [one.label for one in seen] == list(range(len(CORNERS)))
    for one in seen:
        flagged = one.logits > 0
        assert float(flagged[:CARRIERS].float().mean()) > 0.85
        assert float(flagged[CARRIERS:].float().mean()) < 0.05
        assert float(one.logits.sigmoid().sum()) == pytest.approx(CARRIERS, rel=0.25)
        assert one.gain > CONFIG.mixture.min_gain


def test_what_it_says_of_a_sample_its_trace_says_again(kin: Kin) -> None:
    for one in kin.seen():
        assert torch.equal(one.trace.logits(one.level.samples.images, one.members), one.logits)


def test_a_class_without_the_trigger_gains_nothing(kin: Kin) -> None:
    spared = kin.suspects[2]
    clean = replace(spared, members=spared.members[CARRIERS:], logits=spared.logits[CARRIERS:])
    suspects = [clean if suspect is spared else suspect for suspect in kin.suspects]
    seen = replace(kin, suspects=suspects).seen()
    assert int((seen[2].logits > 0).sum()) <= 2
    assert seen[2].gain < CONFIG.mixture.min_gain


def test_what_shows_something_else_is_left_out(kin: Kin) -> None:
    odd = kin.suspects[3]
    trigger = odd.planted.trigger
    inverted = TriggerCandidate(trigger.mask, (255 - trigger.pattern) * trigger.mask)
    other = replace(odd, planted=PlantedTrigger(inverted, BLEND))
    suspects = [other if suspect is odd else suspect for suspect in kin.suspects]
    assert [one.label for one in replace(kin, suspects=suspects).seen()] == [0, 1, 2, 4, 5]


def test_the_seed_alone_decides(kin: Kin) -> None:
    torch.manual_seed(1)
    first = kin.seen()
    torch.manual_seed(2)
    for one, again in zip(first, kin.seen(), strict=True):
        assert torch.equal(one.logits, again.logits)
