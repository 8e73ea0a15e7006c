from __future__ import annotations

import pytest

from vbdguard.guards.glance import Glance
from vbdguard.guards.stream import identify
from vbdguard.ingest.digest import sample_digest


def raw(**fields: bytes) -> dict[str, object]:
    return {"__key__": "a", "__url__": "b.tar", **fields}


def test_the_second_sample_of_a_kind_is_told_at_a_glance() -> None:
    glance = Glance(None)
    first = raw(jpg=b"one", cls=b"3")
    assert glance.digest(first) is None
    glance.learn(first, identify(first, None))
    assert glance.digest(first) == sample_digest(b"one", 3)
    assert glance.digest(raw(jpg=b"two", cls=b"3")) == sample_digest(b"two", 3)


@pytest.mark.parametrize(
    "other",
    [
        raw(jpg=b"one", cls=b"4"),
        raw(png=b"one", cls=b"3"),
        raw(jpg=b"one", png=b"two", cls=b"3"),
        raw(jpg=b"one"),
        {**raw(cls=b"3"), "jpg": "one"},
        {**raw(jpg=b"one"), "cls": "3"},
        {**raw(jpg=b"one"), "cls": ["3"]},
    ],
)
def test_whatever_differs_in_kind_is_read_first(other: dict[str, object]) -> None:
    glance = Glance(None)
    first = raw(jpg=b"one", cls=b"3")
    glance.learn(first, identify(first, None))
    assert glance.digest(other) is None


def test_labels_in_json_are_read_each_time() -> None:
    glance = Glance(None)
    sample = raw(jpg=b"one", json=b'{"label": 3}')
    glance.learn(sample, identify(sample, None))
    assert glance.digest(sample) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbdguard.guards.glance._REMEMBERED", 5)
    glance = Glance(None)
    for label in range(9):
        sample = raw(jpg=b"one", cls=str(label).encode())
        glance.learn(sample, identify(sample, None))
    known = [glance.digest(raw(jpg=b"one", cls=str(label).encode())) is not None for label in range(9)]
    assert known == [True] * 5 + [False] * 4
