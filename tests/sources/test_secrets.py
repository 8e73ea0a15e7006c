"""What is shown of a URL."""

from __future__ import annotations

import pytest

from vbdguard.sources.files import short_names
from vbdguard.sources.kinds import kind_by_name
from vbdguard.sources.secrets import shown_name, without_query, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/a.tar?X-Amz-Signature=5ecre7", "https://h/a.tar"),
        ("https://joe:5ecre7@h:8080/a.tar", "https://h:8080/a.tar"),
        ("https://joe:5ec@re7@h/a.tar#5ecre7", "https://h/a.tar"),
        ("HTTP://joe:5ecre7@h/a.tar", "HTTP://h/a.tar"),
        ("message='x', url='https://h/a.tar?sig=5ecre7', more", "message='x', url='https://h/a.tar', more"),
        ("https://h/a.tar?s=5ecre7::https://h/b.tar?s=5ecre7", "https://h/a.tar"),
        ("cannot open https://h/o'brien/a.tar?sig='5ecre7: no", "cannot open https://h/o'brien/a.tar no"),
        ("s3://bucket/what?.tar", "s3://bucket/what?.tar"),
        ("a folder/x.tar", "a folder/x.tar"),
    ],
)
def test_passwords_and_queries_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert "5ecre7" not in without_secrets(text)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("https://h/o'brien/train.tar?sig=5ecre7", "https://h/o'brien/train.tar"),
        ('https://h/a"b.tar?sig="5ecre7"', 'https://h/a"b.tar'),
        ("https://joe:5ec're7@h/a.tar", "https://h/a.tar"),
        ("https://joe:5ec/re7@h/a.tar", "https://h/a.tar"),
        ("https://h:8080/set@2/a.tar", "https://h:8080/set@2/a.tar"),
        ("https://[::1]:8080/a@b.tar?sig=5ecre7", "https://[::1]:8080/a@b.tar"),
        ("pipe:curl https://h/a.tar?sig=5ecre7", "pipe:curl https://h/a.tar"),
    ],
)
def test_names_of_the_user_are_shown_without_secrets_whatever_they_hold(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_the_kind_of_a_signed_url_is_told_by_its_path() -> None:
    assert kind_by_name("https://h/a.tar?sig=x.parquet") == "tar"
    assert without_query("s3://b/a?.tar") == "s3://b/a?.tar"


def test_shards_behind_signed_urls_have_names_without_signatures() -> None:
    signed = [f"https://h/set/{name}?sig=5ecre7{name}" for name in ("a.tar", "b.tar")]
    assert short_names(signed) == ["a.tar", "b.tar"]
    assert short_names(["https://h/x/a.tar?s=5", "https://h/y/a.tar?s=6"]) == ["x/a.tar", "y/a.tar"]


def test_files_that_only_the_query_tells_apart_keep_names_of_their_own() -> None:
    one, two = short_names(["https://h/get.tar?id=5ecre7", "https://h/get.tar?id=2"])
    assert one.startswith("get.tar#")
    assert two.startswith("get.tar#")
    assert one != two
    assert "5ecre7" not in one
