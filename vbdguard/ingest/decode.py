"""From encoded bytes to the canonical uint8 RGB image, without trusting the bytes.

The rule, version `DECODE_RULE` (it enters every store key, with the decoder's own version):

- JPEG, PNG, WEBP, BMP, TIFF, PPM and GIF, told by content; of several frames the first. Nothing else is
  opened: Pillow sniffs content, and an EPS file named `.jpg` would start Ghostscript.
- Grey is replicated to three channels; palette, CMYK and YCbCr become RGB; alpha is dropped as
  `convert("RGB")` drops it, since that is what trainers see.
- 16-bit samples keep their high byte. (Pillow's own I;16 -> RGB clips at 255 and turns most pixels white.)
  32-bit integer and float images have no fixed white and are refused.
- The EXIF orientation is applied where the reader that trains applies it, which is a property of the source: parquet,
  arrow, `metadata.csv` and folders by Hugging Face's rule are turned, everything else is seen as it is stored.
- Everything is resized to one (H, W) without keeping the aspect ratio, so a trigger at a fixed relative place
  stays at one place. Axes that shrink use area averaging (Pillow's BOX: it keeps the mean contrast of a small
  patch and does not ring), axes that grow use BILINEAR. JPEG is decoded in full: `draft()` would lose
  high-frequency triggers. (Half-size decoding of 500 x 375 for 96 x 72 saves a third of the time; there the
  weakest of small patches tried keep 0.62 of the signal of an exact area average, against 0.89 now.)
- An image of more than `MAX_PIXELS` by its header (half of it for WEBP, whose decoder takes twice the memory) is
  refused before it is decoded; a truncated one is refused even where the process has set
  `ImageFile.LOAD_TRUNCATED_IMAGES`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL import __version__ as pillow_version
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile

from vbdguard.errors import ReadError, damage
from vbdguard.ingest.orientation import Turner, make_turner, upright_size
from vbdguard.sources.base import ExifRule
from vbdguard.sources.pointers import pointer_error

DECODE_RULE = "2"
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
MAX_PIXELS = 89_478_485
"""Pillow's own threshold of suspicion: a quarter of a gigabyte as RGB; up to three while it is decoded."""
_USUAL = ((b"\xff\xd8\xff", jpeg_factory), (b"\x89PNG\r\n\x1a\n", PngImageFile))
"""What nearly all images begin with, and what `Image.open` comes to for them by a way that takes as long as decoding a
small image."""
_COSTLY = {"WEBP": 2}
"""Formats whose decoders take so many times the memory: 3 kB of WEBP could ask for 1.3 GB."""


def decoder_id() -> str:
    """Return the rule and the libraries that carry it out, as one word for store keys."""
    return f"rule{DECODE_RULE}-pillow{pillow_version}-jpeg{features.version('libjpeg_turbo')}"


def decode_image(
    image: bytes | NDArray[np.uint8], size: tuple[int, int] | None = None, *, exif: ExifRule = "stored"
) -> NDArray[np.uint8]:
    """Return the canonical pixels of one image.

    Args:
        image: an encoded file, or uint8 pixels (H, W) or (H, W, C), C = 1, 3 or 4.
        size: height and width of the result in pixels; None keeps the image's own.
        exif: whether an encoded image is turned by its EXIF orientation.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous.

    Raises:
        ReadError: "undecodable", "truncated", "too-large", "out-of-memory", "unsupported-mode" or "git-lfs-pointer".
    """
    with _strict_pillow():
        return _decode(image, size, make_turner(exif)).copy()


def decode_images(
    images: Sequence[bytes | NDArray[np.uint8]], size: tuple[int, int] | None = None, turner: Turner | None = None
) -> list[NDArray[np.uint8] | ReadError]:
    """Return for each image what `decode_image` returns, read-only, or the error that it raises.

    Holding Pillow to the rule takes as long as opening a small image, and is done once for all. What turns images by
    their EXIF orientation is the caller's, since it counts them.
    """
    with _strict_pillow():
        return [_decode_or_error(image, size, turner) for image in images]


