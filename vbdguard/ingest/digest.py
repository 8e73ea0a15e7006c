"""The identities that the guard trusts: of a sample, and of a data set.

Keys repeat and shards are renamed; content and label decide. Everything hashed is framed by a domain tag
and lengths, so that no two different things are ever the same bytes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from struct import pack

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

DIGEST_BYTES = 32

_SAMPLE_TAG = b"vbdguard sample 1\0"
_SKIPPED_TAG = b"vbdguard skipped 1\0"
_SEQUENCE_TAG = b"vbdguard sequence 1\0"
_DATASET_TAG = b"vbdguard dataset 1\0"
_TURNED_TAG = b"vbdguard dataset 1 turned\0"
_COPIED = 16 << 10


def sample_digest(image: bytes | NDArray[np.uint8], label: int | str) -> bytes:
    """Return the 32-byte BLAKE3 digest of an image and its label.

    The label is hashed as text, so the class number 3 and the class name "3" are one label.

    Args:
        image: an encoded file, or uint8 pixels of any shape (hashed with the shape).
        label: a class number or a class name.

    Raises:
        TypeError: if pixels are not uint8, or the label is neither a whole number nor text.
    """
    if not isinstance(image, np.ndarray):
        return file_digest(label_frame(label), image)
    if image.dtype != np.uint8:
        raise TypeError(f"expected uint8 pixels, got {image.dtype}")
    frame = label_frame(label) + pack(f"<cQ{image.ndim}Q", b"P", image.ndim, *image.shape)
    return blake3(frame).update(image.tobytes()).digest()


def label_frame(label: int | str) -> bytes:
    """Return what stands before the image in the content of a `sample_digest`.

    Raises:
        TypeError: if the label is neither a whole number nor text.
    """
    text = (label if isinstance(label, str) else str(operator.index(label))).encode("utf-8", "surrogatepass")
    return _SAMPLE_TAG + pack("<Q", len(text)) + text


def file_digest(frame: bytes, image: bytes) -> bytes:
    """Return the `sample_digest` of an encoded image whose label has the frame `label_frame(label)`."""
    start = frame + pack("<cQ", b"F", len(image))
    # Each sample of a training comes here: one call of the hash, as long as a copy costs less than two.
    return blake3(start + image).digest() if len(image) < _COPIED else blake3(start).update(image).digest()


def skipped_digest(reason: str, content: bytes) -> bytes:
    """Return a 32-byte identity of an entry whose image or label could not be read.

    Args:
        reason: the fixed word of the report, such as "no-label".
        content: what is known of it: the digest of the shard that holds it, else its key.
    """
    word = reason.encode()
    return blake3(_SKIPPED_TAG + pack("<QQ", len(word), len(content)) + word + content).digest()


def sequence_digest(parts: Iterable[bytes]) -> str:
    """Return the hex digest of byte strings in their order."""
    hasher = blake3(_SEQUENCE_TAG)
    for part in parts:
        hasher.update(pack("<Q", len(part)))
        hasher.update(part)
    return hasher.hexdigest()


def dataset_digest(digests: NDArray[np.uint8], skipped: Iterable[bytes] = (), *, is_turned: bool = False) -> str:
    """Return the hex digest of a data set, whatever the order of its samples and shards.

    Args:
        digests: uint8 (N, 32), `sample_digest` of every sample whose bytes and label were read, in any order.
            Samples that later turn out undecodable belong here too: the digest names the data, not the decoder.
        skipped: `skipped_digest` of every other entry, in any order.
        is_turned: whether an image among them is seen otherwise than it is stored, because its source turns images by
            their EXIF orientation. Where nothing was turned, both rules show the same data, under the same digest.

    Raises:
        ValueError: if `digests` is not (N, 32).
    """
    if digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
        raise ValueError(f"expected digests of shape (N, {DIGEST_BYTES}), got {digests.shape}")
    left_out = sorted(skipped)
    hasher = blake3((_TURNED_TAG if is_turned else _DATASET_TAG) + pack("<QQ", len(digests), len(left_out)))
    hasher.update(digests[digest_order(digests)].tobytes())
    hasher.update(b"".join(left_out))
    return hasher.hexdigest()


def digest_order(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the indices (N,) that sort digests (N, 32) as bytes; equal digests keep their order."""
    # Big-endian words compare as the bytes do. The first one tells all but equal digests apart, mostly.
    words = np.ascontiguousarray(digests).view(">u8").reshape(len(digests), DIGEST_BYTES // 8)
    first = words[:, 0].astype(np.uint64)
    order = np.argsort(first, kind="stable").astype(np.int64)
    is_tie = np.zeros(len(order) + 1, np.bool_)
    is_tie[1:-1] = first[order[1:]] == first[order[:-1]]
    tied = np.flatnonzero(is_tie[1:] | is_tie[:-1])
    among = order[tied]
    order[tied] = among[np.lexsort(words[among].T[::-1])]  # stable; takes its first key last
    return order
