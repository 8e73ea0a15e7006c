from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from vbdguard.by_shard import flagged_per_place, flagged_places, is_url, place_of, place_path
from vbdguard.report import ScanReport

MakeData = Callable[..., ScanReport]
FLAGGED = ("train-000000.tar/s01", "train-000002.tar/s09", "train-000002.tar/s11")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("a.tar/img_1", "a.tar"),
        ("a.tar/deep/img_1", "a.tar"),
        ("x/a.tar/img_1", "x/a.tar"),
        ("cat/1.jpg", "cat"),
        ("cat/deep/1.jpg", "cat/deep"),
        ("b.tar", "."),
        ("/a", "/"),
        ("17", "."),
        ("", "."),
    ],
)
def test_a_sample_lies_in_the_shard_that_its_key_begins_with_or_in_its_folder(key: str, place: str) -> None:
    assert place_of(key, {"a.tar", "x/a.tar", "x"}) == place


def test_places_hold_every_flagged_sample_once_the_surest_first(known_data: MakeData) -> None:
    report = known_data(flagged=dict.fromkeys(FLAGGED))
    flagged = tuple(replace(one, score=n / 10) for n, one in enumerate(report.flagged))
    first, second = flagged_places(replace(report, flagged=flagged))
    assert (first.label, first.place, [one.key for one in first.samples]) == (1, "train-000000.tar", [FLAGGED[0]])
    assert (second.label, second.place) == (1, "train-000002.tar")
    assert [one.key for one in second.samples] == [FLAGGED[2], FLAGGED[1]]


def test_places_are_counted_the_fullest_first(known_data: MakeData) -> None:
    report = known_data(flagged=dict.fromkeys(FLAGGED))
    assert list(flagged_per_place(report).items()) == [("train-000002.tar", 2), ("train-000000.tar", 1)]


@pytest.mark.parametrize(
    ("sources", "place", "path"),
    [
        (("shards/",), "a.tar", "shards/a.tar"),
        (("shards",), "a.tar", "shards/a.tar"),
        (("/",), "a.tar", "/a.tar"),
        (("shards/{0..9}.tar",), "3.tar", "shards/3.tar"),
        (("*.tar",), "3.tar", "3.tar"),
        (("x/a.tar", "y/b.tar"), "b.tar", "y/b.tar"),
        (("x/a.tar", "x/b.tar"), "b.tar", "x/b.tar"),
        (("x/a.tar", "y/a.tar"), "y/a.tar", "y/a.tar"),
        (("/d/x/a.tar", "/d/y/a.tar"), "y/a.tar", "/d/y/a.tar"),
        (("x/", "y/"), "b.tar", "b.tar"),
        (("/d/cat",), "cat", "/d/cat/cat"),
        (("images/",), "cat", "images/cat"),
        (("images/",), ".", "images"),
        (("s3://bucket/x/*.tar",), "a.tar", "s3://bucket/x/a.tar"),
        ((), "a.tar", "a.tar"),
    ],
)
def test_a_place_is_put_below_what_the_user_named(
    sources: tuple[str, ...], place: str, path: str, known_data: MakeData
) -> None:
    report = known_data(flagged=dict.fromkeys(FLAGGED))
    assert place_path(replace(report, dataset=replace(report.dataset, sources=sources)), place) == path


def test_a_url_is_told_from_a_path() -> None:
    assert is_url("s3://bucket/a")
    assert is_url("https://x.example/a")
    assert not is_url("a:b/c")
    assert not is_url("/a//b")
