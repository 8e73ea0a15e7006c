"""Filters for each place, on images whose pixels vary in a grid as those of stored JPEG files do."""

from __future__ import annotations

import pytest
import torch

from vbdguard.method import place_filters
from vbdguard.method.place_filters import PlaceFilters, Places, filters_for
from vbdguard.method.planted import PlantedTrigger
from vbdguard.method.samples import PIXEL_NOISE
from vbdguard.method.trigger import TriggerCandidate
from vbdguard.method.window import Window

N, HEIGHT, WIDTH, SIDE, MARGIN = 700, 12, 14, 2, 2
PLACES = Places(Window(-MARGIN, SIDE + MARGIN, -MARGIN, SIDE + MARGIN), HEIGHT - SIDE + 1, WIDTH - SIDE + 1)
CORNERS = [(0, 0), (0, PLACES.columns - 1), (PLACES.rows - 1, 3), (5, 6), (8, 6)]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return noise that is calm on every third row, colours going together."""
    generator = torch.Generator().manual_seed(0)
    noise = (
        torch.randn(N, HEIGHT, WIDTH, 3, generator=generator) * 20 + torch.randn(N, 1, 1, 3, generator=generator) * 30
    )
    noise[:, ::3] = noise[:, ::3].mean(2, keepdim=True)
    return (noise + 120).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def planted() -> PlantedTrigger:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:SIDE, :SIDE] = True
    return PlantedTrigger(TriggerCandidate(mask, torch.tensor([250.0, 20.0, 90.0]).view(3, 1, 1) * mask), 0.25)


@pytest.fixture(scope="module")
def own(images: torch.Tensor, planted: PlantedTrigger) -> PlaceFilters:
    return filters_for(planted, PLACES, images, torch.arange(N), torch.zeros(0))


@pytest.mark.parametrize("corner", CORNERS)
def test_each_filter_is_the_linear_discriminant_of_its_place(
    images: torch.Tensor, planted: PlantedTrigger, own: PlaceFilters, corner: tuple[int, int]
) -> None:
    """Against one window at a time; at the border the trigger is seen in the mirror too."""
    there, everyone = PLACES.window(*corner), torch.arange(N)
    x = there.cut(images, everyone).flatten(1).double()
    moved = PlantedTrigger(planted.trigger.moved(*corner), planted.blend_factor)
    shift = moved.shift(images.double().mean(0).permute(2, 0, 1)).permute(1, 2, 0)
    covariance = torch.cov(x.T, correction=0) + PIXEL_NOISE * torch.eye(x.shape[1])
    expected = torch.linalg.solve(covariance, there.of_image(shift).flatten())
    torch.testing.assert_close(
        own.weights(*corner).double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    )


@pytest.mark.parametrize("kind", ["own", "one"])
def test_all_are_asked_at_once(images: torch.Tensor, own: PlaceFilters, kind: str) -> None:
    filters = own if kind == "own" else PlaceFilters.same(own.kernels[5, 6])
    some = torch.arange(9)
    scores = filters.scores(PLACES.around.cut(images, some))
    assert scores.shape == (9, PLACES.rows, PLACES.columns)
    lengths = filters.lengths.expand(PLACES.rows, PLACES.columns)
    for corner in CORNERS:
        weights = filters.weights(*corner)
        expected = PLACES.window(*corner).cut(images, some).flatten(1).double() @ weights.double()
        torch.testing.assert_close(scores[:, corner[0], corner[1]].double(), expected, rtol=1e-3, atol=1e-3)
        assert float(lengths[corner]) == pytest.approx(float(weights.norm()))


def test_a_place_of_the_grid_is_told_better_by_its_own_filter(images: torch.Tensor, own: PlaceFilters) -> None:
    """The row that is calm lies elsewhere in the windows of the place below."""
    here = PLACES.window(5, 6).cut(images, torch.arange(N)).flatten(1).float()

    def signal(weights: torch.Tensor) -> float:
        matched = own.weights(5, 6) @ torch.cov(here.T) @ weights
        return float(matched / (weights @ torch.cov(here.T) @ weights).sqrt())

    assert signal(own.weights(5, 6)) > 1.3 * signal(own.weights(6, 6))


def test_too_many_places_share_one_filter(
    images: torch.Tensor, planted: PlantedTrigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_filters, "_MOST_PLACES", PLACES.rows * PLACES.columns - 1)
    elsewhere = torch.randn(6, 6, 3, generator=torch.Generator().manual_seed(1))
    filters = filters_for(planted, PLACES, images, torch.arange(N), elsewhere)
    assert filters.bands is None
    torch.testing.assert_close(filters.weights(3, 4), elsewhere.flatten())
