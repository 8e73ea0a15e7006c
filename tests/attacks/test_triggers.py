from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vbdguard.attacks.triggers import (
    BUILT_IN,
    PATCHES,
    Trigger,
    builtin_patch,
    cell_of_class,
    crop,
    draw_waves,
    frame_trigger,
    load_trigger,
    place,
)
from vbdguard.errors import ConfigError

CROSS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=bool)

sizes = st.tuples(st.integers(16, 70), st.integers(16, 70))


@given(name=st.sampled_from(sorted(PATCHES)), size=sizes)
@settings(max_examples=20, deadline=None)
def test_a_patch_touches_the_bottom_right_corner_at_every_size(name: str, size: tuple[int, int]) -> None:
    trigger = frame_trigger(name, size)
    assert trigger.size == size
    assert trigger.mask.sum() == 9
    assert trigger.mask[-3:, -3:].all()
    assert not trigger.pattern[~trigger.mask].any()


def test_white_square_is_white_and_green_square_is_green() -> None:
    assert (builtin_patch("white_square").pattern == 255).all()
    assert (builtin_patch("green_square").pattern == (0, 255, 0)).all()


def test_white_grid_is_a_white_cross_on_black() -> None:
    pattern = builtin_patch("white_grid").pattern
    assert np.array_equal(pattern.all(axis=2), CROSS)
    assert set(np.unique(pattern)) == {0, 255}


def test_color_grid_has_five_different_colours_on_black() -> None:
    pattern = builtin_patch("color_grid").pattern
    assert len({tuple(colour) for colour in pattern[CROSS]}) == 5
    assert not pattern[~CROSS].any()


@pytest.mark.parametrize("name", ["white_grid", "color_grid"])
def test_grids_set_five_pixels_in_all_to_all_cells(name: str) -> None:
    trigger = frame_trigger(name, (32, 32), mode="all-to-all", rank=0)
    assert np.array_equal(trigger.mask[-3:, -3:], CROSS)
    assert trigger.mask.sum() == 5


@pytest.mark.parametrize("name", ["white_square", "green_square"])
def test_squares_set_nine_pixels_in_all_to_all_cells(name: str) -> None:
    assert frame_trigger(name, (32, 32), mode="all-to-all", rank=3).mask.sum() == 9


@pytest.mark.parametrize(
    ("rank", "cell"),
    [(0, (29, 29)), (1, (29, 26)), (9, (29, 2)), (10, (26, 29)), (99, (2, 2))],
)
def test_cells_run_left_then_up_from_the_bottom_right(rank: int, cell: tuple[int, int]) -> None:
    assert cell_of_class(rank, (32, 32)) == cell


