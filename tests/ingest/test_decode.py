"""The decode rule, format by format, and what is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vbdguard.errors import ReadError
from vbdguard.ingest import decode
from vbdguard.ingest.decode import decode_image, decode_images, image_size

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def saved(image: Image.Image, suffix: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_their_pixels(suffix: str) -> None:
    options = {"lossless": True} if suffix == "WEBP" else {}
    pixels = decode_image(saved(Image.fromarray(RGB), suffix, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, RGB)


def test_jpeg_is_decoded_in_full_even_where_it_shrinks() -> None:
    fine = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)  # a checkerboard that a scaled decode would turn grey
    data = saved(Image.fromarray(fine.astype(np.uint8)), "JPEG", quality=100)
    whole = decode_image(data)
    assert abs(int(whole[0, 0, 0]) - int(whole[0, 1, 0])) > 200
    blocks = whole.reshape(32, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_allclose(decode_image(data, (32, 32)), blocks, atol=1)


def test_grey_is_replicated() -> None:
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(grey))), np.dstack([grey] * 3))


def test_bilevel_is_black_and_white() -> None:
    bits = RGB[..., 0] > 127
    pixels = decode_image(saved(Image.fromarray(bits)))
    np.testing.assert_array_equal(pixels, np.dstack([bits * np.uint8(255)] * 3))


def test_alpha_is_dropped_not_blended() -> None:
    rgba = np.dstack([RGB, RNG.integers(0, 256, (6, 9), np.uint8)])
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(rgba))), RGB)
    grey_alpha = Image.fromarray(RGB[..., 0]).convert("LA")
    grey_alpha.putalpha(0)
    np.testing.assert_array_equal(decode_image(saved(grey_alpha)), np.dstack([RGB[..., 0]] * 3))


@pytest.mark.parametrize("suffix", ["PNG", "GIF"])
def test_palette_becomes_rgb_with_and_without_transparency(suffix: str) -> None:
    palette = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(saved(palette, suffix)), expected)
    np.testing.assert_array_equal(decode_image(saved(palette, suffix, transparency=0)), expected)
    if suffix == "PNG":
        np.testing.assert_array_equal(decode_image(saved(palette, suffix, transparency=bytes(range(16)))), expected)


def test_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(decode_image(saved(red, "JPEG"))[8, 8], (255, 0, 0), atol=3)


@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_high_byte(suffix: str) -> None:
    deep = RNG.integers(0, 2**16, (6, 9), np.uint16)
    expected = np.dstack([(deep >> 8).astype(np.uint8)] * 3)
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(deep), suffix)), expected)


def png16_rgb(deep: NDArray[np.uint16]) -> bytes:
    """Write a 16-bit RGB PNG, which Pillow reads but cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_rgb_keeps_its_high_byte() -> None:
    deep = RNG.integers(0, 2**16, (6, 9, 3), np.uint16)
    np.testing.assert_array_equal(decode_image(png16_rgb(deep)), (deep >> 8).astype(np.uint8))


def test_first_frame_counts() -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    for suffix in ("GIF", "TIFF", "WEBP"):
        options = {"lossless": True} if suffix == "WEBP" else {}
        data = saved(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        assert set(decode_image(data).ravel()) == {10}


def test_shrinking_is_the_mean_of_the_area() -> None:
    image = RNG.integers(0, 256, (12, 16, 3), np.uint8)
    means = image.reshape(4, 3, 4, 4, 3).mean((1, 3))
    np.testing.assert_allclose(decode_image(saved(Image.fromarray(image)), (4, 4)), means, atol=1)


def test_a_small_patch_keeps_its_mean_contrast_when_shrunk() -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[90:93, 90:93] = 255
    small = decode_image(image, (32, 32))
    assert small[30, 30, 0] == 255
    assert small.astype(int).sum() == 255 * 3


def test_growing_is_bilinear_and_axes_are_treated_apart() -> None:
    image = RNG.integers(0, 256, (4, 64, 3), np.uint8)
    middle = Image.fromarray(image).resize((16, 4), Image.Resampling.BOX)
    expected = np.asarray(middle.resize((16, 12), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode_image(image, (12, 16)), expected)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3), (6, 9, 4)])
def test_arrays_are_treated_as_files_are(shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, np.uint8)
    expected = np.dstack([array.reshape(6, 9)] * 3) if array.size == 54 else array[..., :3]
    np.testing.assert_array_equal(decode_image(array), expected)
    assert decode_image(array, (3, 3)).shape == (3, 3, 3)
    assert image_size(array) == (6, 9)


def test_a_decoded_array_is_the_callers_own() -> None:
    source = RGB.copy()
    decoded = decode_image(source, (6, 9))
    decoded[:] = 0
    np.testing.assert_array_equal(source, RGB)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: NDArray[np.uint8]) -> None:
    with pytest.raises(ReadError, match="undecodable"):
        decode_image(array)


