from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vbdguard.method.window import Window, window_around, window_at

sides = st.integers(6, 24)


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    height, width = draw(sides), draw(sides)
    places = draw(st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1, max_size=8))
    mask = torch.zeros(height, width, dtype=torch.bool)
    for place in places:
        mask[place] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(masks(), st.integers(0, 6), st.integers(4, 16))
def test_a_window_around_a_mask_lies_in_the_image_is_never_too_large_and_holds_what_it_can(
    mask: Tensor, margin: int, max_side: int
) -> None:
    window = window_around(mask, margin, max_side)
    height, width = mask.shape
    rows, columns = (mask.any(axis).nonzero().squeeze(1) for axis in (1, 0))
    assert 0 <= window.top < window.bottom <= height
    assert 0 <= window.left < window.right <= width
    assert max(window.size) <= max_side
    inside = int(mask[window.top : window.bottom, window.left : window.right].sum())
    if max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) < max_side:
        assert inside == int(mask.sum())
    else:
        tops, lefts = range(max(1, height - max_side + 1)), range(max(1, width - max_side + 1))
        best = max(int(mask[top : top + max_side, left : left + max_side].sum()) for top in tops for left in lefts)
        assert inside == best


@pytest.mark.parametrize(("margin", "expected"), [(0, (13, 16, 13, 16)), (2, (11, 16, 11, 16)), (50, (0, 16, 0, 16))])
def test_the_margin_stops_at_the_border(margin: int, expected: tuple[int, int, int, int]) -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[13:, 13:] = True
    window = window_around(mask, margin, 16)
    assert (window.top, window.bottom, window.left, window.right) == expected


@settings(max_examples=150, deadline=None)
@given(st.data(), sides, sides, st.integers(1, 30))
def test_a_window_at_a_pixel_holds_it_has_its_size_and_is_centred_where_there_is_room(
    data: st.DataObject, height: int, width: int, side: int
) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = window_at(row, column, side, (height, width))
    assert window.size == (min(side, height), min(side, width))
    assert 0 <= window.top <= row < window.bottom <= height
    assert 0 <= window.left <= column < window.right <= width
    if side // 2 <= row <= height - side:
        assert window.top == row - side // 2
    if side // 2 <= column <= width - side:
        assert window.left == column - side // 2


def test_cutting_gives_the_rectangle_of_the_images_asked_for() -> None:
    images = torch.arange(4 * 6 * 7 * 3).view(4, 6, 7, 3)
    window = Window(1, 4, 2, 7)
    cut = window.cut(images, torch.tensor([3, 0]))
    assert cut.shape == (2, *window.size, 3)
    assert torch.equal(cut[0], images[3, 1:4, 2:7])
    assert torch.equal(cut[1], images[0, 1:4, 2:7])


def test_beyond_the_border_the_image_is_mirrored() -> None:
    images = torch.arange(2 * 6 * 7 * 3).view(2, 6, 7, 3)
    padded = np.pad(images.numpy(), [(0, 0), (3, 3), (3, 3), (0, 0)], mode="reflect")
    for top, left in [(-3, -2), (2, 5), (-1, 3), (3, -3)]:
        window = Window(0, 5, 0, 4).moved(top, left)
        expected = torch.from_numpy(padded[:, top + 3 : top + 8, left + 3 : left + 7])
        assert torch.equal(window.cut(images, torch.tensor([1, 0])), expected[[1, 0]])
        assert torch.equal(window.of_image(images[0, ..., 0]), expected[0, ..., 0])


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 7), (13, 13), (6, 5)])
def test_a_margin_that_reaches_beyond_the_border_is_as_wide_there(top: int, left: int) -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[top : top + 3, left : left + 3] = True
    assert window_around(mask, 4, 16, beyond=True) == Window(top - 4, top + 7, left - 4, left + 7)
    # one that would be too large stays inside
    assert window_around(mask, 7, 16, beyond=True) == window_around(mask, 7, 16)


@pytest.mark.parametrize(("rows", "columns", "expected"), [(0, 0, True), (3, -3, True), (4, 0, False), (0, -4, False)])
def test_windows_overlap_within_the_slack_whichever_is_asked(rows: int, columns: int, expected: bool) -> None:
    one, other = Window(5, 10, 5, 10), Window(5 + rows, 10 + rows, 5 + columns, 10 + columns)
    assert one.overlaps(other, 3) is other.overlaps(one, 3) is expected
