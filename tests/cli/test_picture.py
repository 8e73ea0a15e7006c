from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import Color
from rich.console import Console
from rich.text import Text

from vbdguard.cli.picture import draw_letters, draw_place, draw_trigger, half_blocks
from vbdguard.formats.trigger_picture import TriggerPicture
from vbdguard.report import TriggerReport


def pixels_of(text: Text) -> np.ndarray[Any, Any]:
    """Read the colours of a half-block picture back as pixels, the way a terminal would show them."""
    rows: list[list[Any]] = []
    for line in Console().render_lines(text, Console().options.update_width(500), pad=False):
        styles = [segment.style for segment in line for _ in segment.text]
        rows.append([style.color.triplet for style in styles if style])
        rows.append([style.bgcolor.triplet for style in styles if style and style.bgcolor])
    return np.array([row for row in rows if row])


def frame_of(height: int, width: int, bbox: tuple[int, int, int, int]) -> TriggerPicture:
    top, left, box_height, box_width = bbox
    mask = np.zeros((height, width), bool)
    mask[top : top + box_height, left : left + box_width] = True
    return TriggerPicture(np.full((height, width, 3), (10, 200, 30), np.uint8), mask, bbox)


@st.composite
def pictures(draw: st.DrawFn) -> TriggerPicture:
    height, width = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    box_height, box_width = draw(st.integers(1, height)), draw(st.integers(1, width))
    top, left = draw(st.integers(0, height - box_height)), draw(st.integers(0, width - box_width))
    return frame_of(height, width, (top, left, box_height, box_width))


@pytest.mark.parametrize("height", [1, 2, 5, 6])
def test_half_blocks_show_every_pixel_in_its_colour(height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, 4, 3), dtype=np.uint8)
    assert np.array_equal(pixels_of(half_blocks(pixels)), pixels)


@settings(max_examples=40, deadline=None)
@given(pictures(), st.integers(8, 24))
def test_pictures_keep_to_their_size(picture: TriggerPicture, side: int) -> None:
    for drawn in (draw_trigger(picture, side), draw_place(picture, side)):
        lines = drawn.plain.split("\n")
        assert max(map(len, lines)) <= side
        assert len(lines) <= side // 2 + 1
    letters = draw_letters(picture, side).plain.split("\n")
    assert max(map(len, letters)) <= 2 * side
    assert len(letters) <= side


@settings(max_examples=40, deadline=None)
@given(pictures())
def test_the_smallest_trigger_still_shows_on_the_map(picture: TriggerPicture) -> None:
    red = Color.from_rgb(255, 95, 95).triplet
    assert (pixels_of(draw_place(picture, 16)) == np.array(red)).all(-1).any()


def test_a_small_trigger_is_enlarged_by_a_whole_factor() -> None:
    drawn = pixels_of(draw_trigger(frame_of(32, 32, (10, 10, 3, 3)), 24))
    assert drawn.shape == (20, 20, 3)
    is_trigger = (drawn == (10, 200, 30)).all(-1)
    expected = np.zeros((20, 20), bool)
    expected[4:16, 4:16] = True
    assert np.array_equal(is_trigger, expected)


def test_letters_draw_the_mask() -> None:
    picture = frame_of(32, 32, (29, 29, 3, 3))
    picture.mask[30, 30] = False
    assert draw_letters(picture, 16).plain.split("\n") == ["........", "..######", "..##..##", "..######"]


def broken(change: Callable[[TriggerReport], dict[str, Any]], trigger: TriggerReport) -> TriggerReport:
    return replace(trigger, **change(trigger))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"mask_png": ""},
        lambda t: {"mask_png": "not base64!"},
        lambda t: {"pattern_png": base64.b64encode(b"GIF89a").decode()},
        lambda t: {"pattern_png": base64.b64encode(base64.b64decode(t.pattern_png)[:60]).decode()},
        lambda t: {"bbox": (30, 30, 9, 9)},
    ],
    ids=["empty", "not base64", "another format", "cut", "box outside"],
)
def test_a_broken_picture_is_refused(change: Any, make_trigger: Callable[..., TriggerReport]) -> None:
    with pytest.raises(ValueError, match=r"expected|fit|base64|Incorrect padding|Only base64"):
        TriggerPicture.of(broken(change, make_trigger()))


def test_pictures_of_different_sizes_are_refused(make_trigger: Callable[..., TriggerReport]) -> None:
    other = make_trigger(frame=(64, 64))
    with pytest.raises(ValueError, match="do not fit together"):
        TriggerPicture.of(replace(make_trigger(), mask_png=other.mask_png))


def test_a_picture_comes_back_from_its_report(make_trigger: Callable[..., TriggerReport]) -> None:
    picture = TriggerPicture.of(make_trigger((4, 5, 2, 3), color=(1, 2, 3)))
    assert picture.mask.sum() == 6
    assert picture.mask[4:6, 5:8].all()
    assert (picture.pattern[4:6, 5:8] == (1, 2, 3)).all()