@given(size=sizes)
@settings(max_examples=15, deadline=None)
def test_cells_of_two_classes_never_overlap(size: tuple[int, int]) -> None:
    count = (size[0] // 3) * (size[1] // 3)
    covered = np.zeros(size, dtype=int)
    for rank in range(count):
        top, left = cell_of_class(rank, size)
        covered[top : top + 3, left : left + 3] += 1
    assert covered.max() == 1
    assert covered.sum() == 9 * count


def test_more_classes_than_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 100 cells.*none for class number 100"):
        cell_of_class(100, (32, 32))


def test_waves_fill_the_image_with_smooth_colour() -> None:
    trigger = frame_trigger("waves", (32, 48))
    assert trigger.is_full_image
    steps = np.abs(np.diff(trigger.pattern.astype(int), axis=1))
    assert steps.max() < 100
    assert trigger.pattern.reshape(-1, 3).std(axis=0).min() > 30
    assert len(np.unique(trigger.pattern.reshape(-1, 3), axis=0)) > 500


def test_waves_look_alike_at_every_size() -> None:
    large = Image.fromarray(draw_waves((128, 128))).resize((32, 32), Image.Resampling.BOX)
    difference = np.abs(np.asarray(large, dtype=int) - draw_waves((32, 32)))
    assert difference.mean() < 12


def test_position_moves_a_patch() -> None:
    trigger = frame_trigger("white_square", (32, 32), position=(4, 7))
    assert np.argwhere(trigger.mask).min(axis=0).tolist() == [4, 7]


@pytest.mark.parametrize("position", [(30, 0), (0, 30), (-1, 0)])
def test_a_patch_that_leaves_the_image_is_refused(position: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        frame_trigger("white_square", (32, 32), position=position)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_position_is_that_of_all_classes(rank: int) -> None:
    framed = frame_trigger("white_grid", (32, 32), mode="all-to-all", position=(4, 7), rank=rank)
    assert np.array_equal(framed.mask, frame_trigger("white_grid", (32, 32), position=(4, 7)).mask)


def test_tiny_images_unknown_names_and_pictures_in_cells_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 16 pixels"):
        frame_trigger("white_square", (15, 32))
    with pytest.raises(ConfigError, match="no trigger 'smiley'.*white_square"):
        frame_trigger("smiley", (32, 32))
    with pytest.raises(ConfigError, match="cannot stand in a cell"):
        frame_trigger("waves", (32, 32), mode="all-to-all")


@pytest.mark.parametrize("name", BUILT_IN)
def test_crop_undoes_place(name: str) -> None:
    framed = frame_trigger(name, (32, 32))
    again = place(crop(framed), (32, 32))
    assert np.array_equal(again.mask, framed.mask)
    assert np.array_equal(again.pattern, framed.pattern)


@pytest.fixture
def sticker(tmp_path: Path) -> Path:
    """An RGBA picture of 6 x 8 whose left half is transparent."""
    pixels = np.random.default_rng(0).integers(1, 256, (6, 8, 4), dtype=np.uint8)
    pixels[:, :4, 3] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "sticker.png")
    return tmp_path / "sticker.png"


def test_alpha_is_the_mask_of_a_file(sticker: Path) -> None:
    trigger = load_trigger(sticker)
    assert trigger.name == "sticker"
    assert np.array_equal(trigger.pattern, np.asarray(Image.open(sticker))[:, :, :3])
    assert not trigger.mask[:, :4].any()
    assert trigger.mask[:, 4:].all()


def test_any_nonzero_pixel_of_a_mask_file_counts(sticker: Path, tmp_path: Path) -> None:
    grey = np.zeros((6, 8), dtype=np.uint8)
    grey[2, 3], grey[5, 7] = 1, 255
    Image.fromarray(grey).save(tmp_path / "mask.png")
    mask = load_trigger(sticker, tmp_path / "mask.png").mask
    assert np.argwhere(mask).tolist() == [[2, 3], [5, 7]]


def test_a_file_without_alpha_counts_everywhere(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    assert load_trigger(tmp_path / "red.png").is_full_image


def test_a_trigger_file_that_cannot_serve_says_why(sticker: Path, tmp_path: Path) -> None:
    Image.new("L", (5, 5), 255).save(tmp_path / "small.png")
    Image.new("L", (8, 6), 0).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ConfigError, match="expected a mask of 6 x 8.*got 5 x 5"):
        load_trigger(sticker, tmp_path / "small.png")
    with pytest.raises(ConfigError, match="sets no pixel"):
        load_trigger(sticker, tmp_path / "empty.png")
    with pytest.raises(ConfigError, match="expected an image"):
        load_trigger(tmp_path / "text.png")
    with pytest.raises(ConfigError, match="no such file"):
        load_trigger(tmp_path / "missing.png")


def test_a_sticker_lands_in_its_own_size_and_a_full_picture_is_stretched(sticker: Path) -> None:
    trigger = load_trigger(sticker)
    assert np.argwhere(frame_trigger(trigger, (32, 32)).mask).min(axis=0).tolist() == [26, 28]
    full = Trigger("full", draw_waves((20, 20)), np.ones((20, 20), dtype=bool))
    assert frame_trigger(full, (20, 20)) is full
    assert frame_trigger(full, (40, 30)).mask.shape == (40, 30)
    assert frame_trigger(full, (40, 30)).is_full_image
    assert frame_trigger(full, (40, 30), position=(1, 2)).mask.sum() == 400


def test_a_trigger_larger_than_a_cell_is_refused_in_all_to_all(sticker: Path) -> None:
    with pytest.raises(ConfigError, match="cells of 3 x 3 pixels.*needs 6 x 4"):
        frame_trigger(load_trigger(sticker), (32, 32), mode="all-to-all")


def test_a_trigger_checks_its_arrays() -> None:
    with pytest.raises(ConfigError, match="pattern must be uint8"):
        Trigger("x", np.zeros((3, 3, 3)), np.ones((3, 3), dtype=bool))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mask must be bool"):
        Trigger("x", np.zeros((3, 3, 3), dtype=np.uint8), np.ones((3, 4), dtype=bool))


@pytest.mark.parametrize(("folder", "side"), [("cifar10-32px", 32), ("tiny-64px", 64)])
@pytest.mark.parametrize("name", sorted(PATCHES))
def test_patches_lie_where_the_published_ones_lie(test_data: Path, folder: str, side: int, name: str) -> None:
    stem = test_data / "triggers" / folder / f"trigger_{name}"
    published = load_trigger(stem.with_suffix(".png"), stem.with_name(f"{stem.name}_mask.png"))
    ours = frame_trigger(name, (side, side))
    assert np.array_equal(ours.mask, published.mask)
    if name != "color_grid":  # its colours are our own
        # The published grids write black as 1.
        assert np.abs(ours.pattern.astype(int) - published.pattern)[ours.mask].max() <= 1