def test_a_batch_gives_each_image_its_pixels_or_its_error() -> None:
    images = [saved(Image.fromarray(RGB)), b"text", RGB, saved(Image.fromarray(RGB))[:60], np.zeros(4, np.uint8)]
    decoded = decode_images(images, (3, 3))
    assert [one.reason if isinstance(one, ReadError) else one.shape for one in decoded] == [
        (3, 3, 3),
        "undecodable",
        (3, 3, 3),
        "truncated",
        "undecodable",
    ]
    for index in (0, 2):
        np.testing.assert_array_equal(decoded[index], decode_image(images[index], (3, 3)))  # type: ignore[arg-type]


def test_what_a_process_tolerates_is_as_before_after_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    decode_images([saved(Image.fromarray(RGB)), b"text"])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters == before


def reason(data: bytes) -> str:
    with pytest.raises(ReadError) as caught:
        decode_image(data, (8, 8))
    return caught.value.reason


def test_text_named_as_an_image_is_undecodable() -> None:
    assert reason(b"this is no image") == "undecodable"
    assert reason(b"") == "undecodable"


def test_git_lfs_pointer_is_named() -> None:
    assert reason(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n") == "git-lfs-pointer"


def test_eps_is_not_opened_although_pillow_could() -> None:
    eps = saved(Image.fromarray(RGB), "EPS")
    with Image.open(io.BytesIO(eps)) as opened:
        assert opened.format == "EPS"
    assert reason(eps) == "undecodable"


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_images_are_refused(suffix: str, share: float) -> None:
    data = saved(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), suffix)
    assert reason(data[: int(len(data) * share)]) in ("truncated", "undecodable")


def test_cut_images_are_refused_where_the_process_tolerates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    assert reason(data[: len(data) // 2]) == "truncated"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_damaged_png_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(RGB)))
    data[60] ^= 0xFF
    assert reason(bytes(data)) in ("truncated", "undecodable")


def test_too_many_pixels_are_refused_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 6 * 9 - 1)
    assert reason(saved(Image.fromarray(RGB))) == "too-large"
    with pytest.raises(ReadError, match="too-large"):
        decode_image(RGB)


@pytest.mark.parametrize("side", [10_000, 30_000, 60_000])
def test_decompression_bombs_are_refused_without_a_warning(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None if side == 60_000 else Image.MAX_IMAGE_PIXELS)
    header = bytearray(saved(Image.new("L", (4, 4))))
    header[16:24] = struct.pack(">II", side, side)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    assert reason(bytes(header)) == "too-large"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_without_a_defined_white_are_refused(kind: type) -> None:
    data = saved(Image.fromarray(RGB[..., 0].astype(kind)), "TIFF")
    assert reason(data) == "unsupported-mode"


def test_size_comes_from_the_header_alone(encode: Callable[..., bytes]) -> None:
    data = encode(0, (40, 30))
    assert image_size(data[:60]) == (40, 30)
    with pytest.raises(ReadError, match="undecodable"):
        image_size(b"text")


def test_webp_is_held_to_half_the_pixels() -> None:
    """Its decoder holds the picture several times: 9000 x 9000 of one colour are 3 kB, and 1.3 GB while decoding."""
    data = saved(Image.new("L", (9000, 9000)), "WEBP", lossless=True)
    assert len(data) < 10_000
    with pytest.raises(ReadError, match=f"too-large: expected at most {decode.MAX_PIXELS // 2} pixels"):
        image_size(data)


WHOLE = {suffix: saved(Image.fromarray(RGB), suffix) for suffix in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")}


@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_damage_gives_pixels_or_an_error_of_ours(suffix: str, edits: list[tuple[int, int]], is_cut: bool) -> None:
    data = bytearray(WHOLE[suffix])
    for place, value in edits:
        data[place % len(data)] = value
    if is_cut:
        del data[edits[0][0] % len(data) if edits else len(data) // 2 :]
    for image in decode_images([bytes(data)], (8, 8)):
        assert isinstance(image, ReadError) or (image.shape == (8, 8, 3) and image.dtype == np.uint8)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_pixels_or_an_error_of_ours(data: bytes) -> None:
    for magic in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0\x08\0\0\0", b"BM", b"P6 ", b"GIF89a", b"RIFF"):
        [image] = decode_images([magic + data], (8, 8))
        assert isinstance(image, ReadError) or image.shape == (8, 8, 3)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG"])
@pytest.mark.parametrize("length", [3, 8, 20, 60, 100, 150])
def test_the_short_way_to_a_decoder_ends_where_the_long_one_does(suffix: str, length: int) -> None:
    data = saved(Image.fromarray(RGB), suffix)
    for broken in (data[:length], data[:length] + bytes(50) + data[length:]):
        assert (decode._open_usual(broken) is None) == (opened(broken) is None)


def opened(data: bytes) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(data), formats=decode.FORMATS)
    except (OSError, SyntaxError):
        return None
