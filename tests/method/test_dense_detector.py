"""A detector asked about all places says what it says of each, at the border too."""

from __future__ import annotations

import pytest
import torch

from vbdguard.config import WindowDetectorConfig
from vbdguard.method.dense_detector import DenseDetector
from vbdguard.method.moves import Reading
from vbdguard.method.place_filters import PlaceFilters, Places, filters_for
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import Samples
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window_detector import Sight, WindowDetector, fit_window_detectors

HEIGHT, WIDTH, TOP, LEFT = 18, 22, 6, 9
ROWS, COLUMNS = HEIGHT - 1, WIDTH - 2


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)
    return Samples(images, torch.arange(400) % 4, 4)


@pytest.fixture(scope="module")
def planted() -> PlantedTrigger:
    """Return a mark of 2 x 3 pixels."""
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[TOP : TOP + 2, LEFT : LEFT + 3] = True
    return PlantedTrigger(TriggerCandidate(mask, 250.0 * mask.expand(3, -1, -1)), 0.5)


@pytest.fixture(scope="module")
def detector(samples: Samples, planted: PlantedTrigger) -> WindowDetector:
    others = (samples.labels != 0).nonzero().squeeze(1)
    sight = Sight(samples.members(0), others, Reading(planted), beyond=True)
    config = WindowDetectorConfig(epochs=1)
    return fit_window_detectors(samples, [sight], config, generator=torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("kind", ["own", "one"])
def test_it_says_of_each_place_what_the_detector_says_there(
    samples: Samples, planted: PlantedTrigger, detector: WindowDetector, kind: str
) -> None:
    places = Places(detector.window.moved(-TOP, -LEFT), ROWS, COLUMNS)
    first = PlantedTrigger(planted.trigger.moved(-TOP, -LEFT), planted.blend_factor)
    elsewhere = detector.matched.filters[0].weights.view(*places.first.size, 3)
    others, some = torch.arange(0, 400, 2), torch.arange(30)
    own = filters_for(first, places, samples.images, torch.arange(1, 400, 2), elsewhere)
    filters = own if kind == "own" else PlaceFilters.same(elsewhere)
    dense = DenseDetector.of(detector.net, places, filters, samples.images[others])
    found = dense.logits(samples.images[some])
    assert found.shape == (30, ROWS, COLUMNS)
    for row, column in [(0, 0), (TOP, LEFT), (ROWS - 1, COLUMNS - 1), (3, COLUMNS - 1)]:
        weights = filters.weights(row, column)
        there = detector.at(places.window(row, column), weights, samples.images, some, others)
        torch.testing.assert_close(
            found[:, row, column], there.logits(samples.images, some) - there.shift, rtol=1e-3, atol=1e-3
        )
