"""Images: cut, lying about their size, of formats that run programs, or no images at all."""

from __future__ import annotations

import gzip
import pickle
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from hostile_corpus.making import Case, case, encoded, members, png

PICTURE = Image.fromarray(np.random.default_rng(9).integers(0, 256, (40, 40, 3), np.uint8))
FORMATS: dict[str, bytes] = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "png": encoded(PICTURE),
    "webp": encoded(PICTURE, "WEBP", lossless=True),
    "bmp": encoded(PICTURE, "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "gif": encoded(PICTURE.quantize(256), "GIF"),
    "ppm": encoded(PICTURE, "PPM"),
}


class Canary:
    """Unpickled, it would leave its trace."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch canary",)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(%pipe%touch canary) (w) file
showpage
%%EOF
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, data: bytes, *extra: bytes, bits: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def jpeg_of_size(width: int, height: int) -> bytes:
    data = FORMATS["jpeg"]
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def bmp_of_size(width: int, height: int) -> bytes:
    data = FORMATS["bmp"]
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def webp_of_size() -> bytes:
    """VP8X says 16384 x 16384, three times the limit."""
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0\xff\x3f\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


SMALL = zlib.compress(bytes(100))
BOMBS = {
    "png-bomb": raw_png(30_000, 30_000, zlib.compress(bytes(1 << 20))),
    "png-of-two-billion-pixels": raw_png(2**31 - 1, 2**31 - 1, SMALL),
    "png-of-one-line": raw_png(2**31 - 1, 1, SMALL),
    "gif-bomb": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
    "jpeg-bomb": jpeg_of_size(65_500, 65_500),
    "bmp-bomb": bmp_of_size(60_000, 60_000),
    "bmp-of-negative-height": bmp_of_size(60_000, -60_000),
    "webp-bomb": webp_of_size(),
    "ppm-bomb": b"P6 60000 60000 255\n" + bytes(100),
    "tiff-bomb": tiff((256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8)),
}

BROKEN = {
    "empty": b"",
    "one-byte": b"\x89",
    "text": b"<html>404 Not Found</html>",
    "json": b'{"error": "gone"}',
    "zeros": bytes(1000),
    "eps": EPS,
    "eps-with-preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS,
    "postscript": b"%!PS\n(%pipe%touch canary) (w) file\n",
    "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(touch canary)>>>>endobj",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script><image href="file:///etc/passwd"/></svg>',
    "xml-entities": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
    "fits-in-gzip": b"SIMPLE  =                    T" + gzip.compress(bytes(1 << 20), mtime=0),
    "psd": b"8BPS\0\1" + bytes(100),
    "icns": b"icns" + bytes(100),
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "mpeg": b"\0\0\1\xb3" + bytes(100),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "ico": b"\0\0\1\0\1\0" + bytes(100),
    "pickle": pickle.dumps(Canary()),
    "torch-file": b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + pickle.dumps(Canary()),
    "shell-script": b"#!/bin/sh\ntouch canary\n",
    "elf": b"\x7fELF\2\1\1" + bytes(100),
    "numpy": b"\x93NUMPY\1\0",
    "png-of-no-pixels": raw_png(0, 0, SMALL),
    "png-without-data": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)),
    "png-bad-checksum": FORMATS["png"][:20] + b"\xff" + FORMATS["png"][21:],
    "png-bad-colour": raw_png(8, 8, SMALL, colour=5),
    "png-text-bomb": raw_png(8, 8, SMALL, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(80 << 20)))),
    "png-profile-bomb": raw_png(8, 8, SMALL, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(80 << 20)))),
    "png-too-few-lines": raw_png(8, 8, zlib.compress(bytes(30))),
    "gif-without-frame": b"GIF89a\x08\0\x08\0\0\0\0;",
    "tiff-that-follows-itself": tiff((256, 4, 1, 8), (257, 4, 1, 8), following=8),
    "tiff-directory-far-away": b"II*\0\xff\xff\xff\x7f",
    "tiff-endless-tag": tiff((256, 4, 2**31, 8), (257, 4, 1, 8)),
    "tiff-of-floats": encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
    "tiff-of-32-bits": encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"),
    "ppm-endless-comment": b"P6 #" + b"x" * 500_000,
    "ppm-endless-number": b"P6 " + b"9" * 500_000,
    "ppm-negative": b"P6 -8 -8 255\n" + bytes(192),
    "webp-of-nothing": b"RIFF\x04\0\0\0WEBP",
    "jpeg-markers-only": b"\xff\xd8" + b"\xff\xe1\0\x02" * 50_000,
    "jpeg-huge-exif": b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\xff\xff\xff\xff" + bytes(100),
    "jpeg-two-billion-scans": FORMATS["jpeg"][:-2] + b"\xff\xda\0\x08" * 1000,
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "annex-pointer": b"/annex/objects/MD5E-s12--0\n",
}
REASONS = {
    "lfs-pointer": "git-lfs-pointer",
    "annex-pointer": "git-annex-pointer",
    "tiff-of-floats": "unsupported-mode",
    "tiff-of-32-bits": "unsupported-mode",
}


def _cases() -> Iterator[Case]:
    for name, data in FORMATS.items():
        cut = data[: len(data) * 2 // 3]
        yield case(f"image-{name}-cut", members(("b.png", cut), ("b.cls", b"1")), "truncated", "undecodable")
        header = data[:12]
        yield case(f"image-{name}-header-only", members(("b.png", header), ("b.cls", b"1")), "truncated", "undecodable")
    for name, data in BOMBS.items():
        yield case(f"image-{name}", members(("b.png", data), ("b.cls", b"1")), "too-large", "undecodable", "truncated")
    for name, data in BROKEN.items():
        reasons = [REASONS[name]] if name in REASONS else ["undecodable", "truncated", "too-large"]
        yield case(f"image-{name}", members(("b.jpg", data), ("b.cls", b"1")), *reasons)
    assert png()  # a whole one reads


CASES = tuple(_cases())