def image_size(image: bytes | NDArray[np.uint8], *, exif: ExifRule = "stored") -> tuple[int, int]:
    """Return height and width in pixels, read from the header alone; a PNG that may be turned is read to its end.

    Raises:
        ReadError: as `decode_image`, as far as the header shows it.
    """
    if isinstance(image, np.ndarray):
        return _rgb_from_array(image).shape[:2]
    with _strict_pillow():
        opened = _open(image)
        try:
            return (opened.height, opened.width) if exif == "stored" else upright_size(opened)
        except Exception as error:
            raise _read_error(image, error) from error


def _decode_or_error(
    image: bytes | NDArray[np.uint8], size: tuple[int, int] | None, turner: Turner | None
) -> NDArray[np.uint8] | ReadError:
    try:
        return _decode(image, size, turner)
    except ReadError as error:
        return error


def _decode(image: bytes | NDArray[np.uint8], size: tuple[int, int] | None, turner: Turner | None) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        pixels = _rgb_from_array(image)
        return pixels if size in (None, pixels.shape[:2]) else _pixels(_resize(Image.fromarray(pixels), size))
    opened = _open(image)
    try:
        upright = opened if turner is None else turner(opened)
        return _pixels(_resize(_to_rgb(upright), size))
    except ReadError:
        raise
    except Exception as error:
        raise _read_error(image, error) from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return uint8 (H, W, 3), read-only: `np.array(image)` would copy them once more."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _open(data: bytes) -> Image.Image:
    try:
        opened = _open_usual(data) or Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise _read_error(data, error) from error
    limit = MAX_PIXELS // _COSTLY.get(opened.format or "", 1)
    if opened.width * opened.height > limit:
        raise _too_large(f"{opened.width} x {opened.height} pixels", limit)
    return opened


def _open_usual(data: bytes) -> Image.Image | None:
    """Return the image where it is a JPEG or PNG in order; what is not, `Image.open` has the word on."""
    for magic, open_file in _USUAL:
        if data.startswith(magic):
            try:
                return open_file(io.BytesIO(data))
            except Exception:
                return None
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow scales a PPM of more than 8 bits to 0..65535 and calls it "I".
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ReadError(
            "unsupported-mode",
            f"expected at most 16 bits a channel, got a {image.format} of mode {image.mode} whose white is not "
            "defined; store it as 8-bit PNG",
        )
    return image.convert("RGB")


def _resize(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if size is None or size == (image.height, image.width):
        return image
    height, width = size
    shrunk = (min(width, image.width), min(height, image.height))
    if shrunk != image.size:
        image = image.resize(shrunk, Image.Resampling.BOX)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _rgb_from_array(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ReadError(
            "undecodable",
            f"expected uint8 pixels (H, W) or (H, W, 1, 3 or 4), got {pixels.dtype} {pixels.shape}",
        )
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise _too_large(f"{pixels.shape[1]} x {pixels.shape[0]} pixels")
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.array(rgb, order="C")


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Hold Pillow to the rule above, whatever the process has set."""
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _read_error(data: bytes, error: Exception) -> ReadError:
    """Return what to say of whatever Pillow raises: OSError, SyntaxError, ValueError, struct.error, IndexError..."""
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return _too_large(str(error))
    if isinstance(error, MemoryError):
        return damage(error, "the image")
    return _undecodable(data, error)


def _undecodable(data: bytes, error: Exception) -> ReadError:
    if pointer := pointer_error(data, "an image"):
        return pointer
    if isinstance(error, UnidentifiedImageError):
        expected = f"expected an image ({', '.join(FORMATS)})"
        return ReadError("undecodable", f"{expected}, got {len(data)} bytes that begin with {data[:16]!r}")
    reason = "truncated" if "truncated" in str(error).lower() else "undecodable"
    return ReadError(reason, f"expected a whole image, got {len(data)} bytes: {type(error).__name__}: {error}")


def _too_large(what: str, limit: int = MAX_PIXELS) -> ReadError:
    return ReadError("too-large", f"expected at most {limit} pixels, got {what}; shrink it or leave it out")
