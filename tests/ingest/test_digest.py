"""Laws of the digests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vbdguard.ingest.digest import dataset_digest, digest_order, sample_digest, sequence_digest, skipped_digest

LABELS = st.integers(0, 2**40) | st.text(max_size=6)
SAMPLES = st.tuples(st.binary(max_size=20), LABELS)
DIGESTS = npst.arrays(np.uint8, st.tuples(st.integers(0, 8), st.just(32)))


@given(SAMPLES, SAMPLES)
@settings(max_examples=200)
def test_sample_digests_differ_where_image_or_label_do(
    one: tuple[bytes, int | str], two: tuple[bytes, int | str]
) -> None:
    is_same = one[0] == two[0] and str(one[1]) == str(two[1])
    assert (sample_digest(*one) == sample_digest(*two)) is is_same


def test_image_and_label_cannot_trade_bytes() -> None:
    assert sample_digest(b"ab", "c") != sample_digest(b"b", "ca")
    assert sample_digest(b"", "ab") != sample_digest(b"ab", "")


def test_number_and_text_of_a_label_are_one() -> None:
    assert sample_digest(b"x", 3) == sample_digest(b"x", "3") == sample_digest(b"x", np.int64(3))


def test_digest_is_stable_across_releases() -> None:
    # Stored reports and receipts hold these: a change here is a new domain tag, not a bug fix.
    assert sample_digest(b"image", 3).hex() == "75a8f0192aaea751dbe78ee7112285c5fbc22400b6712a51b11f24dceeaddf7a"
    assert (
        sample_digest(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "cat").hex()
        == "a1da691a4bbc07c40d70bb51290dddb1596ee6d20ec20ad7c80138dd3bc9bc1e"
    )
    assert (
        dataset_digest(np.zeros((2, 32), np.uint8), [bytes(32)])
        == "6478d39fb287dc24110827f8c4ed7b5d6589e22e0cbdf983c9fd38d57f6571c4"
    )


def test_array_digests_see_pixels_and_shape() -> None:
    flat = np.arange(12, dtype=np.uint8)
    shapes = [(2, 2, 3), (2, 6), (6, 2), (12, 1), (1, 12)]
    digests = {sample_digest(flat.reshape(shape), 0) for shape in shapes}
    assert len(digests) == len(shapes)
    assert sample_digest(flat.reshape(2, 6), 0) != sample_digest(flat.reshape(2, 6)[::-1], 0)
    assert sample_digest(flat.reshape(2, 6), 0) != sample_digest(flat.tobytes(), 0)


def test_array_digest_ignores_memory_layout() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert sample_digest(array.copy(order="F"), 0) == sample_digest(array, 0)
    assert sample_digest(np.repeat(array, 2, 1)[:, ::2], 0) == sample_digest(array, 0)


@pytest.mark.parametrize(("image", "label"), [(np.zeros((2, 2), np.float32), 0), (b"x", 1.0), (b"x", None)])
def test_what_has_no_digest_is_a_type_error(image: object, label: object) -> None:
    with pytest.raises(TypeError):
        sample_digest(image, label)  # type: ignore[arg-type]


@given(DIGESTS, st.lists(st.binary(min_size=32, max_size=32), max_size=4), st.randoms())
def test_dataset_digest_ignores_order(digests: np.ndarray, skipped: list[bytes], random: object) -> None:
    rows, left_out = list(range(len(digests))), list(skipped)
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(left_out)  # type: ignore[attr-defined]
    assert dataset_digest(digests[rows], left_out) == dataset_digest(digests, skipped)


@given(DIGESTS.filter(len), st.lists(st.binary(min_size=32, max_size=32), max_size=3))
def test_dataset_digest_sees_content_multiplicity_and_every_skip(digests: np.ndarray, skipped: list[bytes]) -> None:
    changed = digests.copy()
    changed[0, 31] ^= 1
    variants = [
        (digests, skipped),
        (changed, skipped),
        (digests[1:], skipped),
        (np.concatenate([digests, digests[:1]]), skipped),
        (digests, [*skipped, bytes(32)]),
        (digests, [*skipped, bytes(32), bytes(32)]),
        (digests[1:], [*skipped, digests[0].tobytes()]),
    ]
    assert len({dataset_digest(*variant) for variant in variants}) == len(variants)


def test_dataset_digest_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="32"):
        dataset_digest(np.zeros((3, 16), np.uint8))


@given(DIGESTS)
def test_order_is_that_of_the_bytes(digests: np.ndarray) -> None:
    rows = [row.tobytes() for row in digests]
    assert digest_order(digests).tolist() == sorted(range(len(rows)), key=rows.__getitem__)


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_sequence_digests_differ_where_the_parts_do(one: list[bytes], two: list[bytes]) -> None:
    assert (sequence_digest(one) == sequence_digest(two)) is (one == two)


def test_skipped_digests_see_reason_and_content() -> None:
    assert len({skipped_digest("ab", b"c"), skipped_digest("a", b"bc"), skipped_digest("ab", b"d")}) == 3
