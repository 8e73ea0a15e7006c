"""A detector asked about all places says what it says of each, at the border too."""

from __future__ import annotations

import pytest
import torch

from vbdguard.config import WindowDetectorConfig
from vbdguard.method.dense_detector import DenseDetector
from vbdguard.method.moves import Reading
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window_detector import Sight, WindowDetector, fit_window_detectors

HEIGHT, WIDTH, TOP, LEFT = 18, 22, 6, 9
PLACES = HEIGHT - 1, WIDTH - 2
STEPS = {"still": ((0, 0),), "moving": ((0, 0), (1, 0), (0, -1))}


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.arange(400) % 4, 4)


def detector(samples: Samples, steps: tuple[tuple[int, int], ...]) -> WindowDetector:
    """Return one for a mark of 2 x 3 pixels, with a filter for each place where its copies lie."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[TOP : TOP + 2, LEFT : LEFT + 3] = True
    planted = PlantedTrigger(TriggerCandidate(mask, 250.0 * mask.expand(3, -1, -1)), 0.5)
    reading = Reading(planted, steps, (1 / len(steps),) * len(steps))
    sight = Sight(samples.members(0), (samples.labels != 0).nonzero().squeeze(1), reading, beyond=True)
    config = WindowDetectorConfig(epochs=1)
    return fit_window_detectors(samples, [sight], config, generator=torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_it_says_of_each_place_what_the_detector_says_there(
    samples: Samples, steps: tuple[tuple[int, int], ...]
) -> None:
    one = detector(samples, steps)
    others = torch.arange(0, 400, 2)
    dense = DenseDetector.of(one, one.window.moved(-TOP, -LEFT), PLACES, samples.images[others])
    some = torch.arange(30)
    found = dense.logits(samples.images[some])
    assert found.shape == (30, *PLACES)
    for row, column in [(0, 0), (TOP, LEFT), (PLACES[0] - 1, PLACES[1] - 1), (3, PLACES[1] - 1)]:
        there = one.at(one.window.moved(row - TOP, column - LEFT), samples.images, some, others)
        torch.testing.assert_close(
            found[:, row, column], there.logits(samples.images, some) - there.shift, rtol=1e-3, atol=1e-3
        )
