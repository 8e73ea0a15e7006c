"""Items of datasets become uint8 pixels and plain classes."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image

from vbdguard.errors import ReadError
from vbdguard.sources.torch_items import to_label, to_pixels, to_raw_sample

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (GREY, GREY),
        (RGB.transpose(2, 0, 1), RGB),
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
        (torch.from_numpy(GREY) / 255, GREY),
        ((torch.from_numpy(GREY) / 255)[None], GREY[..., None]),
        (RGB.astype(np.float64) / 255, RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), GREY),
    ],
)
def test_every_layout_gives_the_same_pixels(image: Any, expected: Any) -> None:
    pixels = to_pixels(image)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_width_is_read(dtype: torch.dtype) -> None:
    np.testing.assert_array_equal(
        to_pixels(torch.tensor([[0.0, 0.5], [1.0, 0.25]], dtype=dtype)), [[0, 128], [255, 64]]
    )


def test_three_by_three_pixels_follow_the_habit_of_their_kind() -> None:
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(to_pixels(cube), cube)
    np.testing.assert_array_equal(to_pixels(torch.from_numpy(cube)), cube.transpose(1, 2, 0))


@settings(max_examples=25)
@given(arrays(np.uint8, (4, 3, 3)))
def test_floats_made_from_bytes_come_back_exactly(pixels: Any) -> None:
    np.testing.assert_array_equal(to_pixels(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255), pixels)


def test_overshoot_of_less_than_half_a_grey_level_is_rounded() -> None:
    np.testing.assert_array_equal(to_pixels(np.array([[-0.0019, 1.0019]])), [[0, 255]])


@pytest.mark.parametrize("values", [[-0.01, 0.5], [0.5, 1.01], [0.0, 255.0], [0.5, np.nan]])
def test_floats_outside_zero_to_one_are_refused(values: list[float]) -> None:
    with pytest.raises(ReadError, match=r"floats in \[0, 1\]") as caught:
        to_pixels(np.array([values]))
    assert caught.value.reason == "bad-range"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), bool),
        Image.new("F", (4, 4)),
        "image.png",
        None,
    ],
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(ReadError) as caught:
        to_pixels(image)
    assert caught.value.reason == "bad-layout"


def test_sixteen_bit_pictures_keep_their_high_byte() -> None:
    deep = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(deep)), [[0, 0, 1, 255]])


@pytest.mark.parametrize("mode", ["P", "CMYK", "LA", "1", "YCbCr"])
def test_other_picture_modes_become_grey_or_colour(mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(picture.convert("L" if mode == "1" else "RGB"))
    np.testing.assert_array_equal(to_pixels(picture), expected)


def test_alpha_is_kept_for_the_decoder_to_drop() -> None:
    assert to_pixels(Image.fromarray(RGB).convert("RGBA")).shape == (6, 5, 4)


def test_pixels_share_no_memory_with_the_dataset() -> None:
    source = RGB.copy()
    pixels = to_pixels(source)
    source[:] = 0
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (3, 3),
        ("cat", "cat"),
        (np.int64(3), 3),
        (np.array(3), 3),
        (np.array([3]), 3),
        (torch.tensor(3), 3),
        (torch.tensor([3], dtype=torch.uint8), 3),
    ],
)
def test_labels_become_plain(label: Any, expected: int | str) -> None:
    assert to_label(label) == expected
    assert type(to_label(label)) is type(expected)


@pytest.mark.parametrize("label", [None, 1.5, torch.tensor(1.0), torch.tensor([0, 1]), b"cat", -1, torch.tensor(-1)])
def test_what_is_no_class_is_refused(label: Any) -> None:
    with pytest.raises(ReadError) as caught:
        to_label(label)
    assert caught.value.reason == "no-label"


@pytest.mark.parametrize(
    "item",
    [
        (RGB, 3),
        [RGB, 3],
        (RGB, 3, "meta"),
        namedtuple("Item", "image label")(RGB, 3),
        {"image": RGB, "label": 3},
        {"img": RGB, "fine_label": 3, "coarse_label": 0},
        {"pixel_values": RGB, "labels": 3, "id": "x"},
    ],
)
def test_every_container_is_understood(item: Any) -> None:
    sample = to_raw_sample("7", item)
    assert (sample.key, sample.label) == ("7", 3)
    np.testing.assert_array_equal(sample.image, RGB)


def test_a_dict_without_a_label_says_what_it_has() -> None:
    with pytest.raises(ReadError, match="the label under one of label, .*, got image, text"):
        to_raw_sample("0", {"image": RGB, "text": "a dog"})


@pytest.mark.parametrize("item", [RGB, (RGB,), None, 3])
def test_other_items_are_refused(item: Any) -> None:
    with pytest.raises(ReadError, match="expected an item"):
        to_raw_sample("0", item)
